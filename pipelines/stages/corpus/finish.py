"""Second half of the stage: duplicates go, held-out text is chosen and cleared, files are written.

    blocks ──keys, signatures, groups──► kept? ──► held out? ──► train/part-*.parquet (on the cluster)
                                                            └──► held_out/part-*.parquet, rejected.parquet (here)

Only columns without texts are looked at as a whole. The texts of training documents go from block to file in tasks.
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

from pipelines.data.corpus import minhash, splitting
from pipelines.data.corpus.cleaning import EMPTY
from pipelines.data.corpus.documents import DOCUMENTS, REJECTED, utf8_bytes
from pipelines.errors import UserError
from pipelines.stage import Facts, Work
from pipelines.stages.corpus.blocks import Block, Publication, Read, at_once
from pipelines.stages.corpus.parallel import in_order

LANGUAGES = ("en", "zh")
MARKS = ["id", "source", "group", "language", "text_bytes", "key", "signature"]
ROW_GROUP = 16_384  # documents: a reader's unit of work


@dataclass(frozen=True)
class Marks:
    """All documents of all blocks in order, without their texts."""

    table: pa.Table
    starts: np.ndarray  # int64[blocks + 1]: documents of block b are [starts[b], starts[b + 1])

    @property
    def signatures(self) -> np.ndarray:
        """uint32[documents, permutations]"""
        column = self.table.column("signature").combine_chunks()
        return _fixed(column).view(np.uint32)

    @property
    def keys(self) -> np.ndarray:
        """uint64[documents, 2]"""
        return _fixed(self.table.column("key").combine_chunks()).view(np.uint64)


@dataclass(frozen=True)
class HeldOut:
    """Held-out documents, a table a block, cleared of training text."""

    tables: list[pa.Table]
    num_contaminated: int  # documents dropped for what they share with training text
    num_lines: int  # taken out of the others

    @property
    def table(self) -> pa.Table:
        return pa.concat_tables([DOCUMENTS.empty_table(), *self.tables])


def finish(work: Work, read: Read) -> Facts:
    """Writes the corpus into work.draft.out and returns its facts. Raises UserError if no document is left."""
    work.progress.note("looking for duplicates")
    marks = load(read.blocks)
    if not marks.table.num_rows:
        raise UserError(_nothing_left(read.counts))
    kept, dropped = without_duplicates(marks, work.options.near_duplicates)
    held = choose_held_out(marks, kept, share=work.options.held_out, seed=work.seed)
    train = kept & ~held
    out = work.draft.out
    shutil.rmtree(out)  # what an attempt before this one may have left
    (out / "train").mkdir(parents=True)
    (out / "held_out").mkdir()
    cleared = clear_held_out(work.options, read.blocks, marks, train, held)
    write_held_out(cleared, out / "held_out", work.options.part_bytes)
    write_rejected(read.blocks, out / "rejected.parquet")
    write_train(work, read.blocks, marks, train, out / "train")
    dropped["documents/dropped_contaminated"] = cleared.num_contaminated
    dropped["lines/dropped_contaminated"] = cleared.num_lines
    return {**facts(work, read, marks, train, cleared.table), **dropped}


def load(blocks: list[Block]) -> Marks:
    """The columns that decide what stays."""
    tables = [pq.read_table(block.file, columns=MARKS) for block in blocks]
    starts = np.concatenate([[0], np.cumsum([table.num_rows for table in tables])])
    return Marks(pa.concat_tables(tables), starts)


def without_duplicates(marks: Marks, threshold: float | None) -> tuple[np.ndarray, Facts]:
    """(bool[documents]: the first of each set of equal documents, then of each cluster of near ones; what went)."""
    kept = splitting.first_occurrences(marks.keys)
    places = np.flatnonzero(kept)
    first = np.arange(len(places)) if threshold is None else minhash.clusters(marks.signatures[places], threshold)
    near = places[first != np.arange(len(places))]
    kept[near] = False
    exact = len(kept) - len(places)
    return kept, {"documents/dropped_duplicate_exact": exact, "documents/dropped_duplicate_near": len(near)}


def choose_held_out(marks: Marks, kept: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """bool[documents]: those of the kept ones that are held out, whole groups of each language."""
    table = marks.table.filter(pa.array(kept))
    sources, names = table.column("source").to_pylist(), table.column("group").to_pylist()
    chosen = splitting.held_out_mask(
        table.column("id").to_pylist(),
        [f"{source}/{name}" for source, name in zip(sources, names, strict=True)],
        table.column("language").to_pylist(),
        table.column("text_bytes").to_pylist(),
        fraction=share,
        seed=seed,
    )
    held = np.zeros(len(kept), np.bool_)
    held[np.flatnonzero(kept)[chosen]] = True
    return held


def clear_held_out(options: Any, blocks: list[Block], marks: Marks, train: np.ndarray, held: np.ndarray) -> HeldOut:
    """Held-out documents without those that resemble training text, the others without its long lines."""
    places = np.flatnonzero(held)
    found = marks.signatures
    similar = minhash.similar_to_any(found[places], found[train], options.held_out_similarity)
    different = held.copy()
    different[places[similar]] = False
    shared = shared_lines(blocks, marks.starts, train, different)
    tables, num_lines = [], 0
    for _, block, rows in per_block(blocks, marks.starts, different):
        table = pq.read_table(block.file, columns=DOCUMENTS.names).take(pa.array(rows))
        results = [splitting.remove_lines(text, shared) for text in table.column("text").to_pylist()]
        clean = [share <= options.held_out_shared and text != "" for text, share, _ in results]
        num_lines += sum(lines for (_, _, lines), stays in zip(results, clean, strict=True) if stays)
        texts = pa.array([text for text, _, _ in results], pa.string())
        table = table.set_column(DOCUMENTS.get_field_index("text"), DOCUMENTS.field("text"), texts)
        tables.append(table.filter(pa.array(clean, pa.bool_())))
    return HeldOut(tables, len(places) - sum(table.num_rows for table in tables), num_lines)


def shared_lines(blocks: list[Block], starts: np.ndarray, train: np.ndarray, held: np.ndarray) -> np.ndarray:
    """uint64, sorted: hashes of the long lines that stand in training and in held-out text."""
    own = [_lines(block, rows) for _, block, rows in per_block(blocks, starts, held)]
    own = np.unique(np.concatenate([np.empty(0, np.uint64), *own]))
    seen = np.zeros(len(own), np.bool_)
    if len(own):
        for _, block, rows in per_block(blocks, starts, train):  # a block at a time: lines of training text are many
            theirs = np.unique(_lines(block, rows))
            seen |= splitting.is_in_sorted(own, theirs)
    return own[seen]


def write_train(work: Work, blocks: list[Block], marks: Marks, train: np.ndarray, folder: Path) -> None:
    """Training documents, blocks taken together until a file is full; each file is written by one task."""
    sizes = marks.table.column("text_bytes").to_numpy()
    items: list[dict[str, Any]] = []
    room = 0
    for number, block, rows in per_block(blocks, marks.starts, train):
        if room <= 0:
            items.append({"place": str(folder / f"part-{len(items):05}.parquet"), "files": [], "rows": []})
            room = work.options.part_bytes
        items[-1]["files"].append(str(block.file))
        items[-1]["rows"].append(rows.astype(np.int64).tobytes())
        room -= int(sizes[marks.starts[number] + rows].sum())
    work.session.start()
    written = in_order(write_part, items, tasks=at_once(work), cpus_per_task=work.cluster.cpus_per_task)
    for done, _ in enumerate(written, start=1):
        work.progress.update(done, len(items), "files")


def write_part(item: dict[str, Any]) -> None:
    """Writes one file of training documents; a task. {"place", "files": of blocks, "rows": of each, int64 bytes}."""
    tables = []
    for file, rows in zip(item["files"], item["rows"], strict=True):
        taken = np.frombuffer(rows, np.int64)
        tables.append(pq.read_table(file, columns=DOCUMENTS.names, use_threads=False).take(pa.array(taken)))
    _write(pa.concat_tables(tables), Path(item["place"]))


def write_held_out(held: HeldOut, folder: Path, part_bytes: int) -> None:
    """Held-out documents, blocks taken together until a file is full; one empty file if there are none."""
    parts: list[list[pa.Table]] = [[]]
    room = part_bytes
    for table in held.tables:
        if room <= 0:
            parts.append([])
            room = part_bytes
        parts[-1].append(table)
        room -= _text_bytes(table)
    for number, part in enumerate(parts):
        _write(pa.concat_tables([DOCUMENTS.empty_table(), *part]), folder / f"part-{number:05}.parquet")


def write_rejected(blocks: list[Block], place: Path) -> None:
    """The bad rows of all blocks."""
    _write(pa.concat_tables([REJECTED.empty_table(), *(pq.read_table(block.rejected) for block in blocks)]), place)


def facts(work: Work, read: Read, marks: Marks, train: np.ndarray, held: pa.Table) -> Facts:
    """The funnel: documents/read = documents/kept + every documents/dropped_*; kept ones are training or held out."""
    kept = marks.table.filter(pa.array(train)).select(["language", "text_bytes"])
    found: Facts = {name: read.counts[name] for name in ("documents/read", "bytes/read", "rows/bad")}
    for suffix, rest, own in [("", kept, held)] + [
        (f"_{language}", kept.filter(pc.field("language") == language), held.filter(pc.field("language") == language))
        for language in LANGUAGES
    ]:
        held_bytes = _text_bytes(own)
        found[f"documents/kept{suffix}"] = rest.num_rows + own.num_rows
        found[f"bytes/kept{suffix}"] = sum(rest.column("text_bytes").to_pylist()) + held_bytes
        found[f"documents/held_out{suffix}"] = own.num_rows
        found[f"bytes/held_out{suffix}"] = held_bytes
    reasons = [EMPTY, *(reason for used in work.options.filters.enabled() for reason in used.reasons)]
    for reason in reasons:
        found[f"documents/dropped_{reason}"] = read.counts[f"documents/dropped_{reason}"]
    if read.documents_per_s is not None:
        found["corpus/documents_per_s"] = read.documents_per_s
    return found


def per_block(blocks: list[Block], starts: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[int, Block, np.ndarray]]:
    """(number, block, its chosen rows counted from its first) of each block with any."""
    for number, block in enumerate(blocks):
        rows = np.flatnonzero(chosen[starts[number] : starts[number + 1]])
        if len(rows):
            yield number, block, rows


def _lines(block: Block, rows: np.ndarray) -> np.ndarray:
    column = pq.read_table(block.file, columns=["long_lines"]).column(0).take(pa.array(rows))
    return pc.call_function("list_flatten", [column]).to_numpy().astype(np.uint64)


def _write(table: pa.Table, place: Path) -> None:
    with Publication(place) as file:
        # One chunk a column: how a table was put together must not show in the bytes.
        pq.write_table(table.combine_chunks(), file.temporary, compression="zstd", row_group_size=ROW_GROUP)
        file.publish()


def _fixed(column: Any) -> np.ndarray:
    """uint8[rows, width] of a fixed-size binary array."""
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width : (column.offset + len(column)) * width]
    return data.reshape(len(column), width)


def _text_bytes(table: pa.Table) -> int:
    return sum(utf8_bytes(text) for text in table.column("text").to_pylist())


def _nothing_left(counts: Counter[str]) -> str:
    reasons = {name.removeprefix("documents/dropped_"): number for name, number in counts.items() if "dropped_" in name}
    told = ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items())) or "none was dropped"
    return (
        f"corpus: no document is left of {counts['documents/read']:,} read ({told}; {counts['rows/bad']:,} bad rows); "
        f"check the sources' text columns, or loosen corpus.filters"
    )
