"""First half of the stage: sources are divided into blocks, and each block is read and cleaned by one task.

A block is a run of parts of one source, so that one task reads several small parts (packages, topics). Its files in the
draft are named by the source and the parts, and complete or absent: a resumed run reads only the missing blocks.

    <block>.parquet            documents, with their sizes and the hashes of their long lines
    <block>.signatures.arrow   their MinHash signatures, sizes and places: any few rows of them are read by themselves
    <block>.exact.arrow        their marks for exact deduplication, sorted by hash: a bucket of them lies together
    <block>.bands.arrow        their marks for near duplicates, sorted in the same way
    <block>.rejected.parquet   rows that are not used
    <block>.contaminated.parquet   overlaps with evaluation sets, where the recipe has any
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.errors import DiskFull
from pipelines.blocks import (
    COUNTS,
    AtomicFile,
    Block,
    deal,
    plan,
    remove_unpublished,
    unpack,
    write_arrow,
)
from pipelines.data.corpus import cleaning, duplicates
from pipelines.data.corpus.documents import DOCUMENTS, REJECTED, REPEATED, REPEATED_REJECTED
from pipelines.data.corpus.rules import Rules
from pipelines.data.sources.bad_rows import UNREADABLE, BadRowLimit
from pipelines.data.sources.source import Source
from pipelines.parallel import map_in_order, note_compressed, num_parallel_tasks, still_missing, with_first_rows
from pipelines.stage import Work
from pipelines.stages.corpus.checks import CheckFiles, prepare

FIRST_BAD = b"rayse.first_bad"  # the key of "file:line: problem" of the first bad row in a block's metadata
COLUMNS = [*DOCUMENTS.names, "text_bytes", "long_lines"]  # of a block's documents
KEYS = ["id", "key", "signature", "text_bytes"]  # the columns of which marks are made
PLACE = r"/(?P<part>\d+)/(?P<row>\d+)(?:\.\d+)?$"  # of an id: documents.DOCUMENTS
# Both the number of spans and buckets and the work in each grow with the root of the corpus: 16 for a gigabyte, 500 of
# 2 GB for a terabyte, so that neither the number of files a task opens nor its memory gets out of hand.
ROOT_BYTES = 4_000_000
WRITE_BYTES = 8 << 20  # of batches that are written together: a row group has fixed costs


@dataclass(frozen=True)
class CleanedBlocks:
    """All blocks, cleaned, with their counts."""

    blocks: list[Block]
    counts: Counter[str]
    checks: CheckFiles
    checked: list[Path]  # the blocks' files as they were read: beside them lie the lists of the checks
    documents_per_s: float | None  # of this attempt; None if all blocks were already in the draft

    @property
    def files(self) -> list[str]:
        """The files of the blocks' documents, by the blocks' numbers."""
        return [str(block.file) for block in self.blocks]

    @property
    def num_buckets(self) -> int:
        """Number of tasks among which the marks of documents are dealt by hash."""
        return max(1, math.ceil(math.sqrt(sum(block.bytes for block in self.blocks) / ROOT_BYTES)))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Runs of blocks that one task goes through after cleaning: (number of the first, number after the last)."""
        sizes = [(number, block.bytes) for number, block in enumerate(self.blocks)]
        spans = deal(sizes, sum(size for _, size in sizes) / self.num_buckets)
        return [(span[0], span[-1] + 1) for span in spans]


