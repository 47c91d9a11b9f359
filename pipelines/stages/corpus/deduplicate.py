"""Second part of the stage: looks for duplicates, in as many tasks as there are buckets of marks, then in one.

    marks of all blocks ──one task a bucket──► duplicates/<bucket>.exact.arrow   numbers of documents, sorted, each with
                                                                                 that of the one that is kept instead
                                              duplicates/<bucket>.pairs.arrow   pairs of near duplicates
    all pairs ──one task──► duplicates/near.arrow   numbers of documents as in exact.arrow
                            duplicates/clusters.arrow   the largest clusters, for the data card

The one task holds the numbers of the pairs' documents, and nothing else: about 185 bytes a pair. A pair that has
several bands in common is in several buckets, and is held once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.blocks import map_arrow, write_arrow
from pipelines.data.corpus import duplicates
from pipelines.parallel import make_files
from pipelines.stage import Work
from pipelines.stages.corpus.blocks import CleanedBlocks, fixed_size_bytes

NEAR, SEMANTIC, CLUSTERS = "near.arrow", "semantic.arrow", "clusters.arrow"
MAX_CLUSTERS, MAX_MEMBERS = 8, 4  # in the data card: clusters, and dropped documents of each
MERGED_PAIRS = 10_000_000  # collected at least before those that are there more than once are left out
BATCH_MEMBERS = 200_000  # candidates compared at a time, with 512 bytes of signature each
DUPLICATES = pa.schema([("document", pa.int64()), ("kept", pa.int64())])  # kept: instead of it


def deduplicate(work: Work, cleaned: CleanedBlocks) -> Path:
    """Writes the numbers of all duplicates into files of a folder of the draft, and returns the folder."""
    folder = work.draft.folder("duplicates")
    num_buckets, threshold = cleaned.num_buckets, work.options.near_duplicates
    items = [{"path": str(folder / f"{bucket:05}.pairs.arrow"), "bucket": bucket} for bucket in range(num_buckets)]
    make_files(
        work,
        compare_bucket,
        items,
        unit="buckets of duplicates",
        files=cleaned.files,
        num_buckets=num_buckets,
        threshold=threshold,
    )
    make_files(work, decide_near, [{"path": str(folder / CLUSTERS)}], unit="list of near duplicates")
    return folder


def compare_bucket(item: dict[str, Any], *, files: Sequence[str], num_buckets: int, threshold: float | None) -> None:
    """Writes the exact duplicates and the pairs of near duplicates among the marks of one bucket. Runs in a task.

    item: {"path": of the pairs, "bucket": its number}. files: those of the blocks' documents."""
    path = Path(item["path"])
    marks = _marks(files, ".exact.arrow", item["bucket"], num_buckets)
    write_arrow(numbers_of(*duplicates.exact_duplicates(*marks)), path.with_suffix("").with_suffix(".exact.arrow"))
    pairs = [duplicates.PAIRS.empty_table()]
    if threshold is not None:
        members, starts = duplicates.candidate_groups(*_marks(files, ".bands.arrow", item["bucket"], num_buckets))
        for first, stop in _batches(starts):
            batch = members[starts[first] : starts[stop]]
            documents = np.unique(batch)
            text_bytes_U = _text_bytes(files, documents)
            if stop - first == 1:  # one group, of any size
                read = partial(_signatures, files)
                of_group = duplicates.near_duplicates_of_group(documents, text_bytes_U, read, threshold, BATCH_MEMBERS)
                pairs += [pa.Table.from_batches([near]) for near in of_group]
                continue
            signatures_UP = _signatures(files, documents)
            group_starts = starts[first : stop + 1] - starts[first]
            near = duplicates.near_duplicates(batch, group_starts, documents, signatures_UP, text_bytes_U, threshold)
            pairs.append(pa.Table.from_batches([near]))
    write_arrow(batch_of(pa.concat_tables(pairs)), path)


def decide_near(item: dict[str, Any]) -> None:
    """Writes the numbers of the near duplicates to drop, of the pairs of all buckets, and their largest clusters. Runs
    in a task.

    item: {"path": of the clusters}."""
    path = Path(item["path"])
    pairs_E3 = distinct_pairs(sorted(path.parent.glob("*.pairs.arrow")))
    dropped, kept = duplicates.worse_duplicates(*pairs_E3.T)
    write_arrow(numbers_of(dropped, kept), path.with_name(NEAR))
    clusters = duplicates.largest_clusters(dropped, kept, max_clusters=MAX_CLUSTERS, max_members=MAX_MEMBERS)
    write_arrow(clusters, path)


def distinct_pairs(files: Sequence[Path]) -> np.ndarray:
    """Returns int64[pairs, 3]: the columns of PAIRS in all files, each pair once.

    Merges whenever as many wait as there are, so memory is some times that of the distinct pairs, and each pair is
    sorted a few times only."""
    pairs_E3 = np.empty((0, len(duplicates.PAIRS)), np.int64)
    waiting: list[np.ndarray] = []
    num_waiting = 0
    for file in files:
        waiting.append(np.stack([column.to_numpy() for column in map_arrow(file).columns], axis=1))
        num_waiting += len(waiting[-1])
        if num_waiting > max(len(pairs_E3), MERGED_PAIRS):
            pairs_E3 = np.unique(np.concatenate([pairs_E3, *waiting]), axis=0)
            waiting, num_waiting = [], 0
    return np.unique(np.concatenate([pairs_E3, *waiting]), axis=0)


