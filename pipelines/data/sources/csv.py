"""Tables as text: .csv and .tsv files with a header line.

    lines ──csv.reader──► cells ──► Row | BadRow
      ▲                     │ a quote that is not closed properly
      └── all but the first ┘

A quote that is never closed would make one cell of all lines after it. The line where it stands is a bad row, and
reading goes on at the next line. Lines that were looked at in vain count against a budget, to which records that are
read add, so that a table full of such quotes is not read anew from each.

Ranges of a large table are read in parallel, where `csv_ranges` can tell which records are theirs.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from pipelines.data.sources import csv_ranges, delimiters, encodings, streams
from pipelines.data.sources.csv_ranges import MAX_LINES
from pipelines.data.sources.files import (
    RAW_CHARACTERS,
    FileProblem,
    RecordSource,
    state,
)
from pipelines.data.sources.ranges import RangedSource
from pipelines.data.sources.source import TEXT_ROWS, BadRow, Part, Row

MAX_CELL_BYTES = 1 << 30  # the default of Python's csv is 128 KiB; max_row_bytes is the limit here
MIN_LOOK_AHEAD = 16 << 10  # characters after a record's first line, however many quotes before it were not closed
MAX_READINGS = 8  # of what is left of a file, by records that have no end in it
EARNED = 4  # characters of look-ahead for each one of a record that was read
TSV = streams.with_compressed(".tsv")


class Csv(RangedSource, RecordSource):
    """Rows of .csv and .tsv files; the first line names the columns."""

    kind: str = Field(default="csv", description="Kind of the source: .csv and .tsv files with a header line")
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="Character between cells; default: that of comma, semicolon, tab and | with which the first "
        "records fit the header, found out in each file",
    )
    quotes: Literal["enclose", "text"] | None = Field(
        default=None,
        description="What quotation marks at the beginning of cells are: those that enclose a cell, or text like any "
        "other; default: they enclose cells, but are text where they make no sense in a table with tabs",
    )
    suffixes: ClassVar = streams.with_compressed(".csv", ".tsv")
    needs_look: ClassVar = True

    def identity(self) -> dict[str, Any]:
        """Adds what was found out: delimiters that are not those of the files' suffixes, quotes that are text."""
        identity = super().identity()
        formats = [  # one file after the other: of more than the cache holds each is read once
            (encodings.readable_name(file.name), self.quotes_are_text(file), self._quotes_are_escaped(file),
             self.delimiter_of(file)) for file in self.each_file()
        ]  # fmt: skip
        if self.quotes is None:
            del identity["quotes"]
            literal = [name for name, is_text, _, _ in formats if is_text]
            identity |= {"quotes_are_text": literal} if literal else {}
            escaped = [name for name, _, is_escaped, _ in formats if is_escaped]
            identity |= {"quotes_are_escaped": escaped} if escaped else {}
        if self.delimiter is None:
            delimiters = {name: delimiter for name, _, _, delimiter in formats}
            others = {name: one for name, one in delimiters.items() if one not in (None, _usual_delimiter(name))}
            identity |= {"delimiters": others} if others else {}
        return identity

    def is_divisible(self, file: Path) -> bool:
        """Whether records of a file can be told from its bytes: not where its first line says how it is written, or
        quotes within cells are written with a backslash."""
        if self.rows not in TEXT_ROWS or not super().is_divisible(file):
            return False
        table = _detected_format(file, self.text_encoding(file))
        delimiter = self.delimiter or table.delimiter
        if table.is_announced or self._quotes_are_escaped(file) or not delimiter.isascii() or delimiter in '"\r\n':
            return False
        try:
            return bool(self.file_columns(file))
        except FileProblem:  # told once, by whom reads the file
            return False

    def pieces(self, file: Path) -> Iterator[dict[str, Any]]:
        for piece in super().pieces(file):
            yield piece | {"first_row": None} if "start" in piece else piece

    def has_lines(self, file: Path) -> bool:
        return False  # of no use: a line may be within a record

    def count_rows(self, part: Part, lines_before: Sequence[int] = ()) -> Any:
        """No count, but what a range of a file is if it does not begin within quotes, and if it does: see `csv_ranges`;
        0 for a whole file."""
        if "start" not in part.args:
            return 0
        file = Path(part.args["file"])
        encoding = self.text_encoding(file)
        delimiter = self.delimiter or _detected_format(file, encoding).delimiter
        with self.open_range(file, part.args, encoding) as stream:
            return csv_ranges.look(
                stream, delimiter, has_quotes=not self.quotes_are_text(file), max_bytes=self.max_row_bytes
            )

    def numbered(self, parts: Iterable[Part], counts: Iterable[Any]) -> Iterator[Part]:
        pairs = zip(parts, counts, strict=True)
        for _, of_file in itertools.groupby(pairs, key=lambda pair: pair[0].args["file"]):
            ranges, looks = zip(*of_file, strict=True)
            if "start" not in ranges[0].args:
                yield from ranges
                continue
            for part, place in zip(ranges, csv_ranges.places(looks, self.max_row_bytes), strict=True):
                stop = ranges[place.last_range].args["stop"]
                yield replace(part, first_row=place.first_line, args=part.args | place.args | {"stop": stop})

    def delimiter_of(self, file: Path) -> str | None:
        """The character between the cells of a file; None for data that is not text."""
        encoding = self.encoding_of(file)
        return self.delimiter or (encoding and _detected_format(file, encoding).delimiter)

    def quotes_are_text(self, file: Path) -> bool:
        """Whether quotation marks are text in a file, and enclose no cells."""
        encoding = self.encoding_of(file)
        if self.quotes is not None or encoding is None:
            return self.quotes == "text"
        return _detected_format(file, encoding).quotes_are_text and self.delimiter in (None, "\t")

    def _quotes_are_escaped(self, file: Path) -> bool:
        """Whether quotes within the cells of a file are written with a backslash."""
        encoding = self.encoding_of(file)
        return self.quotes is None and encoding is not None and _detected_format(file, encoding).quotes_are_escaped

    def read_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row | BadRow]:
        """Yields one row for each record, numbered by the line on which it ends.

        Of ranges that nobody has looked at the first one has all records of the file."""
        start, last_line = args.get("start", 0), args.get("last_line")
        if args.get("is_empty", start > 0 and "last_line" not in args):
            return
        encoding = self.text_encoding(file)
        is_placed = "start" not in args or "last_line" in args
        with self.open_range(file, args if is_placed else args | {"stop": args["end"]}, encoding) as stream:
            lines, reader = self._reader(file, stream)
            columns = self.file_columns(file) if start else _header(reader)
            lines.skip(args.get("skipped", 0), before=(args["first_row"] or 1) - 1)
            while last_line is None or lines.number < last_line:
                lines.begin_record()
                try:
                    cells = next(reader)
                except StopIteration:
                    break
                except (csv.Error, _TooLong) as error:
                    yield self._unread(lines, error)
                    continue
                if stream.damage and not lines.record[-1].endswith(("\n", "\r")):
                    break
                if cells:
                    yield self._row(lines, columns, cells, encoding)
            if stream.damage:
                yield BadRow(row=lines.number + 1, problem=f"{stream.damage}; what follows line {lines.number} is lost")

    def file_columns(self, file: Path) -> list[str]:
        """The names in the header. Raises FileProblem if it has none, or one twice."""
        with streams.open_utf8(file, self.text_encoding(file)) as stream:
            columns = _header(self._reader(file, stream)[1])
            if not columns:
                raise FileProblem(stream.damage or "the first line is blank; expected the names of the columns")
            return columns

    def _reader(self, file: Path, stream: streams.Utf8Stream) -> tuple[_Lines, Iterator[list[str]]]:
        csv.field_size_limit(MAX_CELL_BYTES)
        # Bytes that are not text come through as lone surrogates, so that one bad row does not end the file.
        text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")
        escaped = self._quotes_are_escaped(file)
        lines = _Lines(text, self.max_row_bytes, escaped)
        table_format = _detected_format(file, self.text_encoding(file))
        if table_format.is_announced:
            next(lines)
        quoting = csv.QUOTE_NONE if self.quotes_are_text(file) else csv.QUOTE_MINIMAL
        reader = csv.reader(lines, delimiter=self.delimiter or table_format.delimiter, quoting=quoting, strict=True)
        return lines, map(delimiters.unmarked, reader) if escaped else reader

    def _unread(self, lines: _Lines, error: Exception) -> BadRow:
        """The bad row at the line where a record begins that cannot be read; its other lines are read again."""
        first, num_lines, raw = lines.number - len(lines.record) + 1, len(lines.record), lines.record[0]
        lines.take_back()
        problem = f"not CSV ({error})"
        if num_lines > 1:
            swallowed = f"{num_lines - 1:,} line{'s' if num_lines > 2 else ''}"
            problem += f": a quote here is not closed properly; it swallows {swallowed}, read again as rows"
        expected = "expected cells of a table; where quotes are text and enclose no cells, say quotes: text"
        return BadRow(row=first, problem=f"{problem}; {expected}", raw=raw[:RAW_CHARACTERS])

    def _row(self, lines: _Lines, columns: list[str], cells: list[str], encoding: str) -> Row | BadRow:
        problem = ""
        if len(cells) != len(columns):
            problem = f"{len(cells)} cells; expected {len(columns)} as in the header"
        elif not all(encodings.encodable(cell) for cell in cells):
            problem = encodings.not_in(encoding, "a byte that stands for no character")
        if problem:
            return BadRow(row=lines.number, problem=problem, raw="".join(lines.record)[:RAW_CHARACTERS])
        return self.to_row(lines.number, dict(zip(columns, cells, strict=True)))


