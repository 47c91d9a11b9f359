"""How much text the files of a source hold: counted where that is quick, else estimated from their beginnings.

rows   lines of the files (.jsonl, .csv), or what Parquet's footer says
bytes  rows × the text of the rows looked at, told apart by language
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.data.sources import SOURCES
from pipelines.data.sources.files import FileSource
from pipelines.data.sources.source import BadRow
from pipelines.data.text.languages import language_of
from pipelines.errors import UserError

READ_BYTES = 32 << 20  # of text: read in about a second; with more the rest is estimated
READ_ROWS = 200_000
COUNTED_BYTES = 64 << 20  # of a file: half a second of unpacking and counting lines
GZIP_RATIO = 3  # text shrinks about threefold


@dataclass(frozen=True)
class Amount:
    """What some files hold. exact: counted, not estimated."""

    rows: int
    file_bytes: int  # on disk
    text_bytes: dict[str, int]  # UTF-8, by language; empty for rows that are no running text
    exact: bool


def amount(options: dict[str, Any]) -> Amount:
    """What the files of a source hold. options: of the source, its path absolute.

    Raises UserError if a file is missing, empty or damaged."""
    source = SOURCES[options["kind"]].model_validate(options)
    assert isinstance(source, FileSource)
    files = source.files()
    file_bytes = sum(file.stat().st_size for file in files)
    rows = bad = 0
    text = Counter[str]()
    for row in (row for part in source.parts() for row in source.read(part)):
        if rows + bad >= READ_ROWS or text.total() >= READ_BYTES:
            break
        if isinstance(row, BadRow):
            bad += 1
            continue
        rows += 1
        if source.rows == "text":
            language = row.language or source.language
            text[language_of(row.text[:2000]) if language == "auto" else language] += len(row.text.encode())
    else:
        return Amount(rows, file_bytes, dict(text), exact=True)
    times = _times(source, files, rows + bad, text.total())
    return Amount(round(rows * times), file_bytes, {name: round(n * times) for name, n in text.items()}, exact=False)


def _times(source: FileSource, files: list[Path], rows: int, text_bytes: int) -> float:
    """How much more there is than what was read: rows of records, bytes of plain text."""
    if source.kind == "text":
        unpacked = sum(file.stat().st_size * (GZIP_RATIO if file.suffix == ".gz" else 1) for file in files)
        return max(1.0, unpacked / text_bytes)
    return max(1.0, _rows(source.kind, files) / rows)


def _rows(kind: str, files: list[Path]) -> int:
    if kind == "parquet":
        import pyarrow.parquet

        return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    return sum(map(count_lines, files))


def count_lines(file: Path) -> int:
    """Lines of a file, gzipped or not; what lies beyond 64 MiB of text is estimated.

    Raises UserError if gzip data is damaged."""
    lines = read = 0
    last = b"\n"
    with file.open("rb") as raw:
        stream: BinaryIO = gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw  # type: ignore[assignment]
        try:
            while chunk := stream.read(1 << 20):
                lines, read, last = lines + chunk.count(b"\n"), read + len(chunk), chunk[-1:]
                if read >= COUNTED_BYTES and raw.tell() < file.stat().st_size:
                    return round(lines * file.stat().st_size / raw.tell())
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{file}: damaged or not gzip ({error}); expected a whole .gz file") from None
    return lines + (last != b"\n")