def duplicates_in(folder: Path, first: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns int64 each: (exact, near, semantic duplicates) in the blocks from `first` to before `stop`, sorted.

    Semantic duplicates are none where they were not looked for."""
    exact = [_in_blocks(file, first, stop)[0] for file in sorted(folder.glob("*.exact.arrow"))]
    semantic = folder / SEMANTIC
    return (
        np.sort(np.concatenate(exact)),
        _in_blocks(folder / NEAR, first, stop)[0],
        _in_blocks(semantic, first, stop)[0] if semantic.exists() else np.empty(0, np.int64),
    )


def survivors_of(folder: Path, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns int64 each: (all duplicates in the blocks from `first` to before `stop`, sorted, for each the document
    that is kept instead).

    The first of equal documents may be a near duplicate, and the best of near duplicates a semantic one: then what is
    kept instead of that."""
    later = [file for file in (folder / NEAR, folder / SEMANTIC) if file.exists()]
    parts = [_in_blocks(file, first, stop) for file in (*sorted(folder.glob("*.exact.arrow")), *later)]
    documents, survivors = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    documents, firsts = np.unique(documents, return_index=True)
    survivors = survivors[firsts]
    for file in later:
        dropped, kept = (column.to_numpy() for column in map_arrow(file).columns)
        if len(dropped):
            places = np.minimum(np.searchsorted(dropped, survivors), len(dropped) - 1)
            survivors = np.where(dropped[places] == survivors, kept[places], survivors)
    return documents, survivors


def _in_blocks(file: Path, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """(duplicates in these blocks, what is kept instead) of a file of DUPLICATES."""
    documents, kept = (column.to_numpy() for column in map_arrow(file).columns)
    chosen = slice(*np.searchsorted(documents, [first << 32, stop << 32]))
    return documents[chosen], kept[chosen]


def _marks(
    files: Sequence[str], suffix: str, bucket: int, num_buckets: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (hashes, keys, numbers of documents) of the marks of a bucket in all blocks."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for block, file in enumerate(files):
        marks = map_arrow(Path(file).with_suffix(suffix))
        hashes, keys, rows = (column.to_numpy() for column in marks.columns)
        chosen = duplicates.bucket_slice(hashes, bucket, num_buckets)
        # Copies: a view would keep the file of each block mapped, and a process may map only so many.
        numbers = duplicates.document_numbers(block, rows[chosen])
        parts.append((hashes[chosen].copy(), keys[chosen].copy(), numbers))
    hashes, keys, documents = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return hashes, keys, documents


def _batches(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields (first group, group after the last) of batches with about BATCH_MEMBERS members, or of one large group."""
    first = 0
    while first < len(starts) - 1:
        stop = int(np.searchsorted(starts, starts[first] + BATCH_MEMBERS, side="right")) - 1
        stop = max(stop, first + 1)
        yield first, stop
        first = stop


def _signatures(files: Sequence[str], documents: np.ndarray) -> np.ndarray:
    """Reads the signatures of documents, whose numbers are sorted: uint32[D, P]."""
    signatures = []
    for batch, rows in _rows_of(files, documents):
        signatures.append(fixed_size_bytes(batch.column("signature")).view(np.uint32)[rows])
    return np.concatenate(signatures)


def _text_bytes(files: Sequence[str], documents: np.ndarray) -> np.ndarray:
    """Reads the sizes of the texts of documents, whose numbers are sorted: int64[D]."""
    return np.concatenate([batch.column("text_bytes").to_numpy()[rows] for batch, rows in _rows_of(files, documents)])


def places_of(files: Sequence[str], documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads (numbers of the parts, of the rows in them) of documents, whose numbers are sorted: int32[D], int64[D]."""
    parts, rows = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    for batch, of_block in _rows_of(files, documents):
        parts.append(batch.column("part").to_numpy()[of_block])
        rows.append(batch.column("row").to_numpy()[of_block])
    return np.concatenate(parts), np.concatenate(rows)


def _rows_of(files: Sequence[str], documents: np.ndarray) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Yields (signatures, sizes and places of a block, rows of the documents in it) for each block that has some."""
    blocks, starts = np.unique(documents >> 32, return_index=True)
    for block, numbers in zip(blocks, np.split(documents, starts)[1:], strict=True):  # none of no documents
        yield map_arrow(Path(files[int(block)]).with_suffix(".signatures.arrow")), numbers & 0xFFFFFFFF


def numbers_of(documents: np.ndarray, kept: np.ndarray) -> pa.RecordBatch:
    """The numbers of documents, and of those that are kept instead, as DUPLICATES."""
    return pa.record_batch([documents, kept], schema=DUPLICATES)


def batch_of(table: pa.Table) -> pa.RecordBatch:
    """A table as one record batch."""
    return pa.record_batch([column.combine_chunks() for column in table.columns], schema=table.schema)