class _TooLong(Exception):
    """A record is longer than the maximum."""


class _Lines:
    """The lines of a table, for csv.reader. Those of the record that is being read can be taken back."""

    def __init__(self, stream: io.TextIOWrapper, max_characters: int, quotes_are_escaped: bool):
        self.stream = stream
        self.quotes_are_escaped = quotes_are_escaped
        self.max_characters = max_characters
        self.again: deque[str] = deque()  # lines that were taken back
        self.record: list[str] = []
        self.characters = 0  # of the record
        self.number = 0  # of the last line that was read, from 1
        self.ended = False  # whether the record reached the file's end
        self.budget = 2 * max_characters  # of which a record may look half ahead, so that none takes all of it

    def skip(self, num_lines: int, *, before: int) -> None:
        """Goes on behind so many lines; before: number of those that stand before the stream."""
        for _ in range(num_lines):
            self.begin_record()
            next(self)
        self.number += before

    def begin_record(self) -> None:
        self.budget = min(self.budget + EARNED * self.characters, 2 * self.max_characters)
        self.record, self.characters, self.ended = [], 0, False

    def take_back(self) -> None:
        """Gives all lines of the record but its first to the next records."""
        first, *others = self.record
        self.again.extendleft(reversed(others))
        self.number -= len(others)
        taken = self.characters - len(first)
        self.budget = min(self.budget - taken, MAX_READINGS * taken if self.ended else self.budget)
        self.record, self.characters = [first], len(first)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else self.stream.readline(self.max_characters + 1)
        if not line:
            self.ended = True
            raise StopIteration
        self.number += 1
        self.record.append(line)
        self.characters += len(line)
        if self.characters > self.max_characters:
            if len(self.record) == 1:
                self._skip_line()
            raise _TooLong(f"a record of more than {self.max_characters:,} characters, which max_row_bytes allows")
        look_ahead = max(MIN_LOOK_AHEAD, self.budget // 2)
        if self.characters - len(self.record[0]) > look_ahead:
            raise _TooLong(f"no end within {look_ahead:,} characters, and many quotes before it are not closed")
        if len(self.record) > MAX_LINES:
            raise _TooLong(f"a record of more than {MAX_LINES:,} lines, the maximum")
        return delimiters.marked(line) if self.quotes_are_escaped else line

    def _skip_line(self) -> None:
        """Reads to the end of a line that is too long by itself."""
        line = self.record[0]
        self.record[0] = line[:RAW_CHARACTERS]
        while line and not line.endswith(("\n", "\r")):
            line = self.stream.readline(streams.BUFFER_BYTES)


def _header(reader: Iterator[list[str]]) -> list[str]:
    """Reads the names of the columns, without spaces around them; a blank one becomes column 3, by its position.

    Raises FileProblem if there are none, or one is there twice."""
    try:
        columns = [name.strip() or f"column {number}" for number, name in enumerate(next(reader, []), 1)]
    except (csv.Error, _TooLong) as error:
        raise FileProblem(f"the header is not CSV ({error}); expected the names of the columns") from None
    doubled = sorted({column for column in columns if columns.count(column) > 1})
    if doubled:
        raise FileProblem(f"the header has {', '.join(doubled)} more than once; give each column its own name")
    return columns


def _usual_delimiter(name: str) -> str:
    return "\t" if name.lower().endswith(TSV) else ","


class _Format(NamedTuple):
    """How the cells of a table are written."""

    delimiter: str
    is_announced: bool  # by the first line
    quotes_are_text: bool
    quotes_are_escaped: bool


def _detected_format(file: Path, encoding: str) -> _Format:
    """How the cells of a file are written, detected from its beginning."""
    return _cached_format(file, encoding, *state(file))


@lru_cache(maxsize=4096)
def _cached_format(file: Path, encoding: str, size: int, modified_ns: int) -> _Format:
    with streams.open_utf8(file, encoding) as stream:
        data = stream.read(delimiters.SAMPLE_BYTES)
    text = data.decode(errors="replace")
    if len(data) == delimiters.SAMPLE_BYTES:  # the last record may be cut
        text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1] or text
    delimiter = delimiters.detect(text, _usual_delimiter(file.name))
    literal = delimiters.quotes_are_text(text, delimiter)
    escaped = not literal and delimiters.quotes_are_escaped(text, delimiter)
    return _Format(delimiter, delimiters.is_announced(text), literal, escaped)
