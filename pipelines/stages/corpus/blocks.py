"""First half of the stage: sources are divided into blocks, and each block is read and cleaned by one task.

A block is a run of parts of one source, so that one task reads several small parts (packages, topics). Its file in the
draft is named by the source and the parts, and complete or absent: a resumed run reads only the missing blocks.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.blocks import COUNTS, AtomicFile, Block, plan
from pipelines.data.corpus import cleaning
from pipelines.data.corpus.documents import REJECTED
from pipelines.data.corpus.rules import Rules
from pipelines.data.sources.bad_rows import UNREADABLE, BadRowLimit
from pipelines.data.sources.source import Part, Source
from pipelines.parallel import map_in_order, num_parallel_tasks
from pipelines.stage import Work


@dataclass(frozen=True)
class CleanedBlocks:
    """All blocks, cleaned, with their counts."""

    blocks: list[Block]
    counts: Counter[str]
    documents_per_s: float | None  # of this attempt; None if all blocks were already in the draft


def read(work: Work) -> CleanedBlocks:
    """Reads and cleans the blocks that are not in the draft yet.

    Raises UserError for a source that cannot be read, or for more bad rows than the recipe allows."""
    blocks = plan(work.sources, work.draft.folder("blocks"), work.options.block_bytes)
    missing = [block for block in blocks if not block.file.exists()]
    counts: Counter[str] = Counter()
    bad_rows = BadRowLimit(work.options.max_bad_rows, work.name)
    for block in blocks:
        if block not in missing:
            counts.update(block.counts())
            first = _first_problem(pq.read_table(block.rejected))
            bad_rows.add(block.source, rows=_num_rows(block.counts()), bad=block.counts()["rows/bad"], first=first)
    documents_before, start = counts["documents/read"], time.monotonic()
    cleaned = _clean_blocks(work, missing, bad_rows.max_rows)
    for done, (block, (num_rows, num_bad, first)) in enumerate(cleaned, start=len(blocks) - len(missing) + 1):
        bad_rows.add(block.source, rows=num_rows, bad=num_bad, first=first)
        counts.update(block.counts())
        work.progress.update(done, len(blocks), "blocks", documents=counts["documents/read"])
    bad_rows.check()
    elapsed_s = time.monotonic() - start
    num_documents = counts["documents/read"] - documents_before
    return CleanedBlocks(blocks, counts, num_documents / elapsed_s if missing else None)


def _clean_blocks(
    work: Work, missing: list[Block], max_bad_rows: int | None
) -> Iterator[tuple[Block, tuple[int, int, str]]]:
    """Cleans blocks on the cluster; yields each, in order, with the result of `clean_block` as soon as it is ready."""
    if not missing:
        return
    work.session.start()
    cleaning.warm_up()
    items = []
    for block in missing:
        parts = json.dumps([part.model_dump() for part in block.parts])
        items.append({"source": block.source, "parts": parts, "folder": str(block.folder)})
    results = map_in_order(
        clean_block,
        items,
        tasks=num_parallel_tasks(work),
        cpus_per_task=work.cluster.cpus_per_task,
        sources=dict(work.sources),
        rules={name: work.options.rules(source, work.seed) for name, source in work.sources.items()},
        permutations=work.options.permutations,
        max_bad_rows=max_bad_rows,
    )
    yield from zip(missing, results, strict=True)


def clean_block(
    item: dict[str, str],
    *,
    sources: Mapping[str, Source],
    rules: Mapping[str, Rules],
    permutations: int,
    max_bad_rows: int | None,
) -> tuple[int, int, str]:
    """Reads and cleans one block into its files. Runs in a task, so all its inputs are arguments.

    Returns (number of rows, of bad ones, file:line: problem of the first). Writes no file if too many are bad."""
    parts = tuple(Part.model_validate(part) for part in json.loads(item["parts"]))
    block = Block(item["source"], parts, Path(item["folder"]))
    counts: Counter[str] = Counter()
    first_bad = ""
    with AtomicFile(block.rejected) as rejected, AtomicFile(block.file) as documents:
        with (
            pq.ParquetWriter(rejected.temporary, REJECTED, compression="zstd") as rejected_writer,
            pq.ParquetWriter(documents.temporary, cleaning.schema(permutations), compression="zstd") as writer,
        ):
            source = sources[block.source]
            for batch in cleaning.clean(
                block.source, source, parts, rules=rules[block.source], permutations=permutations
            ):
                writer.write_table(batch.documents)
                rejected_writer.write_table(batch.rejected)
                counts.update(batch.counts)
                first_bad = first_bad or _first_problem(batch.rejected)
                if max_bad_rows is not None and counts["rows/bad"] > max_bad_rows:
                    return _num_rows(counts), counts["rows/bad"], first_bad  # the run will stop: no need to go on
            writer.add_key_value_metadata({COUNTS: json.dumps(counts)})
        rejected.publish()
        documents.publish()
    return _num_rows(counts), counts["rows/bad"], first_bad


def _num_rows(counts: Counter[str]) -> int:
    return counts["documents/read"] + counts["rows/bad"]


def _first_problem(rejected: pa.Table) -> str:
    """Returns "file:line: problem" of the first bad row in a table of REJECTED, "" if it has none."""
    for row in rejected.filter(pc.field("reason") == UNREADABLE).slice(0, 1).to_pylist():
        return f"{row['where']}:{row['row']}: {row['problem']}"
    return ""
