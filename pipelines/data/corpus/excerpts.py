"""Excerpts of a corpus: row groups of its files, chosen at random, where a sample of the texts is enough.

    footers of all files ──► rows of each language in each row group ──seeded hash──► enough row groups of each language

What is not chosen is not read, except footers and, of row groups with several languages, the column `language`.
A corpus of a few row groups is its own excerpt; sizes are exact then, and estimates from the excerpt otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pipelines.data.corpus import corpora

MIN_GROUPS = 32  # of each language, so that a sample is of many files and sources
MARGIN = 2  # bytes of text of a language in its row groups, over those that are needed


class RowGroup(NamedTuple):
    """One row group of a Parquet file."""

    hash: int
    part: Path
    number: int
    rows: dict[str, int]  # by language
    row_bytes: float  # mean bytes of a text


@dataclass(frozen=True)
class Excerpt:
    """Row groups of a split, in the order of the corpus."""

    groups: list[RowGroup]
    split_rows: Mapping[str, int]  # by language, of the whole split

    @cached_property
    def rows(self) -> Counter[str]:
        """Rows of the excerpt by language."""
        return sum((Counter(group.rows) for group in self.groups), Counter())

    @cached_property
    def split_bytes(self) -> dict[str, float]:
        """Bytes of text by language of the whole split, if its texts are as long as those of the excerpt."""
        sizes: Counter[str] = Counter()
        for batch in self.batches():
            lengths = pc.call_function("binary_length", [batch.column("text")])
            table = pa.table({"language": batch.column("language"), "bytes": lengths})
            for row in table.group_by("language").aggregate([("bytes", "sum")]).to_pylist():
                sizes[row["language"]] += row["bytes_sum"]
        return {name: sizes[name] * self.split_rows[name] / self.rows[name] for name in sorted(sizes)}

    def batches(self, columns: Sequence[str] = ("language", "text")) -> Iterator[pa.RecordBatch]:
        """Yields record batches of the row groups."""
        for part, groups in groupby(self.groups, key=lambda group: group.part):
            with pq.ParquetFile(part) as file:
                numbers = [group.number for group in groups]
                yield from file.iter_batches(row_groups=numbers, columns=list(columns), batch_size=4096)

    def sample(self, repeats: Mapping[str, float], seed: int) -> Iterator[str]:
        """Yields texts in document order, as many of each language as the whole split's rows × its `repeats`.

        Of an excerpt that is the whole split, 0.3 selects the 30% of documents whose seeded hash is lowest; 2.5 yields
        each twice and half of them a third time, however the corpus is divided into parts."""
        used = {name: repeats.get(name, 0.0) * self.split_rows[name] / rows for name, rows in self.rows.items()}
        for batch in self.batches(("id", "language", "text")):
            rows = zip(*(batch.column(name).to_pylist() for name in ("id", "language", "text")), strict=True)
            for document_id, language, text in rows:
                times, fraction = divmod(used[language], 1.0)
                once_more = xxhash.xxh3_64_intdigest(document_id.encode(), seed) / 2**64 < fraction
                for _ in range(int(times) + once_more):
                    yield text


def choose(corpus: Path, split: str, *, min_bytes: int, seed: int) -> Excerpt:
    """Chooses the row groups of lowest seeded hash, for each language until they are MIN_GROUPS and hold more than
    min_bytes of its text; all where there are fewer. Holds no more of them in memory than twice those."""
    split_rows: Counter[str] = Counter()
    kept: dict[str, list[RowGroup]] = {}
    for group in _row_groups(corpus, split, seed):
        split_rows.update(group.rows)
        for language in group.rows:
            groups = kept.setdefault(language, [])
            groups.append(group)
            if len(groups) >= 2 * MIN_GROUPS and len(groups) % MIN_GROUPS == 0:
                kept[language] = _enough(groups, language, MARGIN * min_bytes)
    chosen = {
        (group.part, group.number): group
        for language, groups in kept.items()
        for group in _enough(groups, language, MARGIN * min_bytes)
    }
    return Excerpt([chosen[place] for place in sorted(chosen)], split_rows)


def _row_groups(corpus: Path, split: str, seed: int) -> Iterator[RowGroup]:
    for part in corpora.parts(corpus, split):
        with pq.ParquetFile(part) as file:
            columns = {file.metadata.schema.column(i).path: i for i in range(file.metadata.num_columns)}
            for number in range(file.num_row_groups):
                metadata = file.metadata.row_group(number)
                row_bytes = metadata.column(columns["text"]).total_uncompressed_size / max(metadata.num_rows, 1)
                place = xxhash.xxh3_64_intdigest(f"{part.name}/{number}".encode(), seed)
                yield RowGroup(place, part, number, _rows_by_language(file, number, columns["language"]), row_bytes)


def _rows_by_language(file: pq.ParquetFile, number: int, column: int) -> dict[str, int]:
    """Counts the rows of a row group by language; from its statistics where it has one language alone."""
    group = file.metadata.row_group(number)
    statistics = group.column(column).statistics
    if statistics is not None and statistics.has_min_max and statistics.min == statistics.max:
        return {statistics.min: group.num_rows}
    return dict(Counter(file.read_row_group(number, columns=["language"]).column(0).to_pylist()))


def _enough(groups: list[RowGroup], language: str, min_bytes: float) -> list[RowGroup]:
    """The row groups of lowest hash that are enough for a language, or all."""
    size = 0.0
    ordered = sorted(groups)
    for number, group in enumerate(ordered, 1):
        size += group.rows[language] * group.row_bytes
        if number >= MIN_GROUPS and size >= min_bytes:
            return ordered[:number]
    return ordered