def read(work: Work) -> CleanedBlocks:
    """Reads and cleans the blocks that are not in the draft yet.

    Raises UserError for a source that cannot be read, or for more bad rows than the recipe allows."""
    folder = work.draft.folder("blocks")
    remove_unpublished(folder)
    blocks = plan(work.sources, folder, work.options.block_bytes)
    missing: list[Block] = []
    counts: Counter[str] = Counter()
    bad_rows = BadRowLimit(work.options.max_bad_rows, work.name)
    for block in blocks:
        if not block.file.exists():
            missing.append(block)
            continue
        block_counts = block.counts()
        counts.update(block_counts)
        first = pq.read_metadata(block.file).metadata[FIRST_BAD].decode()
        bad_rows.add(block.source, rows=_num_rows(block_counts), bad=block_counts["rows/bad"], first=first)
    note_compressed(work, missing)
    checks = prepare(work)
    documents_before, start = counts["documents/read"], time.monotonic()
    cleaned = _clean_blocks(work, with_first_rows(work, blocks, missing), checks, bad_rows.max_rows)
    done = len(blocks) - len(missing)
    try:
        for block, (num_rows, num_bad, first) in cleaned:
            done += 1
            bad_rows.add(block.source, rows=num_rows, bad=num_bad, first=first)
            counts.update(block.counts())
            work.progress.update(done, len(blocks), "blocks", documents=counts["documents/read"])
    except DiskFull as error:
        files = [file for file in folder.iterdir() if not file.name.startswith(".")]  # others are gone in a moment
        raise DiskFull(f"{error}. {still_missing(files, done, len(blocks), 'blocks')}") from error
    bad_rows.check()
    elapsed_s = time.monotonic() - start
    num_documents = counts["documents/read"] - documents_before
    files = [block.file for block in blocks]
    return CleanedBlocks(blocks, counts, checks, files, num_documents / elapsed_s if missing else None)


def _clean_blocks(
    work: Work, missing: list[Block], checks: CheckFiles, max_bad_rows: int | None
) -> Iterator[tuple[Block, tuple[int, int, str]]]:
    """Cleans blocks on the cluster; yields each, in order, with the result of `clean_block` as soon as it is ready."""
    if not missing:
        return
    work.session.start()
    rules = {name: work.options.rules(source, work.seed) for name, source in work.sources.items()}
    cleaning.warm_up(filter_ for of_source in rules.values() for filter_ in of_source.filters)
    duplicates.warm_up()
    items = []
    for block in missing:
        items.append({"source": block.source, "parts": block.packed, "folder": str(block.folder)})
    results = map_in_order(
        clean_block,
        items,
        tasks=num_parallel_tasks(work),
        cpus_per_task=work.cluster.cpus_per_task,
        sources=dict(work.sources),
        rules=rules,
        permutations=work.options.permutations,
        near_duplicates=work.options.near_duplicates,
        max_bad_rows=max_bad_rows,
        check_files=checks,
    )
    yield from zip(missing, results, strict=True)


def clean_block(
    item: dict[str, Any],
    *,
    sources: Mapping[str, Source],
    rules: Mapping[str, Rules],
    permutations: int,
    near_duplicates: float | None,
    max_bad_rows: int | None,
    check_files: CheckFiles,
) -> tuple[int, int, str]:
    """Reads and cleans one block into its files. Runs in a task, so all its inputs are arguments.

    Returns (number of rows, of bad ones, file:line: problem of the first). Writes no file if too many are bad."""
    parts = unpack(item["parts"])
    block = Block.of(item["source"], parts, Path(item["folder"]))
    counts: Counter[str] = Counter()
    first_bad = ""
    checks = check_files.open()

    def too_many_bad() -> bool:  # the run will stop: no need to go on
        return max_bad_rows is not None and counts["rows/bad"] > max_bad_rows

    def batches() -> Iterator[tuple[pa.Table, pa.Table]]:
        nonlocal first_bad
        source, of_source = sources[block.source], rules[block.source]
        for batch in cleaning.clean(
            block.source,
            source,
            parts,
            rules=of_source,
            permutations=permutations,
            checks=checks,
            counts_groups=bool(check_files.harm),
        ):
            counts.update(batch.counts)
            first_bad = first_bad or _first_problem(batch.rejected)
            if too_many_bad():
                return
            yield batch.documents, batch.rejected

    def metadata() -> dict[bytes, str] | None:
        if too_many_bad():
            return None
        check_files.write(checks, block.file)
        return {COUNTS: json.dumps(counts), FIRST_BAD: first_bad}

    write_block(
        block,
        batches(),
        metadata,
        fields=check_files.fields,
        permutations=permutations,
        near_duplicates=near_duplicates,
    )
    return _num_rows(counts), counts["rows/bad"], first_bad


