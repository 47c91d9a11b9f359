"""Plain text: .txt, .md and .rst files, also gzipped; a document is a file, a paragraph or a line."""

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

    kind: str = "text"
    split: Literal["file", "blank_lines", "lines"] = Field(default="file", description="what a document is")
    suffixes: ClassVar = (".txt", ".md", ".rst", ".txt.gz", ".md.gz", ".rst.gz")

    def parts(self) -> list[Part]:
        """A part a file."""
        return [
            Part(index=index, where=self.shown(file), group=file.name, bytes=file.stat().st_size,
                 args={"file": str(file)})
            for index, file in enumerate(self.files())
        ]  # fmt: skip

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Documents, numbered by the line on which they start."""
        data = _bytes(Path(part.args["file"])).removeprefix(b"\xef\xbb\xbf")
        for line, piece in _pieces(data, self.split):
            try:
                yield Row(row=line, text=piece.decode())
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 ({error.reason} at byte {error.start} of the document); expected UTF-8 text"
                yield BadRow(row=line, problem=problem, raw=piece.decode(errors="replace")[:RAW_CHARACTERS])


def _bytes(file: Path) -> bytes:
    try:
        return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{file}: damaged or not gzip ({error}); expected a whole .gz file") from None


def _pieces(data: bytes, split: str) -> Iterator[tuple[int, bytes]]:
    """(line it starts on, bytes) of each piece that is not blank."""
    if split == "file":
        yield 1, data
        return
    pattern = BLANK_LINES if split == "blank_lines" else re.compile(rb"\n")
    start, line = 0, 1
    for stop, after in [*(match.span() for match in pattern.finditer(data)), (len(data), len(data))]:
        piece = data[start:stop]
        if piece.strip():
            yield line, piece
        line += data.count(b"\n", start, after)
        start = after
