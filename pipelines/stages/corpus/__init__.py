"""Makes a corpus of raw text: read, cleaned, deduplicated, split.

    sources ──parts──► blocks ──Ray Data: read, normalise, filter, sign──► draft/blocks/*.parquet
    signatures of all blocks ──exact and fuzzy dedup──► held-out split ──► out/train, out/held_out, out/rejected

Blocks survive a kill and are not read again. Files are named by number and written in the order of (source, part,
row), so two runs write the same bytes, whatever the number of workers. No texts except held-out ones pass through the
driver; keys and signatures do (532 bytes per document).
"""

from __future__ import annotations

from pipelines.stage import Facts, Stage, Work
from pipelines.stages.corpus.options import CorpusCluster, CorpusOptions


def run(work: Work) -> Facts:
    """Writes the corpus into work.draft.out. Raises UserError for sources that cannot be read, or too many bad rows."""
    from pipelines.stages.corpus import blocks, finish

    return finish.finish(work, blocks.read(work))


STAGE = Stage(
    kind="corpus",
    version=3,
    makes="corpus",
    options=CorpusOptions,
    cluster=CorpusCluster,
    run=run,
    rows="text",
)
