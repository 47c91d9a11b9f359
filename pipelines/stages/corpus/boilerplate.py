"""Between cleaning and deduplication, if the recipe asks for it: cuts lines and paragraphs that many groups have.

    blocks ──one task a block──► lines/<block>.arrow: hashes of lines and paragraphs, with those of their groups
    those, dealt by hash ──one task a bucket──► lines/<bucket>.repeated.arrow: hashes that more groups have than allowed
    blocks ──one task a block──► cut/*: the files of each block again, without these lines

So documents are compared by what is left of them. The repeated hashes are memory-mapped, and a bucket has its share of
the marks alone (16 bytes for each line and group), so memory does not grow with the corpus.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.blocks import COUNTS, counts_of, map_arrow, write_arrow
from pipelines.data.corpus import boilerplate, cleaning, duplicates, splitting
from pipelines.data.corpus.documents import DOCUMENTS, rejected_rows
from pipelines.parallel import make_files
from pipelines.stage import Work
from pipelines.stages.corpus.blocks import FIRST_BAD, CleanedBlocks, write_block

REASON = "boilerplate"
PROBLEM = "all its lines stand in documents of many other groups"
DROPPED, LINES = f"{cleaning.DROPPED}{REASON}", f"lines/dropped_{REASON}"
REPEATED = pa.schema([("hash", pa.uint64())])


def cut(work: Work, cleaned: CleanedBlocks) -> CleanedBlocks:
    """Returns the blocks without the lines that more than `max_line_groups` groups have; as they are by default."""
    max_groups = work.options.max_line_groups
    if max_groups is None:
        return cleaned
    lines, folder = work.draft.folder("lines"), work.draft.folder("cut")
    marked = [
        {"path": str((lines / block.file.name).with_suffix(".arrow")), "file": str(block.file)}
        for block in cleaned.blocks
    ]
    make_files(work, mark_lines, marked, unit="blocks searched for lines")
    buckets = [{"path": str(lines / f"{n:05}.repeated.arrow"), "bucket": n} for n in range(cleaned.num_buckets)]
    marks = [item["path"] for item in marked]
    make_files(
        work,
        count_groups,
        buckets,
        unit="buckets of lines",
        marks=marks,
        num_buckets=cleaned.num_buckets,
        max_groups=max_groups,
    )
    blocks = [replace(block, folder=folder) for block in cleaned.blocks]
    items = [
        {"path": str(after.file), "file": str(before.file), "rejected": str(before.rejected), "block": after}
        for before, after in zip(cleaned.blocks, blocks, strict=True)
    ]
    make_files(
        work,
        cut_block,
        items,
        unit="blocks cut",
        repeated=[item["path"] for item in buckets],
        fields=cleaned.checks.fields,
        permutations=work.options.permutations,
        near_duplicates=work.options.near_duplicates,
    )
    counts: Counter[str] = Counter({DROPPED: 0, LINES: 0})
    for block in blocks:
        counts.update(block.counts())
    return replace(cleaned, blocks=blocks, counts=counts)


def mark_lines(item: dict[str, Any]) -> None:
    """Writes the marks of the lines and paragraphs of a block. Runs in a task."""
    hashes, groups = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for table in _tables(item["file"], ["source", "group", "text"]):
        names = zip(table.column("source").to_pylist(), table.column("group").to_pylist(), strict=True)
        groups_D = np.array([boilerplate.group_hash(*name) for name in names], np.uint64)
        marks = boilerplate.marks(boilerplate.split(table.column("text").to_pylist()), groups_D)
        hashes.append(marks.column("hash").to_numpy())
        groups.append(marks.column("group").to_numpy())
    marks = boilerplate.distinct(np.concatenate(hashes), np.concatenate(groups))
    write_arrow(pa.record_batch(list(marks), schema=boilerplate.MARKS), Path(item["path"]))


def count_groups(item: dict[str, Any], *, marks: Sequence[str], num_buckets: int, max_groups: int) -> None:
    """Writes the hashes of a bucket that are in the marks with more groups than allowed. Runs in a task."""
    hashes, groups = [], []
    for file in marks:
        columns = [column.to_numpy() for column in map_arrow(Path(file)).columns]
        chosen = duplicates.bucket_slice(columns[0], item["bucket"], num_buckets)
        hashes.append(columns[0][chosen].copy())  # copies: a view would keep the file of each block mapped
        groups.append(columns[1][chosen].copy())
    repeated = boilerplate.repeated(np.concatenate(hashes), np.concatenate(groups), max_groups)
    write_arrow(pa.record_batch([repeated], schema=REPEATED), Path(item["path"]))


def cut_block(
    item: dict[str, Any],
    *,
    repeated: Sequence[str],
    fields: Sequence[pa.Field],
    permutations: int,
    near_duplicates: float | None,
) -> None:
    """Writes the files of a block again, without the repeated lines. Runs in a task.

    item: {"file", "rejected": of the block before, "block": the one after}. repeated: files of all buckets. fields:
    what the checks added to documents, which stays as it is."""
    block = item["block"]
    places = {str(part.index): part.where for part in block.parts}
    counts: Counter[str] = Counter(counts_of(Path(item["file"])))
    sorted_hashes = [map_arrow(Path(file)).column("hash").to_numpy() for file in repeated]
    is_repeated = partial(is_in_buckets, buckets=sorted_hashes)

    def batches() -> Iterator[tuple[pa.Table, pa.Table]]:
        schema = pa.schema([*cleaning.schema(permutations), *fields])
        yield schema.empty_table(), pq.read_table(item["rejected"])
        for table in _tables(item["file"], [*DOCUMENTS.names, *(field.name for field in fields)]):
            texts, num_cut = boilerplate.cut(boilerplate.split(table.column("text").to_pylist()), is_repeated)
            is_kept = np.array([bool(text) for text in texts], np.bool_)
            counts.update({LINES: int(num_cut[is_kept].sum()), DROPPED: int((~is_kept).sum())})
            position = DOCUMENTS.get_field_index("text")
            after = table.set_column(position, DOCUMENTS.field(position), pa.array(texts, pa.string()))
            dropped = table.filter(pa.array(~is_kept))
            rejected = rejected_rows(dropped, block.source, places, REASON, PROBLEM)
            kept = after.filter(pa.array(is_kept))
            documents = cleaning.with_keys(kept.select(DOCUMENTS.names), permutations)
            for field in fields:
                documents = documents.append_column(field, kept.column(field.name))
            yield documents, rejected

    first_bad = pq.read_metadata(item["file"]).metadata[FIRST_BAD]
    write_block(
        block,
        batches(),
        lambda: {COUNTS: json.dumps(counts), FIRST_BAD: first_bad},
        fields=fields,
        permutations=permutations,
        near_duplicates=near_duplicates,
    )


def is_in_buckets(hashes: np.ndarray, buckets: Sequence[np.ndarray]) -> np.ndarray:
    """Returns bool, as many as uint64 `hashes`: whether each is in its bucket, of which each is sorted."""
    order = np.argsort(hashes)
    ordered = hashes[order]
    is_in = np.zeros(len(hashes), np.bool_)
    for number, bucket in enumerate(buckets):
        chosen = order[duplicates.bucket_slice(ordered, number, len(buckets))]
        is_in[chosen] = splitting.is_in_sorted(hashes[chosen], bucket)
    return is_in


def _tables(file: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The documents of a block, in the batches in which they were written."""
    with pq.ParquetFile(file) as reader:
        for number in range(reader.num_row_groups):
            yield reader.read_row_group(number, columns=list(columns), use_threads=False)
