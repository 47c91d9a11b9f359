"""Second half of the stage: drops duplicates, chooses and decontaminates held-out text, writes the files.

    blocks ──keys, signatures, groups──► kept? ──► held out? ──► train/part-*.parquet (in tasks)
                                                            └──► held_out/part-*.parquet, rejected.parquet (driver)

The driver loads only columns without texts as a whole. Tasks copy the texts of training documents from block to file.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.blocks import AtomicFile, Block
from pipelines.data.corpus import cleaning, minhash, splitting
from pipelines.data.corpus.documents import DOCUMENTS, REJECTED, document_of, utf8_bytes
from pipelines.data.sources.bad_rows import UNREADABLE, row_facts
from pipelines.data.sources.files import RAW_CHARACTERS
from pipelines.errors import UserError
from pipelines.parallel import map_in_order, num_parallel_tasks
from pipelines.stage import Facts, Work
from pipelines.stages.corpus.blocks import CleanedBlocks
from pipelines.stages.corpus.options import CorpusOptions

LANGUAGES = ("en", "zh")
DUPLICATE = "the same text, or nearly the same, stands in an earlier document"  # problem, beside its reason
INDEX_COLUMNS = ["id", "source", "group", "language", "text_bytes", "key", "signature"]
ROW_GROUP_DOCUMENTS = 16_384  # a reader's unit of work


@dataclass(frozen=True)
class DocumentIndex:
    """All documents of all blocks in order, without their texts."""

    table: pa.Table
    starts: np.ndarray  # int64[blocks + 1]: documents of block b are [starts[b], starts[b + 1])

    @property
    def signatures(self) -> np.ndarray:
        """MinHash signatures, uint32[documents, permutations]."""
        return _fixed_size_bytes(self.table.column("signature").combine_chunks()).view(np.uint32)

    @property
    def keys(self) -> np.ndarray:
        """Keys of exact deduplication, uint64[documents, 2]."""
        return _fixed_size_bytes(self.table.column("key").combine_chunks()).view(np.uint64)


@dataclass(frozen=True)
class HeldOut:
    """Decontaminated held-out documents, one table for each block."""

    tables: list[pa.Table]
    num_contaminated: int  # documents dropped because of their overlap with training text
    num_lines: int  # lines of training text that were removed from the kept documents

    @property
    def table(self) -> pa.Table:
        return pa.concat_tables([DOCUMENTS.empty_table(), *self.tables])


def finish(work: Work, cleaned: CleanedBlocks) -> Facts:
    """Writes the corpus into work.draft.out and returns its facts. Raises UserError if all documents were dropped."""
    work.progress.note("looking for duplicates")
    blocks = cleaned.blocks
    index = load_index(blocks)
    if not index.table.num_rows:
        raise UserError(_no_documents(cleaned.counts))
    kept, duplicates = deduplicate(index, work.options.near_duplicates)
    dropped: Facts = {f"documents/dropped_{reason}": int(mask.sum()) for reason, mask in duplicates.items()}
    held_out = choose_held_out(index, kept, fraction=work.options.held_out, seed=work.seed)
    train = kept & ~held_out
    out = work.draft.out
    shutil.rmtree(out)  # an earlier attempt may have left files
    (out / "train").mkdir(parents=True)
    (out / "held_out").mkdir()
    decontaminated = decontaminate(work.options, blocks, index, train, held_out)
    write_held_out(decontaminated, out / "held_out", work.options.part_bytes)
    write_rejected(blocks, index.starts, duplicates, out / "rejected.parquet")
    write_train(work, blocks, index, train, out / "train")
    dropped["documents/dropped_contaminated"] = decontaminated.num_contaminated
    dropped["lines/dropped_contaminated"] = decontaminated.num_lines
    result = {**facts(work, cleaned, index, train, decontaminated.table), **dropped}
    prefix = "documents/dropped_"
    not_used = {name.removeprefix(prefix): int(value) for name, value in result.items() if name.startswith(prefix)}
    num_rows, num_bad = cleaned.counts["documents/read"], cleaned.counts["rows/bad"]
    return result | row_facts(num_rows + num_bad, {**not_used, UNREADABLE: num_bad})


def load_index(blocks: list[Block]) -> DocumentIndex:
    """Loads the columns that decide which documents are kept."""
    tables = [pq.read_table(block.file, columns=INDEX_COLUMNS) for block in blocks]
    starts = np.concatenate([[0], np.cumsum([table.num_rows for table in tables])])
    return DocumentIndex(pa.concat_tables(tables), starts)


def deduplicate(index: DocumentIndex, threshold: float | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Keeps the first of each set of equal documents, then the first of each cluster of near duplicates.

    threshold: Jaccard similarity of near duplicates; None: exact dedup only.
    Returns (bool[documents]: kept, bool[documents] by reason: dropped)."""
    kept = splitting.first_occurrences(index.keys)
    exact = ~kept
    unique = np.flatnonzero(kept)
    positions = np.arange(len(unique))
    first = positions if threshold is None else minhash.clusters(index.signatures[unique], threshold)
    kept[unique[first != positions]] = False
    return kept, {"duplicate_exact": exact, "duplicate_near": ~kept & ~exact}


