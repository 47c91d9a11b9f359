"""Third part of the stage: chooses the held-out groups, and separates their documents from the others.

    blocks ──one task a span──► groups/<span>.parquet: sizes of groups ──one task──► groups/chosen.arrow: names
    blocks ──one task a span──► held_out/<span>.parquet: documents; fates/<span>.arrow: what becomes of each document;
                                survivors/<span>.arrow: what is kept instead of each duplicate

A span is a run of blocks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.blocks import COUNTS, AtomicFile, map_arrow, write_arrow
from pipelines.data.corpus import splitting
from pipelines.data.corpus.documents import document_columns
from pipelines.parallel import make_files
from pipelines.stage import Work
from pipelines.stages.corpus.blocks import CleanedBlocks, fixed_size_bytes
from pipelines.stages.corpus.deduplicate import duplicates_in
from pipelines.stages.corpus.survivors import write_survivors

TRAIN, HELD_OUT, EXACT, NEAR, SEMANTIC = range(5)  # what becomes of a document: the last are kinds of duplicates
FATES = pa.schema([("block", pa.int32()), ("fate", pa.int8())])
GROUP, DOCUMENT, LANGUAGE = "group", "document", "language"  # what a size is the size of
SIZES = pa.schema(
    [
        ("language", pa.string()),
        ("of", pa.string()),
        ("name", pa.string()),
        ("order", pa.uint64()),  # the salted hash of the name: those with the lowest are held out first
        ("bytes", pa.int64()),
    ]
)
CHOSEN = pa.schema([SIZES.field(name) for name in ("language", "of", "name")])  # names of what is held out
INDEX_COLUMNS = ["id", "source", "group", "language", "text_bytes"]
# Groups of a language among which to choose, and as many documents: those with the lowest hashes, as among all. Of
# small ones there are more: as many as have twice held_out_bytes.
MAX_NAMES = 100_000
ROW_GROUP_DOCUMENTS = 16_384  # a reader's unit of work
PART_SUFFIX = r"\.\d+$"  # of the id of a part of a document: see documents.document_of


@dataclass(frozen=True)
class Span:
    """A run of blocks, and the files in the draft that say what becomes of their documents."""

    first: int  # number of the first block
    stop: int  # number after that of the last
    fates: Path  # FATES of the documents, with counts in the metadata
    held_out: Path  # the held-out documents, with their signatures and long lines
    survivors: Path  # the places of the documents that are kept instead of its duplicates

    def counts(self) -> Counter[str]:
        """The counts of its documents, as `separate` counts them."""
        return Counter(json.loads(map_arrow(self.fates).schema.metadata[COUNTS]))


def hold_out(work: Work, cleaned: CleanedBlocks, duplicates: Path) -> list[Span]:
    """Chooses the held-out documents among all that are no duplicates. Returns the spans, with all their files.

    duplicates: the folder of `deduplicate`."""
    names = ("groups", "fates", "held_out", "survivors")
    groups, fates, held_out, survivors = (work.draft.folder(name) for name in names)
    spans = []
    for number, (first, stop) in enumerate(cleaned.spans):
        name = f"{number:05}.arrow"
        spans.append(Span(first, stop, fates / name, held_out / f"{number:05}.parquet", survivors / name))
    ranges = [{"first": span.first, "stop": span.stop} for span in spans]
    chosen = groups / "chosen.arrow"
    if work.options.held_out:
        sizes = [{"path": str(groups / span.held_out.name), **of} for span, of in zip(spans, ranges, strict=True)]
        _choose(work, cleaned, sizes, duplicates, chosen)
    else:  # no sizes are needed to choose none
        write_arrow(pa.RecordBatch.from_pylist([], CHOSEN), chosen)
    items = [
        {"path": str(span.fates), "held_out": str(span.held_out), "survivors": str(span.survivors), **blocks}
        for span, blocks in zip(spans, ranges, strict=True)
    ]
    make_files(work, separate, items, unit="spans separated", files=cleaned.files, duplicates=duplicates, chosen=chosen)
    return spans


def _choose(work: Work, cleaned: CleanedBlocks, sizes: list[dict[str, Any]], duplicates: Path, chosen: Path) -> None:
    """Writes the file of `choose_held_out`. sizes: the items of `measure_groups`."""
    max_bytes, seed = work.options.held_out_bytes, work.seed
    make_files(
        work,
        measure_groups,
        sizes,
        unit="spans measured",
        files=cleaned.files,
        duplicates=duplicates,
        max_bytes=max_bytes,
        seed=seed,
    )
    make_files(
        work,
        choose_held_out,
        [{"path": str(chosen)}],
        unit="choice of held-out text",
        sizes=[item["path"] for item in sizes],
        fraction=work.options.held_out,
        max_bytes=max_bytes,
        seed=seed,
    )


def measure_groups(item: dict[str, Any], *, files: Sequence[str], duplicates: Path, max_bytes: int, seed: int) -> None:
    """Writes SIZES of the groups, the documents and the languages in a span, without duplicates. Runs in a task.

    item: {"path": of the sizes, "first", "stop": the span's blocks}. files: those of all blocks. max_bytes: of each
    language's held-out text."""
    tables = []
    for block, *kinds in _duplicates_of_blocks(item, duplicates):
        table = pq.read_table(files[block], columns=INDEX_COLUMNS, use_threads=False)
        kept = np.ones(table.num_rows, np.bool_)
        kept[np.concatenate(kinds)] = False
        tables.append(table.filter(pa.array(kept)))
    table = pa.concat_tables(tables)
    names = {GROUP: _groups(table), DOCUMENT: _whole_documents(table), LANGUAGE: table.column("language")}
    sizes = [sizes_of(table, of, column, seed) for of, column in names.items()]
    write_parquet(lowest(sizes, max_bytes), Path(item["path"]))


def choose_held_out(item: dict[str, Any], *, sizes: Sequence[str], fraction: float, max_bytes: int, seed: int) -> None:
    """Writes the names of the groups and documents to hold out. Runs in a task.

    sizes: files of `measure_groups`. fraction, max_bytes: of each language's text, at most."""
    table = SIZES.empty_table()
    for file in sizes:
        table = lowest([table, pq.read_table(file)], max_bytes)
    chosen: list[dict[str, str]] = []
    for total in table.filter(pc.field("of") == LANGUAGE).sort_by("language").to_pylist():
        language = total["language"]
        groups, documents = (_named_sizes(table, language, of) for of in (GROUP, DOCUMENT))
        limit = min(fraction * total["bytes"], max_bytes)
        most = min(splitting.MAX_OVERSIZE * limit, max_bytes)  # a fraction may be exceeded, held_out_bytes may not
        whole_groups, names = splitting.choose(groups, documents, limit, salt=_salt(seed, language), most=most)
        of = GROUP if whole_groups else DOCUMENT
        chosen += [{"language": language, "of": of, "name": name} for name in sorted(names)]
    write_arrow(pa.RecordBatch.from_pylist(chosen, CHOSEN), Path(item["path"]))


def separate(item: dict[str, Any], *, files: Sequence[str], duplicates: Path, chosen: Path) -> None:
    """Writes the FATES of the documents of a span, its held-out documents and what is kept instead of its duplicates.
    Runs in a task.

    item: {"path": of the fates, "held_out", "survivors": paths of the others, "first", "stop": the span's blocks}.
    files: those of all blocks. chosen: the file of `choose_held_out`."""
    names = pa.Table.from_batches([map_arrow(chosen)])
    counts: Counter[str] = Counter()
    blocks, fates = [], []
    held_out = [_held_out_documents(files[int(item["first"])], np.empty(0, np.int64))]  # none: for the schema
    for block, exact, near, semantic in _duplicates_of_blocks(item, duplicates):
        table = pq.read_table(files[block], columns=INDEX_COLUMNS, use_threads=False)
        blocks.append(np.full(table.num_rows, block, np.int32))
        fates.append(np.full(table.num_rows, TRAIN, np.int8))
        fates[-1][_is_chosen(table, names)] = HELD_OUT
        fates[-1][semantic] = SEMANTIC
        fates[-1][near] = NEAR
        fates[-1][exact] = EXACT
        counts.update(_counts(block, table, fates[-1]))
        if len(rows := np.flatnonzero(fates[-1] == HELD_OUT)):
            held_out.append(_held_out_documents(files[block], rows))
    write_parquet(pa.concat_tables(held_out), Path(item["held_out"]))
    write_survivors(Path(item["survivors"]), duplicates, files, item["first"], item["stop"])
    schema = FATES.with_metadata({COUNTS: json.dumps(counts)})
    write_arrow(pa.record_batch([np.concatenate(blocks), np.concatenate(fates)], schema=schema), Path(item["path"]))


def rows_with(fate: int, span_fates: Path, block: int) -> np.ndarray:
    """Returns int64: the rows of a block's documents that have this fate."""
    blocks, fates = (column.to_numpy() for column in map_arrow(span_fates).columns)
    start, stop = np.searchsorted(blocks, np.array([block, block + 1], np.int32))
    return np.flatnonzero(fates[start:stop] == fate)


def chosen_rows(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Returns these rows of a table, which are ascending.

    By a mask: Table.take joins the chunks of each column first, which fails for more than 2 GiB of text."""
    mask = np.zeros(table.num_rows, np.bool_)
    mask[rows] = True
    return table.filter(pa.array(mask))


def write_parquet(tables: pa.Table | Iterable[pa.Table], path: Path, counts: Counter[str] | None = None) -> None:
    """Writes a Parquet file, complete or absent, whose bytes do not depend on how its rows are divided into tables.

    tables: one, or several of the same schema; one and a row group are in memory at a time. counts: kept in the file's
    metadata, for `counts_of`."""
    metadata = None if counts is None else {COUNTS: json.dumps(counts)}
    with AtomicFile(path) as file:
        groups = _row_groups([tables] if isinstance(tables, pa.Table) else tables)
        first = next(groups).replace_schema_metadata(metadata)
        with pq.ParquetWriter(file.temporary, first.schema, compression="zstd") as writer:
            writer.write_table(first)
            for group in groups:
                writer.write_table(group.replace_schema_metadata(metadata))
        file.publish()


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yields all rows, ROW_GROUP_DOCUMENTS at a time, each column in one piece; a table without rows if there are none.

    There is at least one table."""
    waiting: list[pa.Table] = []
    num_waiting, is_first = 0, True
    for table in tables:
        waiting.append(table)
        num_waiting += table.num_rows
        while num_waiting >= ROW_GROUP_DOCUMENTS:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, ROW_GROUP_DOCUMENTS).combine_chunks()
            waiting, is_first = [joined.slice(ROW_GROUP_DOCUMENTS)], False
            num_waiting -= ROW_GROUP_DOCUMENTS
    if num_waiting or is_first:
        yield pa.concat_tables(waiting).combine_chunks()


def _duplicates_of_blocks(
    item: dict[str, Any], duplicates: Path
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (block, rows of exact, of near, of semantic duplicates) of each block of a span."""
    kinds = duplicates_in(duplicates, item["first"], item["stop"])
    bounds = np.arange(item["first"], item["stop"] + 1) << 32
    starts = [np.searchsorted(documents, bounds) for documents in kinds]
    for number, block in enumerate(range(item["first"], item["stop"])):
        exact, near, semantic = (
            documents[start[number] : start[number + 1]] & 0xFFFFFFFF
            for documents, start in zip(kinds, starts, strict=True)
        )
        yield block, exact, near, semantic


def _groups(table: pa.Table) -> pa.ChunkedArray:
    return pc.call_function("binary_join_element_wise", [table.column("source"), table.column("group"), "/"])


def _whole_documents(table: pa.Table) -> pa.ChunkedArray:
    """The ids of the documents, of parts of one that of the whole document."""
    options = pc.ReplaceSubstringOptions(PART_SUFFIX, "")
    return pc.call_function("replace_substring_regex", [table.column("id")], options)


def sizes_of(table: pa.Table, of: str, names: pa.ChunkedArray, seed: int) -> pa.Table:
    """SIZES of the names of documents; `names` has one for each document of the table."""
    named = pa.table({"language": table.column("language"), "name": names, "bytes": table.column("text_bytes")})
    sizes = named.group_by(["language", "name"], use_threads=False).aggregate([("bytes", "sum")])
    languages, unique = sizes.column("language"), sizes.column("name")
    salts = pc.call_function("binary_join_element_wise", [f"{seed}", languages, "/"])
    orders = splitting.salted_hashes(unique, salts)
    columns = [languages, pa.array([of] * len(orders), pa.string()), unique, pa.array(orders, pa.uint64())]
    return pa.Table.from_arrays([*columns, sizes.column("bytes_sum")], schema=SIZES)


def lowest(tables: list[pa.Table], max_bytes: int, max_names: int = MAX_NAMES) -> pa.Table:
    """Adds up SIZES of equal names, and keeps the lowest hashes of each language, of groups and documents: `max_names`,
    and more while those below have less than twice `max_bytes`, so that as much can be chosen of the smallest groups.

    A name that is among the lowest of all is so in every table that has it, so its sizes add up to all its bytes."""
    keys = ["language", "of", "name", "order"]
    table = pa.concat_tables(tables).group_by(keys, use_threads=False).aggregate([("bytes", "sum")])
    table = table.rename_columns([*keys, "bytes"]).cast(SIZES)
    table = table.sort_by([(name, "ascending") for name in ("language", "of", "order", "name")])
    kinds = pc.call_function("binary_join_element_wise", [table.column("language"), table.column("of"), "/"]).to_numpy()
    begins = np.flatnonzero(np.concatenate([[True], kinds[1:] != kinds[:-1]])[: len(kinds)])
    numbers = np.diff(np.append(begins, len(kinds)))
    ranks = np.arange(len(kinds)) - np.repeat(begins, numbers)
    sizes = table.column("bytes").to_numpy()
    bytes_before = np.cumsum(sizes) - sizes  # of all names above, then of those of the same kind
    bytes_before -= np.repeat(bytes_before[begins], numbers)
    return table.filter(pa.array((ranks < max_names) | (bytes_before < 2 * max_bytes)))


def _named_sizes(table: pa.Table, language: str, of: str) -> dict[str, int]:
    part = table.filter((pc.field("language") == language) & (pc.field("of") == of))
    return dict(zip(part.column("name").to_pylist(), part.column("bytes").to_pylist(), strict=True))


def _salt(seed: int, language: str) -> str:
    return f"{seed}/{language}"


def _is_chosen(table: pa.Table, chosen: pa.Table) -> np.ndarray:
    """Returns bool[documents]: whether a document, or its group, is among the chosen names of its language."""
    is_chosen = np.zeros(table.num_rows, np.bool_)
    for of, names in ((GROUP, _groups(table)), (DOCUMENT, _whole_documents(table))):
        for language in chosen.column("language").unique().to_pylist():
            of_language = chosen.filter((pc.field("language") == language) & (pc.field("of") == of)).column("name")
            in_language = pc.call_function("equal", [table.column("language"), language]).to_numpy()
            is_in = pc.call_function("is_in", [names], pc.SetLookupOptions(of_language.combine_chunks())).to_numpy()
            is_chosen |= in_language & is_in
    return is_chosen


def _counts(block: int, table: pa.Table, fates: np.ndarray) -> Counter[str]:
    """Counts of a block's documents: train_documents, train_bytes, both by language, exact, near, semantic (the kinds
    of duplicates), held_out_bytes; and block_<number>: its bytes of training text, if it has any."""
    kinds = {"exact": EXACT, "near": NEAR, "semantic": SEMANTIC}
    counts = Counter({name: int((fates == kind).sum()) for name, kind in kinds.items()})
    sizes = table.column("text_bytes").to_numpy()
    counts["held_out_bytes"] = int(sizes[fates == HELD_OUT].sum())
    training = table.filter(pa.array(fates == TRAIN)).group_by("language", use_threads=False)
    for of_language in training.aggregate([("text_bytes", "count"), ("text_bytes", "sum")]).to_pylist():
        number, num_bytes = of_language["text_bytes_count"], of_language["text_bytes_sum"]
        for suffix in ("", f"_{of_language['language']}"):
            counts.update({f"train_documents{suffix}": number, f"train_bytes{suffix}": num_bytes})
    if (fates == TRAIN).any():
        counts[f"block_{block}"] = int(sizes[fates == TRAIN].sum())
    return counts


def _held_out_documents(file: str, rows: np.ndarray) -> pa.Table:
    """Reads documents of a block, with their signatures and long lines."""
    columns = [*document_columns(file), "long_lines"]
    documents = (
        pq.read_table(file, columns=columns) if len(rows) else pq.read_schema(file).empty_table().select(columns)
    )
    documents = chosen_rows(documents, rows)
    signatures = map_arrow(Path(file).with_suffix(".signatures.arrow")).column("signature")
    data = pa.py_buffer(np.ascontiguousarray(fixed_size_bytes(signatures)[rows]))
    column = pa.FixedSizeBinaryArray.from_buffers(signatures.type, len(rows), [None, data])
    return documents.append_column("signature", column)
