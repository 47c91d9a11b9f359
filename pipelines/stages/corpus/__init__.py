"""Makes a corpus of raw text: read, cleaned, deduplicated, split.

    large compressed files ──decompress──► draft/unpacked.partial/*                        one task each
    evaluation sets ──► draft/checks/*: what documents are checked for (checks.py)       one task each
    sources ──parts──► blocks ──read, normalise, filter, check, mark──► draft/blocks/*   one task a block
    (blocks ──hashes of lines──► lines of many groups ──cut──► draft/cut/*               an option: max_line_groups)
    marks, dealt by hash ──compare──► pairs of duplicates ──► documents to drop            one a bucket, then one
    groups ──choose──► held-out text ──compare with training text──► overlaps              one a span of blocks
    blocks ──► out/train/part-*.parquet, out/held_out/part-*.parquet, out/rejected.parquet one a file

All between the steps is files in the draft, each complete or absent: a run that was killed makes those that are
missing. Files are named by number and written in the order of (source, part, row), so two runs write the same bytes,
whatever the number of workers. The driver has the names of files and counts: no texts, signatures or lists of
documents, so its memory does not depend on the corpus.
"""

from __future__ import annotations

from pipelines.stage import Facts, Stage, Work
from pipelines.stages.corpus.options import CorpusCluster, CorpusOptions, needs_for, references


def run(work: Work) -> Facts:
    """Writes the corpus into work.draft.out. Raises UserError for sources that cannot be read, or too many bad rows."""
    from pipelines.stages.corpus import blocks, boilerplate, finish, unpacking

    work = unpacking.unpacked(work)
    return finish.finish(work, boilerplate.cut(work, blocks.read(work)))


STAGE = Stage(
    kind="corpus",
    version=11,
    makes="corpus",
    options=CorpusOptions,
    cluster=CorpusCluster,
    run=run,
    rows="text",
    needs_for=needs_for,
    references=references,
)
