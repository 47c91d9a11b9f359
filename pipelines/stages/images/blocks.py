"""First half of the stage: each block of the sources is read by one task, which checks and prepares its images."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipelines.blocks import COUNTS, AtomicFile, Block, plan, remove_unpublished, unpack
from pipelines.data.corpus.documents import REJECTED as REJECTED_COLUMNS
from pipelines.data.corpus.documents import utf8_bytes
from pipelines.data.images import transforms
from pipelines.data.images.documents import IMAGE_DOCUMENTS
from pipelines.data.images.pictures import Preparation, prepare
from pipelines.data.images.quality import Limits
from pipelines.data.sources.bad_rows import REJECTED, UNREADABLE, BadRowLimit, Problem, RejectedRows, row_language
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.data.text.languages import LANGUAGES, language_name
from pipelines.data.text.normalise import normalise
from pipelines.parallel import map_in_order, num_parallel_tasks
from pipelines.stage import Work
from pipelines.stages.images.options import ImagesOptions

DENOISE = {"none": None, "median": transforms.median, "bilateral": transforms.bilateral}
WRITE_BYTES = 64 << 20  # of images: held in memory until they are written together
BLOCK = pa.schema(
    [
        *IMAGE_DOCUMENTS,
        ("where", pa.string()),
        ("row", pa.int64()),
        ("key", pa.binary(16)),  # of the file: equal for equal files
        ("original_pixels", pa.int64()),
        ("text_bytes", pa.int64()),
        ("image_bytes", pa.int64()),
        ("changes", pa.list_(pa.string())),  # of the file: resampled, converted, …
    ]
)
SET_ASIDE = pa.schema([*REJECTED_COLUMNS, ("by_rule", pa.bool_())])


@dataclass(frozen=True)
class ReadBlocks:
    """All blocks, with their counts and the rows that are not used so far."""

    blocks: list[Block]
    rejected: RejectedRows
    rows_per_s: float | None  # of this attempt; None if all blocks were already in the draft


def read(work: Work) -> ReadBlocks:
    """Reads the blocks that are not in the draft yet.

    Raises UserError for a source that cannot be read, or for more bad rows than the recipe allows."""
    folder = work.draft.folder("blocks")
    remove_unpublished(folder)
    blocks = plan(work.sources, folder, work.options.block_bytes)
    missing = [block for block in blocks if not block.file.exists()]
    files = {block.file for block in missing}  # blocks themselves are compared part by part
    rejected = RejectedRows(work.draft.out / REJECTED, BadRowLimit(work.options.max_bad_rows, work.name))
    results, rows_read, start = _read_blocks(work, missing), 0, time.monotonic()
    for done, block in enumerate(blocks, 1):
        if block.file in files:
            rows_read += next(results)
        rejected.limit.add(block.source, rows=block.counts()["rows/read"])
        for row in pq.read_table(block.rejected).to_pylist():
            part = Part(index=0, where=row["where"], group="")
            rejected.add(
                block.source, part, row["row"], row["reason"], row["problem"], row["raw"], by_rule=row["by_rule"]
            )
        work.progress.update(done, len(blocks), "blocks", images=rejected.limit.num_rows.total())
    rejected.check()
    elapsed_s = time.monotonic() - start
    return ReadBlocks(blocks, rejected, rows_read / elapsed_s if missing else None)


def preparation(options: ImagesOptions) -> Preparation:
    """What the options say is done to every image."""
    limits = Limits(options.min_side, options.max_aspect_ratio, options.max_pixels)
    return Preparation(limits, options.max_side, DENOISE[options.denoise])


def _read_blocks(work: Work, missing: list[Block]) -> Iterator[int]:
    """Reads blocks on the cluster; yields the number of rows of each, in order, as soon as its files are complete."""
    if not missing:
        return
    work.session.start()
    items = []
    for block in missing:
        items.append({"source": block.source, "parts": block.packed, "folder": str(block.folder)})
    yield from map_in_order(
        read_block,
        items,
        tasks=num_parallel_tasks(work),
        cpus_per_task=work.cluster.cpus_per_task,
        sources=dict(work.sources),
        how=preparation(work.options),
    )


def read_block(item: dict[str, Any], *, sources: Mapping[str, Source], how: Preparation) -> int:
    """Reads and prepares one block into its files; returns its number of rows. Runs in a task."""
    parts = unpack(item["parts"])
    block = Block.of(item["source"], parts, Path(item["folder"]))
    source = sources[block.source]
    counts: Counter[str] = Counter()
    documents: list[dict[str, Any]] = []
    set_aside: list[dict[str, Any]] = []
    num_bytes = 0
    with AtomicFile(block.rejected) as rejected, AtomicFile(block.file) as file:
        with pq.ParquetWriter(file.temporary, BLOCK, compression="zstd") as writer:
            for part in parts:
                for row in source.read(part):
                    counts["rows/read"] += 1
                    document = image_document(block.source, source, part, row, how)
                    if isinstance(document, Problem):
                        set_aside.append(_set_aside(block.source, part, row, document))
                        continue
                    documents.append(document)
                    num_bytes += document["image_bytes"]
                    if num_bytes > WRITE_BYTES:
                        writer.write_table(pa.Table.from_pylist(documents, BLOCK))
                        documents, num_bytes = [], 0
            writer.write_table(pa.Table.from_pylist(documents, BLOCK))
            writer.add_key_value_metadata({COUNTS: json.dumps(counts)})
        pq.write_table(pa.Table.from_pylist(set_aside, SET_ASIDE), rejected.temporary, compression="zstd")
        rejected.publish()
        file.publish()
    return counts["rows/read"]


def image_document(
    name: str, source: Source, part: Part, row: Row | BadRow, how: Preparation
) -> dict[str, Any] | Problem:
    """A row of BLOCK; or why the row is not used."""
    if isinstance(row, BadRow):
        return Problem(UNREADABLE, row.problem)
    assert row.record is not None, "a source of images gives the image in the record"
    data, text = row.record["image"], normalise(row.text)
    if not text:
        columns = ", ".join(sorted(row.meta.keys() - {"file"}))
        others = f" (columns here: {columns}; name that of the caption with text:)" if columns else ""
        expected = "a text beside the image, or a column with it in its record or metadata file"
        return Problem("no_caption", f"{row.meta['file']}: no caption; expected {expected}{others}")
    language = row.language or row_language(text, source.language)
    if language not in LANGUAGES:
        problem = f"{row.meta['file']}: its caption is in {language_name(language)}; expected English or Chinese"
        return Problem("language", problem, by_rule=True)
    picture = prepare(data, how)
    if isinstance(picture, Problem):
        return Problem(picture.reason, f"{row.meta['file']}: {picture.text}", picture.by_rule)
    return {
        "id": f"{name}/{part.index}/{row.row}",
        "source": name,
        "group": row.group or part.group,
        "language": language,
        "text": text,
        "meta": list(row.meta.items()),
        "image": picture.data,
        "width": picture.width,
        "height": picture.height,
        "phash": picture.phash,
        "augmented_from": None,
        "where": part.where,
        "row": row.row,
        "key": xxhash.xxh3_128_digest(data),
        "original_pixels": picture.original_pixels,
        "text_bytes": utf8_bytes(text),
        "image_bytes": len(picture.data),
        "changes": list(picture.changes),
    }


def _set_aside(name: str, part: Part, row: Row | BadRow, problem: Problem) -> dict[str, Any]:
    raw = row.raw if isinstance(row, BadRow) else row.text
    return {"source": name, "where": part.where, "row": row.row, "problem": problem.text, "raw": raw,
            "reason": problem.reason, "by_rule": problem.by_rule}  # fmt: skip
