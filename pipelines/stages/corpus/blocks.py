"""First half of the stage: sources are divided into blocks, and each block is read and cleaned by one task.

A block is a run of parts of one source, so that one task reads several small parts (packages, topics). Its file in the
draft is named by the source and the parts, and complete or absent: a resumed run reads only the missing blocks.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.resources import cores
from pipelines.data.corpus import cleaning
from pipelines.data.corpus.documents import REJECTED
from pipelines.data.corpus.filters import Filter
from pipelines.data.sources.bad_rows import UNREADABLE, BadRowLimit
from pipelines.data.sources.source import Part, Source
from pipelines.stage import Work
from pipelines.stages.corpus.parallel import map_in_order

COUNTS = b"rayse.counts"  # the key of a block's counts in its file's metadata


@dataclass(frozen=True)
class Block:
    """Consecutive parts of one source."""

    source: str
    parts: tuple[Part, ...]
    folder: Path

    @property
    def file(self) -> Path:
        """The file of its documents, with the counts in its metadata. Written last."""
        first, last = self.parts[0].index, self.parts[-1].index
        return self.folder / f"{quote(self.source, safe='')}.{first:06}-{last:06}.parquet"

    @property
    def rejected(self) -> Path:
        """The file of its bad rows and dropped documents."""
        return self.file.with_suffix(".rejected.parquet")

    def counts(self) -> Counter[str]:
        """The counts of its cleaning: documents read and dropped, bad rows."""
        return Counter(json.loads(pq.read_metadata(self.file).metadata[COUNTS]))


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


def plan(sources: Mapping[str, Source], folder: Path, block_bytes: int) -> list[Block]:
    """Divides sources into blocks, in the order of (source's name, part).

    Raises UserError for a source that is missing or empty."""
    blocks: list[Block] = []
    for name in sorted(sources):  # the order in the recipe is not part of a fingerprint
        parts: list[Part] = []
        for part in sources[name].parts():
            if parts and sum(earlier.bytes for earlier in parts) + part.bytes > block_bytes:
                blocks.append(Block(name, tuple(parts), folder))
                parts = []
            parts.append(part)
        if parts:
            blocks.append(Block(name, tuple(parts), folder))
    return blocks


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
        filters=work.options.filters.enabled(),
        permutations=work.options.permutations,
        split_words=work.options.filters.split_words,
        max_bad_rows=max_bad_rows,
    )
    yield from zip(missing, results, strict=True)


def clean_block(
    item: dict[str, str],
    *,
    sources: Mapping[str, Source],
    filters: list[Filter],
    permutations: int,
    split_words: int | None,
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
                block.source, source, parts, filters=filters, permutations=permutations, split_words=split_words
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


@dataclass
class AtomicFile:
    """A file written under a temporary name, then moved to its path by `publish`; deleted if not published."""

    path: Path

    def __enter__(self) -> AtomicFile:
        self.temporary = self.path.with_name(f".{uuid.uuid4().hex}")
        return self

    def publish(self) -> None:
        handle = os.open(self.temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(self.temporary, self.path)

    def __exit__(self, *exception: object) -> None:
        self.temporary.unlink(missing_ok=True)


def num_parallel_tasks(work: Work) -> int | None:
    """Returns the recipe's `tasks`, or this machine's cores on a local Ray, which has more logical CPUs than cores.

    None leaves it to Ray."""
    if work.cluster.tasks or not work.session.local:
        return work.cluster.tasks
    return cores()


def _first_problem(rejected: pa.Table) -> str:
    """Returns "file:line: problem" of the first bad row in a table of REJECTED, "" if it has none."""
    for row in rejected.filter(pc.field("reason") == UNREADABLE).slice(0, 1).to_pylist():
        return f"{row['where']}:{row['row']}: {row['problem']}"
    return ""