def choose_held_out(index: DocumentIndex, kept: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Returns bool[documents]: the kept documents that are held out, in whole groups of each language."""
    table = index.table.filter(pa.array(kept))
    sources, names = table.column("source").to_pylist(), table.column("group").to_pylist()
    chosen = splitting.held_out_mask(
        [document_of(id) for id in table.column("id").to_pylist()],
        [f"{source}/{name}" for source, name in zip(sources, names, strict=True)],
        table.column("language").to_pylist(),
        table.column("text_bytes").to_pylist(),
        fraction=fraction,
        seed=seed,
    )
    held_out = np.zeros(len(kept), np.bool_)
    held_out[np.flatnonzero(kept)[chosen]] = True
    return held_out


def decontaminate(
    options: CorpusOptions, blocks: list[Block], index: DocumentIndex, train: np.ndarray, held_out: np.ndarray
) -> HeldOut:
    """Drops held-out documents that are similar to training text, and removes its long lines from the others."""
    candidates = np.flatnonzero(held_out)
    signatures = index.signatures
    similar = minhash.similar_to_any(signatures[candidates], signatures[train], options.max_held_out_similarity)
    remaining = held_out.copy()
    remaining[candidates[similar]] = False
    train_lines = shared_lines(blocks, index.starts, train, remaining)
    tables, num_lines = [], 0
    for _, block, rows in per_block(blocks, index.starts, remaining):
        table = pq.read_table(block.file, columns=DOCUMENTS.names).take(pa.array(rows))
        results = [splitting.remove_lines(text, train_lines) for text in table.column("text").to_pylist()]
        kept = [overlap <= options.max_held_out_overlap and text != "" for text, overlap, _ in results]
        num_lines += sum(removed for (_, _, removed), keep in zip(results, kept, strict=True) if keep)
        texts = pa.array([text for text, _, _ in results], pa.string())
        table = table.set_column(DOCUMENTS.get_field_index("text"), DOCUMENTS.field("text"), texts)
        tables.append(table.filter(pa.array(kept, pa.bool_())))
    return HeldOut(tables, len(candidates) - sum(table.num_rows for table in tables), num_lines)


def shared_lines(blocks: list[Block], starts: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Returns the hashes of the long lines that occur both in training and in held-out text. uint64, sorted."""
    lines = [_long_lines(block, rows) for _, block, rows in per_block(blocks, starts, held_out)]
    held_out_lines = np.unique(np.concatenate([np.empty(0, np.uint64), *lines]))
    in_train = np.zeros(len(held_out_lines), np.bool_)
    if len(held_out_lines):
        for _, block, rows in per_block(blocks, starts, train):  # one block at a time: training text has many lines
            in_train |= splitting.is_in_sorted(held_out_lines, np.unique(_long_lines(block, rows)))
    return held_out_lines[in_train]


def write_train(work: Work, blocks: list[Block], index: DocumentIndex, train: np.ndarray, folder: Path) -> None:
    """Writes the training documents, adding blocks to a file until it is full; one task writes each file."""
    sizes = index.table.column("text_bytes").to_numpy()
    items: list[dict[str, Any]] = []
    bytes_left = 0
    for number, block, rows in per_block(blocks, index.starts, train):
        if bytes_left <= 0:
            items.append({"path": str(folder / f"part-{len(items):05}.parquet"), "files": [], "rows": []})
            bytes_left = work.options.part_bytes
        items[-1]["files"].append(str(block.file))
        items[-1]["rows"].append(rows.astype(np.int64).tobytes())
        bytes_left -= int(sizes[index.starts[number] + rows].sum())
    work.session.start()
    written = map_in_order(write_part, items, tasks=num_parallel_tasks(work), cpus_per_task=work.cluster.cpus_per_task)
    for done, _ in enumerate(written, start=1):
        work.progress.update(done, len(items), "files")


def write_part(item: dict[str, Any]) -> None:
    """Writes one file of training documents. Runs in a task.

    item: {"path": of the file, "files": those of its blocks, "rows": int64 bytes, the row numbers in each block}."""
    tables = []
    for file, row_bytes in zip(item["files"], item["rows"], strict=True):
        rows = np.frombuffer(row_bytes, np.int64)
        tables.append(pq.read_table(file, columns=DOCUMENTS.names, use_threads=False).take(pa.array(rows)))
    _write(pa.concat_tables(tables), Path(item["path"]))


def write_held_out(held_out: HeldOut, folder: Path, part_bytes: int) -> None:
    """Writes the held-out documents, adding blocks to a file until it is full; one empty file if there are none."""
    parts: list[list[pa.Table]] = [[]]
    bytes_left = part_bytes
    for table in held_out.tables:
        if bytes_left <= 0:
            parts.append([])
            bytes_left = part_bytes
        parts[-1].append(table)
        bytes_left -= _text_bytes(table)
    for number, part in enumerate(parts):
        _write(pa.concat_tables([DOCUMENTS.empty_table(), *part]), folder / f"part-{number:05}.parquet")


def write_rejected(blocks: list[Block], starts: np.ndarray, duplicates: dict[str, np.ndarray], path: Path) -> None:
    """Writes the bad rows and the dropped documents of all blocks, one block at a time, then the duplicates."""
    with AtomicFile(path) as file:
        with pq.ParquetWriter(file.temporary, REJECTED, compression="zstd") as writer:
            for block in blocks:
                writer.write_table(pq.read_table(block.rejected))
            for reason, mask in duplicates.items():
                for _, block, rows in per_block(blocks, starts, mask):
                    writer.write_table(_rejected(block, rows, reason))
        file.publish()


def _rejected(block: Block, rows: np.ndarray, reason: str) -> pa.Table:
    """Documents of a block that are dropped for this reason, as REJECTED."""
    places = {part.index: part.where for part in block.parts}
    documents = pq.read_table(block.file, columns=["id", "text"]).take(pa.array(rows)).to_pylist()
    origins = [document_of(document["id"]).rsplit("/", 2)[1:] for document in documents]  # source/part/row
    return pa.Table.from_pylist(
        [
            {"source": block.source, "where": places[int(part)], "row": int(row), "reason": reason,
             "problem": DUPLICATE, "raw": document["text"][:RAW_CHARACTERS]}
            for document, (part, row) in zip(documents, origins, strict=True)
        ],
        REJECTED,
    )  # fmt: skip


def facts(work: Work, cleaned: CleanedBlocks, index: DocumentIndex, train: np.ndarray, held_out: pa.Table) -> Facts:
    """Returns the funnel: documents/read = documents/kept + every documents/dropped_*; kept = training + held out.

    The parts of a document that was split count as so many documents: documents/split were cut into documents/parts."""
    training = index.table.filter(pa.array(train)).select(["language", "text_bytes"])
    result: Facts = {name: cleaned.counts[name] for name in cleaning.TOTALS}
    result |= _kept_facts("", training, held_out)
    for language in LANGUAGES:
        in_language = pc.field("language") == language
        result |= _kept_facts(f"_{language}", training.filter(in_language), held_out.filter(in_language))
    for source in work.sources.values():
        for reason in work.options.rules(source, work.seed).reasons:
            result[f"{cleaning.DROPPED}{reason}"] = cleaned.counts[f"{cleaning.DROPPED}{reason}"]
    # Languages, kinds of personal data, reasons that custom filters name, and lines.
    by_value = (cleaning.OTHER_LANGUAGE, cleaning.PRIVATE, cleaning.DROPPED, cleaning.LINES)
    result |= {name: cleaned.counts[name] for name in sorted(cleaned.counts) if name.startswith(by_value)}
    if cleaned.documents_per_s is not None:
        result["corpus/documents_per_s"] = cleaned.documents_per_s
    return result


def _kept_facts(suffix: str, training: pa.Table, held_out: pa.Table) -> Facts:
    held_out_bytes = _text_bytes(held_out)
    return {
        f"documents/kept{suffix}": training.num_rows + held_out.num_rows,
        f"bytes/kept{suffix}": sum(training.column("text_bytes").to_pylist()) + held_out_bytes,
        f"documents/held_out{suffix}": held_out.num_rows,
        f"bytes/held_out{suffix}": held_out_bytes,
    }


def per_block(blocks: list[Block], starts: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[int, Block, np.ndarray]]:
    """Yields (number, block, its chosen rows counted from its first) of each block with chosen documents."""
    for number, block in enumerate(blocks):
        rows = np.flatnonzero(chosen[starts[number] : starts[number + 1]])
        if len(rows):
            yield number, block, rows


def _long_lines(block: Block, rows: np.ndarray) -> np.ndarray:
    """Reads the hashes of the long lines of a block's rows. uint64."""
    column = pq.read_table(block.file, columns=["long_lines"]).column(0).take(pa.array(rows))
    return pc.call_function("list_flatten", [column]).to_numpy().astype(np.uint64)


def _write(table: pa.Table, path: Path) -> None:
    with AtomicFile(path) as file:
        # One chunk in each column, so that the bytes do not depend on how the table was assembled.
        pq.write_table(table.combine_chunks(), file.temporary, compression="zstd", row_group_size=ROW_GROUP_DOCUMENTS)
        file.publish()


def _fixed_size_bytes(column: pa.FixedSizeBinaryArray) -> np.ndarray:
    """Returns uint8[rows, width] of a fixed-size binary array."""
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width : (column.offset + len(column)) * width]
    return data.reshape(len(column), width)


def _text_bytes(table: pa.Table) -> int:
    return sum(utf8_bytes(text) for text in table.column("text").to_pylist())


def _no_documents(counts: Counter[str]) -> str:
    prefix = "documents/dropped_"
    dropped = {name.removeprefix(prefix): number for name, number in counts.items() if name.startswith(prefix)}
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(dropped.items())) or "none was dropped"
    return (
        f"corpus: no document is left of {counts['documents/read']:,} read "
        f"({reasons}; {counts['rows/bad']:,} bad rows); check the sources' text columns, or loosen corpus.filters"
    )
