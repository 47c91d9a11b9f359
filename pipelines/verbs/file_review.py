"""What a run would make of a file: rows read, used and not used by reason, columns used and not used, languages.

    file ──source with the recipe's options──► its first rows ──the stage's own functions──► counts by reason
                                                │         (cleaning.clean, parse_conversation, parse_preferences)
                                                └──► columns that are read, and columns that carry a value and are not

The counts are those of the run as far as a row is judged by itself: duplicates are found over all files, so not here.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from pipelines.data.sources import SOURCES
from pipelines.data.sources.amounts import characters
from pipelines.data.sources.bad_rows import (
    UNREADABLE,
    BadRowLimit,
    Problem,
    RejectedRows,
    default_limit,
    parse_records,
)
from pipelines.data.sources.cells import has_value
from pipelines.data.sources.csv import Csv
from pipelines.data.sources.delimiters import NAMES
from pipelines.data.sources.files import RecordSource
from pipelines.data.sources.record_formats import columns_not_used
from pipelines.data.sources.sniffing import SniffResult
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.data.text.languages import language_name
from pipelines.dialogue_options import DialogueOptions

MAX_TEXT_BYTES = 4 << 20  # of running text, judged in half a second; beyond, counts are estimates
MAX_RECORD_BYTES = 16 << 20  # of conversations and pairs
MAX_TEXTS, MAX_RECORDS = 10_000, 3000  # rows: short ones take longer than their bytes
MAX_IMAGES = 100  # a few seconds of decoding
MAX_COLUMN_ROWS = 2000  # of a file that is not judged as a whole: whose columns are counted
MIN_ROWS = 300  # of each file, however many there are
MIN_PERMUTATIONS = 16  # of the signatures, which are not needed here
MAX_COLUMNS = 20  # that are named on one line
MAX_REASONS = 5  # of a file, with the first row of each
TURNS_CUT = {"before": "before the first user's", "after": "after the last reply that is learnt"}
NO_STAGE = "no_stage"  # reason of rows that no stage trains on


@dataclass(frozen=True)
class FileReview:
    """What a run would make of a file, or of a folder of text files."""

    path: Path
    name: str  # the path; of several kinds of documents, or splits, in one folder with that: "docs (pdf)"
    encoding: str | None
    language: str  # of the source: en, zh or auto
    delimiter: str | None = None  # between the cells of a table
    quotes_are_text: bool = False  # in the cells of a table, which they do not enclose
    rows_read: int = 0
    not_used: Mapping[str, int] = field(default_factory=dict)  # rows by reason
    dropped: Mapping[str, int] = field(
        default_factory=dict
    )  # those of them that were understood, and left out by a rule
    firsts: Mapping[str, str] = field(default_factory=dict)  # by reason: file:line: problem of the first row
    columns_used: Mapping[str, int] = field(default_factory=dict)  # with the rows in which they carry a value
    columns_not_used: Mapping[str, int] = field(default_factory=dict)
    columns_kept: Mapping[str, int] = field(default_factory=dict)  # of images: beside the caption, as text in `meta`
    languages: Mapping[str, int] = field(default_factory=dict)  # rows used by language
    other_languages: Mapping[str, int] = field(default_factory=dict)  # rows that are not used for their language
    turns_cut: Mapping[str, int] = field(default_factory=dict)  # of rows used: left out before or after what is learnt
    turns_joined: int = 0  # of rows used: that are one with the turn of the same role before them
    exact: bool = True  # all rows were read; otherwise counts are estimated from the first ones

    @property
    def rows_used(self) -> int:
        return self.rows_read - sum(self.not_used.values())

    @property
    def num_bad(self) -> int:
        """Rows that are not used because something is wrong with them."""
        return sum(self.not_used.values()) - sum(self.dropped.values())

    @property
    def is_understood(self) -> bool:
        """Whether any row was understood, even if a rule leaves it out; one without text is not."""
        return self.rows_used + sum(self.dropped.values()) - self.dropped.get("empty", 0) > 0

    def scaled(self, rows: int) -> FileReview:
        """The estimate for the whole file, of which the first rows were read. rows: those of the whole file."""
        if self.exact or not self.rows_read:
            return self
        factor = max(1.0, rows / self.rows_read)

        def larger(counts: Mapping[str, int]) -> dict[str, int]:
            return {name: round(number * factor) for name, number in counts.items()}

        return replace(
            self, rows_read=round(self.rows_read * factor), not_used=larger(self.not_used),
            dropped=larger(self.dropped), columns_used=larger(self.columns_used),
            columns_not_used=larger(self.columns_not_used), columns_kept=larger(self.columns_kept),
            languages=larger(self.languages), other_languages=larger(self.other_languages),
            turns_cut=larger(self.turns_cut), turns_joined=round(self.turns_joined * factor),
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """As `rayse init --json` prints it."""
        return {
            "rows_read": self.rows_read, "rows_used": self.rows_used, "not_used": dict(self.not_used),
            "columns_used": dict(self.columns_used), "columns_not_used": dict(self.columns_not_used),
            "columns_kept": dict(self.columns_kept),
            "encoding": self.encoding, "delimiter": self.delimiter, "language": self.language,
            "languages": dict(self.languages), "other_languages": dict(self.other_languages),
            "turns_cut": dict(self.turns_cut), "turns_joined": self.turns_joined, "exact": self.exact,
        }  # fmt: skip


class FirstRows(Source):
    """The first rows of another source, counted as they are read."""

    _source: Source = PrivateAttr()
    _max_bytes: int = PrivateAttr()
    _max_rows: int = PrivateAttr()
    _bytes: int = PrivateAttr(default=0)
    _rows: int = PrivateAttr(default=0)
    _complete: bool = PrivateAttr(default=True)

    @classmethod
    def of(cls, source: Source, max_bytes: int) -> FirstRows:
        """The rows of a source until they have so many bytes, at least MIN_ROWS."""
        first = cls(kind=source.kind, rows=source.rows, language=source.language)
        first._source, first._max_bytes = source, max_bytes
        first._max_rows = MAX_TEXTS if source.rows == "text" else MAX_RECORDS
        return first

    @property
    def num_rows(self) -> int:
        """Number of rows that were read."""
        return self._rows

    @property
    def is_complete(self) -> bool:
        """Whether no row is left."""
        return self._complete

    def each_part(self) -> Iterator[Part]:
        return self._source.each_part()

    @property
    def _is_full(self) -> bool:
        return self._rows >= MIN_ROWS and (self._bytes >= self._max_bytes or self._rows >= self._max_rows)

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        if self._is_full:  # to reach the first row of a range, all lines before it would be counted
            self._complete = False
            return
        for row in self._source.read(part):
            if self._is_full:
                self._complete = False
                return
            self._rows += 1
            self._bytes += _size(row)
            yield row


def _size(row: Row | BadRow) -> int:
    """Characters of a row's texts."""
    if isinstance(row, BadRow):
        return len(row.raw)
    return len(row.text) + (0 if row.record is None else characters(row.record))


