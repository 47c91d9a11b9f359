"""After exact and near duplicates, if the recipe asks for it: looks for documents that mean nearly the same.

    blocks ──one task a block──► semantic/<block>.vectors.arrow   vectors of the documents that are no duplicates
    a sample of them ──one task──► semantic/centroids.arrow       of each language
    vectors ──one task a block──► semantic/<block>.cells.arrow    the two nearest centroids of each, sorted
    those, dealt by cell ──one task a bucket──► semantic/<bucket>.pairs.arrow   similar documents of a cell
    all pairs ──one task──► duplicates/semantic.arrow             numbers of documents, sorted

Vectors have a byte a dimension and are memory-mapped; a task holds the documents of one cell, some CELL_DOCUMENTS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.blocks import map_arrow, write_arrow
from pipelines.data.corpus import duplicates, semantic
from pipelines.data.text import embeddings
from pipelines.data.text.measures import MIX
from pipelines.parallel import make_files
from pipelines.stage import Work
from pipelines.stages.corpus.blocks import CleanedBlocks, fixed_size_bytes
from pipelines.stages.corpus.deduplicate import SEMANTIC, batch_of, distinct_pairs, duplicates_in, numbers_of

CELLS = pa.schema([("cell", pa.uint32()), ("row", pa.uint32())])  # row: of the block's vectors
CELL_DOCUMENTS = 1000  # documents for each centroid, at least
MAX_CENTROIDS = 4096  # of a language; each is trained on SAMPLED vectors
SAMPLED = 50
BATCH_TEXTS = 64  # texts embedded at a time


def find_semantic_duplicates(work: Work, cleaned: CleanedBlocks, folder: Path) -> None:
    """Writes the numbers of documents that mean nearly the same as one that is kept, if the recipe asks for it.

    folder: that of `deduplicate`, with the other duplicates, to which it is added."""
    options = work.options.semantic_duplicates
    if options is None:
        return
    vectors = work.draft.folder("semantic")
    items = [
        {"path": str(vectors / f"{number:06}.vectors.arrow"), "block": number, "file": file}
        for number, file in enumerate(cleaned.files)
    ]
    make_files(work, embed_block, items, unit="blocks embedded", duplicates=folder, excerpt_bytes=options.excerpt_bytes)
    files = [item["path"] for item in items]
    centroids = vectors / "centroids.arrow"
    make_files(work, train, [{"path": str(centroids)}], unit="centroids", files=files, seed=work.seed)
    items = [{"path": str(_cells_of(file)), "vectors": file} for file in files]
    make_files(work, assign, items, unit="blocks assigned", centroids=centroids)
    num_buckets = cleaned.num_buckets
    items = [{"path": str(vectors / f"{bucket:05}.pairs.arrow"), "bucket": bucket} for bucket in range(num_buckets)]
    make_files(
        work,
        compare_bucket,
        items,
        unit="buckets of meanings",
        files=files,
        centroids=centroids,
        num_buckets=num_buckets,
        threshold=options.threshold,
    )
    pairs = [item["path"] for item in items]
    make_files(work, decide, [{"path": str(folder / SEMANTIC)}], unit="list of semantic duplicates", pairs=pairs)


def embed_block(item: dict[str, Any], *, duplicates: Path, excerpt_bytes: int) -> None:
    """Writes the vectors of a block's documents that are no duplicates. Runs in a task.

    item: {"path": of the vectors, "block": number, "file": of the documents}."""
    number = item["block"]
    table = pq.read_table(item["file"], columns=["language", "text", "text_bytes"], use_threads=False)
    is_kept = np.ones(table.num_rows, np.bool_)
    for dropped in duplicates_in(duplicates, number, number + 1)[:2]:
        is_kept[dropped & 0xFFFFFFFF] = False
    table = table.filter(pa.array(is_kept))
    texts = [semantic.excerpt(text, excerpt_bytes) for text in table.column("text").to_pylist()]
    tiles = [np.empty((0, embeddings.DIMENSIONS), np.int8)]
    for start in range(0, len(texts), BATCH_TEXTS):
        tiles.append(semantic.quantise(embeddings.embed(texts[start : start + BATCH_TEXTS])))
    columns = [
        pa.array(np.flatnonzero(is_kept).astype(np.uint32)),
        table.column("language").combine_chunks(),
        table.column("text_bytes").combine_chunks(),
        _fixed_size(np.concatenate(tiles)),
    ]
    write_arrow(pa.record_batch(columns, names=["row", "language", "text_bytes", "vector"]), Path(item["path"]))


def train(item: dict[str, Any], *, files: Sequence[str], seed: int) -> None:
    """Writes the centroids of the vectors of each language, trained on those with the lowest hashes. Runs in a task."""
    sampled: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    num_documents: dict[str, int] = {}
    for number, file in enumerate(files):
        batch = map_arrow(Path(file))
        languages = batch.column("language").to_numpy(zero_copy_only=False)
        hashes = (duplicates.document_numbers(number, np.arange(len(batch))).astype(np.uint64) + np.uint64(seed)) * MIX
        for language in sorted(set(languages)):
            rows = np.flatnonzero(languages == language)
            num_documents[language] = num_documents.get(language, 0) + len(rows)
            rows = rows[np.argsort(hashes[rows], kind="stable")][: SAMPLED * MAX_CENTROIDS]
            sampled.setdefault(language, []).append((hashes[rows], _vectors(batch)[rows]))
            if sum(len(part) for part, _ in sampled[language]) > 2 * SAMPLED * MAX_CENTROIDS:
                sampled[language] = [_lowest(sampled[language], SAMPLED * MAX_CENTROIDS)]
    names: list[str] = []
    tables: list[np.ndarray] = [np.empty((0, embeddings.DIMENSIONS), np.int8)]
    for language in sorted(sampled):
        number = min(math.ceil(num_documents[language] / CELL_DOCUMENTS), MAX_CENTROIDS)
        _, vectors_ND = _lowest(sampled[language], SAMPLED * number)
        tables.append(semantic.centroids(vectors_ND, number))
        names += [language] * number
    columns = [pa.array(names, pa.string()), _fixed_size(np.concatenate(tables))]
    write_arrow(pa.record_batch(columns, names=["language", "vector"]), Path(item["path"]))


def assign(item: dict[str, Any], *, centroids: Path) -> None:
    """Writes the CELLS of the vectors of a block, sorted. Runs in a task. item: {"path": of the cells, "vectors"}."""
    batch, trained = map_arrow(Path(item["vectors"])), map_arrow(centroids)
    languages, of_centroids = (table.column("language").to_numpy(zero_copy_only=False) for table in (batch, trained))
    cells, rows = [np.empty(0, np.uint32)], [np.empty(0, np.uint32)]
    for language in sorted(set(languages)):
        of_language, positions = np.flatnonzero(languages == language), np.flatnonzero(of_centroids == language)
        number = min(semantic.CELLS, len(positions))
        nearest = semantic.nearest(_vectors(batch)[of_language], _vectors(trained)[positions], number)
        cells.append(positions[nearest].ravel().astype(np.uint32))
        rows.append(np.repeat(of_language, number).astype(np.uint32))
    cell, row = np.concatenate(cells), np.concatenate(rows)
    order = np.lexsort((row, cell))
    write_arrow(pa.record_batch([cell[order], row[order]], schema=CELLS), Path(item["path"]))


def compare_bucket(
    item: dict[str, Any], *, files: Sequence[str], centroids: Path, num_buckets: int, threshold: float
) -> None:
    """Writes the PAIRS of similar documents in the cells of a bucket. Runs in a task."""
    num_cells = len(map_arrow(centroids))
    first, stop = (num_cells * bound // num_buckets for bound in (item["bucket"], item["bucket"] + 1))
    cells, vectors = _dealt(files, first, stop)
    bounds = np.searchsorted(cells, np.arange(first, stop + 1))
    pairs = [duplicates.PAIRS.empty_table()]
    for begin, end in pairwise(bounds):
        documents_M, text_bytes_M, vectors_MD = _members(files, vectors[begin:end])
        order = duplicates.best_first(documents_M, text_bytes_M)
        better, worse = order[semantic.similar_pairs(vectors_MD[order], threshold)].T
        columns = [documents_M[better], documents_M[worse], text_bytes_M[worse]]
        pairs.append(pa.table(columns, schema=duplicates.PAIRS))
    write_arrow(batch_of(pa.concat_tables(pairs)), Path(item["path"]))


def decide(item: dict[str, Any], *, pairs: Sequence[str]) -> None:
    """Writes the numbers of the documents to drop, of the pairs of all buckets. Runs in a task."""
    pairs_E3 = distinct_pairs([Path(file) for file in pairs])
    write_arrow(numbers_of(*duplicates.worse_duplicates(*pairs_E3.T)), Path(item["path"]))


def _dealt(files: Sequence[str], first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the cells from `first` to before `stop`: (cells, numbers of block and row of the vectors), by cell."""
    cells, vectors = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
    for block, file in enumerate(files):
        cell, rows = (column.to_numpy() for column in map_arrow(_cells_of(file)).columns)
        chosen = slice(*np.searchsorted(cell, np.array([first, stop], np.uint32)))
        cells.append(cell[chosen].copy())  # a view would keep the file of each block mapped
        vectors.append(duplicates.document_numbers(block, rows[chosen]))
    order = np.argsort(joined := np.concatenate(cells), kind="stable")
    return joined[order], np.concatenate(vectors)[order]


