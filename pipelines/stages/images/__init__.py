"""Makes a corpus with images of image-text pairs: checked, compared, resampled, split, and copies augmented.

    sources ──parts──► blocks ──Ray Data: check, hash, resample, denoise──► draft/blocks/*.parquet
    hashes of all blocks ──duplicates──► held-out split ──Ray Data: augment──► out/train, out/held_out

The result is laid out as a corpus, with columns for the image beside the text: a stage after it that reads a corpus
reads the captions. Blocks and finished files survive a kill. No images pass through the driver.
"""

from __future__ import annotations

from pipelines.stage import Facts, Stage, Work
from pipelines.stages.images.options import ImagesCluster, ImagesOptions


def run(work: Work) -> Facts:
    """Writes the images into work.draft.out. Raises UserError for sources that cannot be read, or too many bad rows."""
    from pipelines.stages.images import blocks, finish

    return finish.finish(work, blocks.read(work))


STAGE = Stage(
    kind="images",
    version=6,
    makes="images",
    options=ImagesOptions,
    cluster=ImagesCluster,
    run=run,
    rows="images",
)
