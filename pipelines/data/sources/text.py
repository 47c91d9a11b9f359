"""Plain text: .txt, .md and .rst files, also compressed. A document is a file, a paragraph or a line.

Ranges of a large plain file of lines or paragraphs are read in parallel.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipelines.data.sources import encodings, streams
from pipelines.data.sources.encodings import BOM
from pipelines.data.sources.files import RAW_CHARACTERS
from pipelines.data.sources.ranges import RangedSource
from pipelines.data.sources.source import TEXT_ROWS, BadRow, Row
from pipelines.data.sources.streams import Utf8Stream

BLANKS = b" \t\r\n"


class Text(RangedSource):
    """Documents from text files."""

    kind: str = Field(default="text", description="Kind of the source: files of plain text")
    split: Literal["file", "blank_lines", "lines"] = Field(
        default="file", description="Unit that makes a document: a file, the text between blank lines, or a line"
    )
    suffixes: ClassVar = streams.with_compressed(".txt", ".md", ".rst")

    def is_divisible(self, file: Path) -> bool:
        return self.split != "file" and self.rows in TEXT_ROWS and super().is_divisible(file)

    def has_lines(self, file: Path) -> bool:
        return self.split != "file" and super().has_lines(file)

    def ends_range(self, line: bytes) -> bool:
        is_blank = line.endswith(b"\n") and len(line) <= self.max_row_bytes and not line.strip(BLANKS)
        return self.split == "lines" or is_blank

    def read_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row | BadRow]:
        """Yields one row for each document, numbered by the line on which it starts."""
        encoding = self.text_encoding(file)
        line = first_line = self.first_line(args)
        with self.open_range(file, args, encoding) as stream:
            for line, document, size, is_whole in self._documents(stream, first_line):
                if size > self.max_row_bytes:
                    problem = self.too_long(size) + (" (split: blank_lines)" if self.split == "file" else "")
                    yield BadRow(row=line, problem=problem, raw=document.decode(errors="replace")[:RAW_CHARACTERS])
                elif is_whole:
                    yield _row(line, document, encoding)
            if stream.damage:
                yield BadRow(row=line, problem=f"{stream.damage}; what follows line {line} is lost")

    def _documents(self, stream: Utf8Stream, first_line: int) -> Iterator[tuple[int, bytes, int, bool]]:
        """Yields (number of its first line, bytes, size, whether its end is in the file) of each document; of one over
        the maximum a beginning only."""
        if self.split == "file":
            data = stream.read(self.max_row_bytes + 1)
            yield 1, data, len(data), not stream.damage
        elif self.split == "lines":
            for number, (line, size) in enumerate(streams.bounded_lines(stream, self.max_row_bytes), first_line):
                if line.strip():
                    yield number, line.removesuffix(b"\n"), size, line.endswith(b"\n") or not stream.damage
        else:
            yield from _paragraphs(stream, self.max_row_bytes, first_line)


def _paragraphs(stream: Utf8Stream, max_bytes: int, first_line: int) -> Iterator[tuple[int, bytes, int, bool]]:
    """Yields the texts between blank lines, without the end of their last line and the indent of their first, as
    `_documents` does."""
    document, size, first = bytearray(), 0, first_line  # bytes would be copied for each line
    for number, (line, line_bytes) in enumerate(streams.bounded_lines(stream, max_bytes), first_line):
        if number > 1 and line.endswith(b"\n") and not line.strip(BLANKS):
            if document.strip():
                yield first, bytes(document.removesuffix(b"\n")), size, True
            document, size = bytearray(), 0
            continue
        if not document:
            first, line = number, line if number == 1 else line.lstrip(b" \t\r")
        size += line_bytes
        if size <= max_bytes or not document:
            document += line
    if document.strip():
        yield first, bytes(document.removesuffix(b"\n")), size, not stream.damage


def _row(line: int, document: bytes, encoding: str) -> Row | BadRow:
    try:
        return Row(row=line, text=document.removeprefix(BOM).decode())
    except UnicodeDecodeError as error:
        problem = encodings.not_in(encoding, f"{error.reason} at byte {error.start} of the document")
        return BadRow(row=line, problem=problem, raw=document.decode(errors="replace")[:RAW_CHARACTERS])