def write_block(
    block: Block,
    batches: Iterable[tuple[pa.Table, pa.Table]],
    metadata: Callable[[], Mapping[bytes, str | bytes] | None],
    *,
    fields: Sequence[pa.Field],
    permutations: int,
    near_duplicates: float | None,
) -> None:
    """Writes all files of a block, that of its documents last.

    batches: (documents of `cleaning.schema` and these fields, REJECTED). metadata: called after the last batch, it
    returns that of the documents' file; None: no file is written."""
    schema = pa.schema([*cleaning.schema(permutations), *fields])
    columns = [*COLUMNS, *(added.name for added in fields)]
    keys = [_selected(schema, KEYS).empty_table()]
    with AtomicFile(block.rejected) as rejected, AtomicFile(block.file) as documents:
        with (
            _writer(rejected, REJECTED, REPEATED_REJECTED, compression="none") as rejected_writer,  # read once
            _writer(documents, _selected(schema, columns), REPEATED, compression="zstd") as writer,
        ):
            for kept, not_kept in _joined(batches):
                writer.write_table(kept.select(columns))
                keys.append(kept.select(KEYS))
                rejected_writer.write_table(not_kept)
            if (entries := metadata()) is None:
                return
            writer.add_key_value_metadata(entries)
        _write_marks(block.file, pa.concat_tables(keys).combine_chunks(), near_duplicates)
        rejected.publish()
        documents.publish()


def _writer(file: AtomicFile, schema: pa.Schema, repeated: Any, *, compression: str) -> pq.ParquetWriter:
    """A writer of a file that tasks of this stage alone read, without statistics. repeated: those with dictionaries."""
    return pq.ParquetWriter(
        file.temporary, schema, compression=compression, use_dictionary=repeated, write_statistics=False
    )


def _joined(batches: Iterable[tuple[pa.Table, pa.Table]]) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yields consecutive batches as one: WRITE_BYTES and more, then what is left."""
    waiting: list[tuple[pa.Table, pa.Table]] = []
    num_bytes = 0
    for batch in batches:
        waiting.append(batch)
        num_bytes += sum(table.nbytes for table in batch)
        if num_bytes >= WRITE_BYTES:
            yield _as_one(waiting)
            waiting, num_bytes = [], 0
    if waiting:
        yield _as_one(waiting)


def _as_one(batches: Sequence[tuple[pa.Table, pa.Table]]) -> tuple[pa.Table, pa.Table]:
    return pa.concat_tables([kept for kept, _ in batches]), pa.concat_tables([not_kept for _, not_kept in batches])


def _selected(schema: pa.Schema, names: list[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in names])


def _write_marks(file: Path, keys: pa.Table, near_duplicates: float | None) -> None:
    """Writes the signatures and the marks of a block's documents."""
    ids, signatures, sizes = (keys.column(name).combine_chunks() for name in ("id", "signature", "text_bytes"))
    places = pc.call_function("extract_regex", [ids], pc.ExtractRegexOptions(PLACE))
    parts, rows = places.field("part").cast(pa.int32()), places.field("row").cast(pa.int64())
    batch = pa.record_batch([signatures, sizes, parts, rows], names=["signature", "text_bytes", "part", "row"])
    keys_D2 = fixed_size_bytes(keys.column("key").combine_chunks()).view(np.uint64)
    write_arrow(batch, file.with_suffix(".signatures.arrow"))
    write_arrow(duplicates.exact_marks(keys_D2), file.with_suffix(".exact.arrow"))
    if near_duplicates is not None:
        signatures_DP = fixed_size_bytes(batch.column("signature")).view(np.uint32)
        marks = duplicates.band_marks(signatures_DP, keys_D2, near_duplicates)
        write_arrow(marks, file.with_suffix(".bands.arrow"))


def fixed_size_bytes(column: pa.FixedSizeBinaryArray) -> np.ndarray:
    """Returns uint8[rows, width] of a fixed-size binary array, without a copy."""
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width : (column.offset + len(column)) * width]
    return data.reshape(len(column), width)


def _num_rows(counts: Counter[str]) -> int:
    return counts["documents/read"] + counts["rows/bad"]


def _first_problem(rejected: pa.Table) -> str:
    """Returns "file:line: problem" of the first bad row in a table of REJECTED, "" if it has none."""
    for row in rejected.filter(pc.field("reason") == UNREADABLE).slice(0, 1).to_pylist():
        return f"{row['where']}:{row['row']}: {row['problem']}"
    return ""
