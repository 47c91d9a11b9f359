"""First half of the stage: sources are cut into blocks, and each block is read and cleaned by one task.

A block is a run of parts of one source, so small parts (a package, a topic) share a task. Its file in the draft is
named by the source and the parts, and complete or absent: a run that goes on reads only the blocks that are missing.
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
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq

from cluster.resources import cores
from pipelines.data.corpus import cleaning
from pipelines.data.corpus.documents import REJECTED
from pipelines.data.corpus.filters import Filter
from pipelines.data.sources.bad_rows import BadRowLimit
from pipelines.data.sources.source import Part, Source
from pipelines.stage import Work
from pipelines.stages.corpus.parallel import in_order

COUNTS = b"rayse.counts"  # the key of a block's counts in its file's metadata


@dataclass(frozen=True)
class Block:
    """Consecutive parts of one source."""

    source: str
    parts: tuple[Part, ...]
    folder: Path

    @property
    def file(self) -> Path:
        """Its documents, with the counts in the file's metadata. Written last."""
        first, last = self.parts[0].index, self.parts[-1].index
        return self.folder / f"{quote(self.source, safe='')}.{first:06}-{last:06}.parquet"

    @property
    def rejected(self) -> Path:
        """Its bad rows."""
        return self.file.with_suffix(".rejected.parquet")

    def counts(self) -> Counter[str]:
        """What was counted when it was read."""
        return Counter(json.loads(pq.read_metadata(self.file).metadata[COUNTS]))


@dataclass(frozen=True)
class Read:
    """All blocks, read."""

    blocks: list[Block]
    counts: Counter[str]
    documents_per_s: float | None  # of this attempt; None if it had nothing left to read


def read(work: Work) -> Read:
    """Reads and cleans what the draft does not hold yet.

    Raises UserError for a source that cannot be read, or for more bad rows than the recipe allows."""
    blocks = plan(work.sources, work.draft.folder("blocks"), work.options.block_bytes)
    missing = [block for block in blocks if not block.file.exists()]
    counts: Counter[str] = Counter()
    bad = BadRowLimit(work.options.max_bad_rows)
    for block in blocks:
        if block not in missing:
            counts.update(block.counts())
            bad.add(block.counts()["rows/bad"], _first_bad(block))
    before, began = counts["documents/read"], time.monotonic()
    for done, (block, result) in enumerate(_cleaned(work, missing), start=len(blocks) - len(missing) + 1):
        bad.add(*result)
        counts.update(block.counts())
        work.progress.update(done, len(blocks), "blocks", documents=counts["documents/read"])
    took_s = time.monotonic() - began
    return Read(blocks, counts, (counts["documents/read"] - before) / took_s if missing else None)


def plan(sources: Mapping[str, Source], folder: Path, block_bytes: int) -> list[Block]:
    """Blocks in the order of (source's name, part). Raises UserError for a source that is missing or empty."""
    blocks: list[Block] = []
    for name in sorted(sources):  # the order in the recipe is no part of a fingerprint
        parts: list[Part] = []
        for part in sources[name].parts():
            if parts and sum(p.bytes for p in parts) + part.bytes > block_bytes:
                blocks.append(Block(name, tuple(parts), folder))
                parts = []
            parts.append(part)
        if parts:
            blocks.append(Block(name, tuple(parts), folder))
    return blocks


def _cleaned(work: Work, missing: list[Block]) -> Iterator[tuple[Block, tuple[int, str]]]:
    """Cleans blocks on the cluster and gives each, with its bad rows, as it becomes ready, in order."""
    if not missing:
        return
    work.session.start()
    cleaning.warm_up()
    items = []
    for block in missing:
        parts = json.dumps([part.model_dump() for part in block.parts])
        items.append({"source": block.source, "parts": parts, "folder": str(block.folder)})
    results = in_order(
        clean_block,
        items,
        tasks=at_once(work),
        cpus_per_task=work.cluster.cpus_per_task,
        sources=dict(work.sources),
        filters=work.options.filters.enabled(),
        permutations=work.options.permutations,
        max_bad_rows=work.options.max_bad_rows,
    )
    yield from zip(missing, results, strict=True)


def clean_block(
    item: dict[str, str],
    *,
    sources: Mapping[str, Source],
    filters: list[Filter],
    permutations: int,
    max_bad_rows: int,
) -> tuple[int, str]:
    """Reads and cleans one block into its files; a task, so all it needs is in its arguments.

    Returns (number of bad rows, file:line: problem of the first). With too many of them no file is left."""
    parts = tuple(Part.model_validate(part) for part in json.loads(item["parts"]))
    block = Block(item["source"], parts, Path(item["folder"]))
    counts: Counter[str] = Counter()
    first_bad = ""
    with Publication(block.rejected) as rejected, Publication(block.file) as documents:
        with (
            pq.ParquetWriter(rejected.temporary, REJECTED, compression="zstd") as bad_rows,
            pq.ParquetWriter(documents.temporary, cleaning.schema(permutations), compression="zstd") as kept,
        ):
            source = sources[block.source]
            for batch in cleaning.clean(block.source, source, parts, filters=filters, permutations=permutations):
                kept.write_table(batch.documents)
                bad_rows.write_table(batch.rejected)
                counts.update(batch.counts)
                first_bad = first_bad or _told(batch.rejected)
                if counts["rows/bad"] > max_bad_rows:  # the run will stop: the rest need not be read
                    return counts["rows/bad"], first_bad
            kept.add_key_value_metadata({COUNTS: json.dumps(counts)})
        rejected.publish()
        documents.publish()
    return counts["rows/bad"], first_bad


@dataclass
class Publication:
    """A file written under another name, then put in its place as a whole; gone if that never happens."""

    place: Path

    def __enter__(self) -> Publication:
        self.temporary = self.place.with_name(f".{uuid.uuid4().hex}")
        return self

    def publish(self) -> None:
        handle = os.open(self.temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(self.temporary, self.place)

    def __exit__(self, *exception: object) -> None:
        self.temporary.unlink(missing_ok=True)


def at_once(work: Work) -> int | None:
    """Tasks at once: on a machine of one's own as many as it has cores, for a local Ray has more logical CPUs."""
    if work.cluster.tasks or not work.session.local:
        return work.cluster.tasks
    return cores()


def _first_bad(block: Block) -> str:
    return _told(pq.read_table(block.rejected))


def _told(rejected: Any) -> str:
    """file:line: problem of the first of a table of bad rows; nothing if there is none."""
    if not rejected.num_rows:
        return ""
    row = rejected.slice(0, 1).to_pylist()[0]
    return f"{row['where']}:{row['row']}: {row['problem']}"