def review(file: SniffResult, name: str, num_files: int) -> FileReview:
    """What the run would make of a file. name: for messages; num_files: of all files, among which the bytes that are
    read are divided."""
    assert file.row_format is not None
    rows = file.row_format.rows
    source = _source(file)
    empty = FileReview(file.path, name, file.encoding, file.language)
    if isinstance(source, Csv):
        delimiter, literal = source.delimiter_of(file.path), source.quotes_are_text(file.path)
        empty = replace(empty, delimiter=delimiter, quotes_are_text=literal)
    if rows == "images":
        return _review_images(empty, file)
    if rows == "text":
        return _review_texts(empty, file, MAX_TEXT_BYTES // num_files)
    return _review_records(empty, file, rows, MAX_RECORD_BYTES // num_files)


def _review_texts(empty: FileReview, file: SniffResult, max_bytes: int) -> FileReview:
    """Cleans the documents as the corpus stage does, with the default filters."""
    from pipelines.data.corpus import cleaning
    from pipelines.stages.corpus.options import CorpusOptions

    first = FirstRows.of(_source(file), max_bytes)
    counts, languages, firsts = Counter[str](), Counter[str](), dict[str, str]()
    rules = CorpusOptions().rules(first, seed=0)
    for batch in cleaning.clean("text", first, first.parts(), rules=rules, permutations=MIN_PERMUTATIONS):
        counts.update(batch.counts)
        languages.update(batch.documents.column("language").to_pylist())
        for row in batch.rejected.to_pylist():
            firsts.setdefault(row["reason"], f"{row['where']}:{row['row']}: {row['problem']}")
    prefix = "documents/dropped_"
    dropped = {name.removeprefix(prefix): number for name, number in counts.items() if name.startswith(prefix)}
    bad = {UNREADABLE: counts["rows/bad"]} if counts["rows/bad"] else {}
    prefix = cleaning.OTHER_LANGUAGE
    others = {name.removeprefix(prefix): number for name, number in counts.items() if name.startswith(prefix)}
    num_counted = first.num_rows if first.is_complete else min(first.num_rows, MAX_COLUMN_ROWS)
    used, not_used = _text_columns(file, num_counted, first.num_rows / max(1, num_counted))
    num_rows = first.num_rows + counts["documents/parts"] - counts["documents/split"]  # a part counts as a row
    return replace(
        empty, rows_read=num_rows, not_used=bad | dropped, dropped=dropped, firsts=firsts, languages=languages,
        other_languages=others, columns_used=used, columns_not_used=not_used, exact=first.is_complete,
    )  # fmt: skip


def _review_images(empty: FileReview, file: SniffResult) -> FileReview:
    """Checks the images as the stage does, with its default options."""
    from pipelines.stages.images.blocks import image_document, preparation
    from pipelines.stages.images.options import ImagesOptions

    source, how = _source(file), preparation(ImagesOptions())
    num_rows, exact = 0, True
    not_used, dropped, languages, firsts = Counter[str](), Counter[str](), Counter[str](), dict[str, str]()
    kept = Counter[str]()
    rows = ((part, row) for part in source.parts() for row in source.read(part))
    for part, row in rows:
        if num_rows == MAX_IMAGES:
            exact = False
            break
        num_rows += 1
        document = image_document("file", source, part, row, how)
        if isinstance(document, Problem):
            not_used[document.reason] += 1
            dropped[document.reason] += document.by_rule
            firsts.setdefault(document.reason, f"{part.where}:{row.row}: {document.text}")
        else:
            languages[document["language"]] += 1
            kept.update(name for name, _ in document["meta"] if name != "file")
    return replace(
        empty, rows_read=num_rows, not_used=not_used, dropped=+dropped, firsts=firsts, columns_kept=kept,
        languages=languages, exact=exact,
    )  # fmt: skip


def _text_columns(file: SniffResult, num_rows: int, factor: float) -> tuple[Counter[str], Counter[str]]:
    """Columns that the source reads, and columns that it does not, with the rows in which they carry a value.

    num_rows: those that are read; factor: by which their numbers are multiplied."""
    used, not_used = Counter[str](), Counter[str]()
    text_source = _source(file)
    if not isinstance(text_source, RecordSource):
        return used, not_used
    read = text_source.required_columns()
    records = _source(file, rows="conversations")
    for row in itertools.islice((row for part in records.parts() for row in records.read(part)), num_rows):
        if isinstance(row, Row) and row.record is not None:
            columns = [name for name, value in _columns(row.record, read) if has_value(value)]
            used.update(name for name in columns if name in read)
            not_used.update(name for name in columns if name not in read)
    estimates = [Counter({name: round(number * factor) for name, number in c.items()}) for c in (used, not_used)]
    return estimates[0], estimates[1]


def _columns(record: Mapping[str, Any], read: Sequence[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of each column, and of each within a column of which one is read by itself."""
    for name, value in record.items():
        inner = f"{prefix}{name}."
        if isinstance(value, dict) and any(column.startswith(inner) for column in read):
            yield from _columns(value, read, inner)
        else:
            yield f"{prefix}{name}", value


def _review_records(empty: FileReview, file: SniffResult, rows: str, max_bytes: int) -> FileReview:
    """Parses the records as the stage does that reads this kind of rows."""
    from pipelines.data.dialogues.source_rows import read_by_sources

    first = FirstRows.of(_source(file), max_bytes)
    used, not_used, languages, cut = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    num_joined = 0
    parse_record, text_of = _parser(rows)
    read_by_source = read_by_sources({"file": _source(file)})

    def parse(record: Mapping[str, Any]) -> Any:
        parsed = parse_record(record)
        unused = [name for name in columns_not_used(record, rows) if name not in read_by_source]
        used.update(name for name, value in record.items() if has_value(value) and name not in unused)
        not_used.update(unused)
        return parsed

    rejected = RejectedRows(Path(os.devnull), BadRowLimit(sys.maxsize))
    for _, _, language, parsed in parse_records({"file": first}, rejected, parse, text_of, lambda number: None):
        languages[language] += 1
        cut.update({"before": parsed.num_cut_before, "after": getattr(parsed, "num_cut", 0)})
        num_joined += parsed.num_joined
    return replace(
        empty, rows_read=first.num_rows, not_used=rejected.reasons, dropped=+rejected.by_rule, firsts=rejected.firsts,
        languages=languages, other_languages=rejected.other_languages, columns_used=used, columns_not_used=not_used,
        turns_cut=+cut, turns_joined=num_joined, exact=first.is_complete,
    )  # fmt: skip


def _parser(rows: str) -> tuple[Callable[[Mapping[str, Any]], Any], Callable[[Any], str]]:
    """The function that parses and judges a record as the stage does with the default options, and one that returns
    the text of what it parsed."""
    from pipelines.data.dialogues.conversation_records import parse_conversation
    from pipelines.data.dialogues.preference_records import parse_preferences
    from pipelines.data.dialogues.source_rows import RowReader

    reader = RowReader(rows, DialogueOptions.model_validate({}).outlier_rules())
    if rows == "conversations":
        return reader.parse(parse_conversation), lambda parsed: parsed.text
    if rows == "preferences":
        return reader.parse(parse_preferences), lambda parsed: parsed.text
    return lambda record: Problem(NO_STAGE, f"rows: {rows} are trained on by no stage", by_rule=True), str


def _source(file: SniffResult, **options: Any) -> Source:
    """The source as the recipe will have it."""
    values = {**file.options, "path": [str(path.absolute()) for path in file.paths], **options}
    return SOURCES[file.kind].model_validate(values)


def describe_file(file: FileReview) -> list[str]:
    """What a run would make of a file: rows, columns, reasons with the first row of each, and a warning."""
    about = "" if file.exact else "about "
    rows = f"read {about}{num_rows(file.rows_read)}, used {about}{file.rows_used:,}"
    if file.not_used:
        rows += f"; not used: {_counts(file.not_used, about)}"
    languages = "" if len(file.languages) < 2 else f" ({_counts(file.languages, about)})"
    encoding = f", encoding {file.encoding}" if file.encoding else ""
    delimiter = f", delimiter {NAMES.get(file.delimiter, file.delimiter)}" if file.delimiter not in (None, ",") else ""
    quotes = ", quotes are text" if file.quotes_are_text else ""
    lines = [f"{file.name}: {rows}; language {file.language}{languages}{encoding}{delimiter}{quotes}"]
    if file.other_languages:
        names = {language_name(code): number for code, number in file.other_languages.items()}
        lines.append(f"    other languages: {_counts(names, about)}; a recipe is in English and Chinese")
    if file.columns_used:
        lines.append(f"    columns used: {', '.join(file.columns_used)}")
    for title, numbers in (("not used", file.columns_not_used), ("kept in meta", file.columns_kept)):
        if numbers:
            columns = [f"{name} ({about}{num_rows(number)})" for name, number in numbers.items()]
            more = f", and {len(columns) - MAX_COLUMNS:,} more" if len(columns) > MAX_COLUMNS else ""
            lines.append(f"    columns {title}: {', '.join(columns[:MAX_COLUMNS])}{more}")
    for place, of in TURNS_CUT.items():
        if place in file.turns_cut:
            lines.append(f"    turns left out {of}: {about}{file.turns_cut[place]:,}")
    if file.turns_joined:
        lines.append(f"    turns joined with the one before them, of the same role: {about}{file.turns_joined:,}")
    for reason in sorted(file.firsts, key=lambda reason: -file.not_used[reason])[:MAX_REASONS]:
        lines.append(f"    {reason}: {file.firsts[reason]}")
    dropped = {reason: number for reason, number in file.dropped.items() if reason != NO_STAGE}
    if dropped:
        lines.append(f"    warning: the run would leave out, by its rules, {_counts(dropped, about)}")
    allowed = default_limit(file.rows_read)
    if file.num_bad > allowed:
        lines.append(f"    warning: the run would stop: {file.num_bad:,} bad rows, and max_bad_rows allows {allowed:,} "
                     f"of them; fix the rows, or raise it")  # fmt: skip
    return lines


def num_rows(number: int) -> str:
    """1 row; 4,000 rows."""
    return f"{number:,} {'row' if number == 1 else 'rows'}"


def _counts(numbers: Mapping[str, int], about: str) -> str:
    """4 unreadable, 2 too_long: the most frequent first."""
    return ", ".join(f"{about}{number:,} {name}" for name, number in sorted(numbers.items(), key=lambda item: -item[1]))