def _members(files: Sequence[str], vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads (numbers, sizes of texts, vectors) of documents. vectors: their numbers of block and row, sorted."""
    numbers, sizes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    members = [np.empty((0, embeddings.DIMENSIONS), np.int8)]
    blocks, starts = np.unique(vectors >> 32, return_index=True)
    for block, chosen in zip(blocks, np.split(vectors & 0xFFFFFFFF, starts[1:]), strict=True):
        batch = map_arrow(Path(files[int(block)]))
        numbers.append(duplicates.document_numbers(int(block), batch.column("row").to_numpy()[chosen]))
        sizes.append(batch.column("text_bytes").to_numpy()[chosen])
        members.append(_vectors(batch)[chosen])
    return np.concatenate(numbers), np.concatenate(sizes), np.concatenate(members)


def _cells_of(vectors: str) -> Path:
    """The file of the cells of a block's vectors."""
    return Path(vectors.replace(".vectors.", ".cells."))


def _lowest(parts: Sequence[tuple[np.ndarray, np.ndarray]], number: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, vectors) of those with the lowest hashes, in their order."""
    hashes, vectors = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(hashes, kind="stable")[:number]
    return hashes[order], vectors[order]


def _vectors(batch: pa.RecordBatch) -> np.ndarray:
    return fixed_size_bytes(batch.column("vector")).view(np.int8)


def _fixed_size(vectors_ND: np.ndarray) -> pa.FixedSizeBinaryArray:
    rows, width = vectors_ND.shape
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(vectors_ND.tobytes())])
