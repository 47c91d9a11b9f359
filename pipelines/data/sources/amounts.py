"""The amount of text in the files of a source: counted if that is quick, otherwise estimated from their first rows.

rows   lines of the files (.jsonl, .csv), or the number in Parquet's footer
bytes  rows × the mean text of the rows that were read, by language
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

MAX_READ_BYTES = 32 << 20  # of text, which takes about a second; beyond, the rest is estimated
MAX_READ_ROWS = 100_000  # short rows take longer than their bytes
MAX_COUNTED_BYTES = 64 << 20  # of a file, half a second of decompressing and counting lines; beyond, estimated
GZIP_RATIO = 3  # typical compression of text


@dataclass(frozen=True)
class Amount:
    """The amount of text in some files. exact: counted, not estimated."""

    rows: int
    file_bytes: int  # size on disk
    text_bytes: dict[str, int]  # UTF-8, by language; empty where rows are not text
    exact: bool


def amount(options: dict[str, Any]) -> Amount:
    """Counts or estimates the text in the files of a source. options: those of the source, its path absolute.

    Raises UserError if a file is missing, empty or damaged."""
    source = SOURCES[options["kind"]].model_validate(options)
    assert isinstance(source, FileSource)
    files = source.files()
    file_bytes = sum(file.stat().st_size for file in files)
    num_rows = num_bad = image_bytes = 0
    text_bytes = Counter[str]()
    for row in (row for part in source.parts() for row in source.read(part)):
        if num_rows + num_bad >= MAX_READ_ROWS or text_bytes.total() + image_bytes >= MAX_READ_BYTES:
            break
        if isinstance(row, BadRow):
            num_bad += 1
            continue
        num_rows += 1
        if source.rows == "images" and row.record is not None:
            image_bytes += len(row.record["image"])
        if source.rows == "text":
            language = row.language or source.language
            if language == "auto":
                language = language_of(row.text[:2000])
            text_bytes[language] += len(row.text.encode())
    else:
        return Amount(num_rows, file_bytes, dict(text_bytes), exact=True)
    if source.rows == "images":
        return Amount(round(num_rows * max(1.0, file_bytes / max(1, image_bytes))), file_bytes, {}, exact=False)
    factor = _extrapolation_factor(source, files, num_rows + num_bad, text_bytes.total())
    estimated_bytes = {language: round(size * factor) for language, size in text_bytes.items()}
    return Amount(round(num_rows * factor), file_bytes, estimated_bytes, exact=False)


def _extrapolation_factor(source: FileSource, files: list[Path], num_rows: int, text_bytes: int) -> float:
    """Ratio of the whole source to what was read: rows of records, bytes of plain text. At least 1."""
    if source.kind == "text":
        plain_bytes = sum(file.stat().st_size * (GZIP_RATIO if file.suffix == ".gz" else 1) for file in files)
        return max(1.0, plain_bytes / text_bytes)
    return max(1.0, _count_rows(source.kind, files) / num_rows)


def _count_rows(kind: str, files: list[Path]) -> int:
    if kind == "parquet":
        import pyarrow.parquet

        return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    return sum(map(count_lines, files))


def count_lines(file: Path) -> int:
    """Counts the lines of a file, gzipped or not; extrapolates from the first 64 MiB of text.

    Raises UserError if gzip data is damaged."""
    num_lines = num_bytes = 0
    last = b"\n"
    with file.open("rb") as raw:
        stream: BinaryIO = gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw  # type: ignore[assignment]
        try:
            while chunk := stream.read(1 << 20):
                num_lines += chunk.count(b"\n")
                num_bytes += len(chunk)
                last = chunk[-1:]
                if num_bytes >= MAX_COUNTED_BYTES and raw.tell() < file.stat().st_size:
                    return round(num_lines * file.stat().st_size / raw.tell())
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{file}: damaged or not gzip ({error}); expected a complete .gz file") from None
    return num_lines + (last != b"\n")
