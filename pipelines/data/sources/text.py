"""Plain text: .txt, .md and .rst files, also gzipped. A document is a file, a paragraph or a line."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from pipelines.data.sources.files import RAW_CHARACTERS, FileSource
from pipelines.data.sources.source import BadRow, Part, Row
from pipelines.errors import UserError

BLANK_LINES = re.compile(rb"\n[ \t\r]*(?:\n[ \t\r]*)+")


class Text(FileSource):
    """Documents from text files."""

    kind: str = Field(default="text", description="Kind of the source: files of plain text")
    split: Literal["file", "blank_lines", "lines"] = Field(
        default="file", description="Unit that makes a document: a file, the text between blank lines, or a line"
    )
    suffixes: ClassVar = (".txt", ".md", ".rst", ".txt.gz", ".md.gz", ".rst.gz")

    def parts(self) -> list[Part]:
        """Divides the source into one part for each file."""
        return [
            Part(index=index, where=self.display_path(file), group=file.name, bytes=file.stat().st_size,
                 args={"file": str(file)})
            for index, file in enumerate(self.files())
        ]  # fmt: skip

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Yields one row for each document, numbered by the line on which it starts."""
        data = _read_bytes(Path(part.args["file"])).removeprefix(b"\xef\xbb\xbf")
        for line, document in _documents(data, self.split):
            try:
                yield Row(row=line, text=document.decode())
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 ({error.reason} at byte {error.start} of the document); expected UTF-8 text"
                yield BadRow(row=line, problem=problem, raw=document.decode(errors="replace")[:RAW_CHARACTERS])


def _read_bytes(file: Path) -> bytes:
    try:
        return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{file}: damaged or not gzip ({error}); expected a complete .gz file") from None


def _documents(data: bytes, split: str) -> Iterator[tuple[int, bytes]]:
    """Yields (number of its first line, bytes) of each document that is not blank."""
    if split == "file":
        yield 1, data
        return
    separator = BLANK_LINES if split == "blank_lines" else re.compile(rb"\n")
    start, line = 0, 1
    for stop, next_start in [*(match.span() for match in separator.finditer(data)), (len(data), len(data))]:
        document = data[start:stop]
        if document.strip():
            yield line, document
        line += data.count(b"\n", start, next_start)
        start = next_start
