"""The amount of text in the files of a source: counted if that is quick, otherwise estimated from their first rows.

rows   lines of the files (.jsonl, .csv), or the number in Parquet's footer
bytes  rows × the mean text of the rows that were read, by language
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.data.sources import SOURCES, streams
from pipelines.data.sources.csv import Csv
from pipelines.data.sources.files import FileSource
from pipelines.data.sources.jsonl import Jsonl
from pipelines.data.sources.parquet import Parquet
from pipelines.data.sources.source import BadRow, Row
from pipelines.data.text.languages import LANGUAGES, document_language

MAX_READ_BYTES = 24 << 20  # of text, which takes about half a second; beyond, the rest is estimated
MAX_READ_ROWS = 50_000  # short rows take longer than their bytes
IDENTIFIED_ROWS, IDENTIFIED_EVERY = 2000, 17  # the language of the first rows, then of every 17th, is found out
MAX_COUNTED_BYTES = 64 << 20  # of a file, half a second of decompressing and counting lines; beyond, estimated
ONE_ROW_FILES = ("html", "pdf", "docx", "epub")
TEXT_FRACTION = {"warc": 0.25, "json": 0.8}  # typical text in a file's bytes: of pages most is markup


@dataclass(frozen=True)
class Amount:
    """The amount of text in some files. exact: counted, not estimated."""

    rows: int
    file_bytes: int  # size on disk
    text_bytes: dict[str, int]  # UTF-8, by language, of the rows in the source's; empty where rows are not text
    exact: bool


def amount(options: dict[str, Any]) -> Amount:
    """Counts or estimates the text in the files of a source. options: those of the source, its path absolute.

    Raises UserError if a file is missing or the only one is empty or not of its kind."""
    source = SOURCES[options["kind"]].model_validate(options)
    assert isinstance(source, FileSource)
    files = source.files()
    file_bytes = sum(file.stat().st_size for file in files)
    num_rows = num_bad = read_bytes = 0
    texts = _TextBytes(source.language)
    for row in (row for part in source.parts() for row in source.read(part)):
        if num_rows + num_bad >= MAX_READ_ROWS or read_bytes >= MAX_READ_BYTES:
            break
        if isinstance(row, BadRow):
            num_bad += 1
            continue
        num_rows += 1
        read_bytes += texts.add(row) if source.rows == "text" else characters(row.record)
    else:
        return Amount(num_rows, file_bytes, texts.by_language(), exact=True)
    if source.rows == "images":
        return Amount(round(num_rows * max(1.0, file_bytes / max(1, read_bytes))), file_bytes, {}, exact=False)
    factor = _extrapolation_factor(source, files, num_rows + num_bad, read_bytes)
    estimated_bytes = {language: round(size * factor) for language, size in texts.by_language().items()}
    return Amount(round(num_rows * factor), file_bytes, estimated_bytes, exact=False)


@dataclass
class _TextBytes:
    """Bytes of texts by language. Of many rows the language is found out of some, and stands for those before it."""

    language: str  # of the source
    num_rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    last: str = ""
    pending: int = 0  # bytes since the last row whose language was found out

    def add(self, row: Row) -> int:
        """Counts a row, and returns its bytes."""
        size = len(row.text.encode())
        self.num_rows, self.pending = self.num_rows + 1, self.pending + size
        if self.num_rows <= IDENTIFIED_ROWS or self.num_rows % IDENTIFIED_EVERY == 0:
            named = row.language or self.language
            language = document_language(row.text, named)
            self.last = language if named in ("auto", language) else ""
            self.counts[self.last] += self.pending
            self.pending = 0
        return size

    def by_language(self) -> dict[str, int]:
        """Bytes in English and Chinese: the corpus leaves out other languages, and texts not in their source's."""
        counts = self.counts + Counter({self.last: self.pending})
        return {language: size for language, size in counts.items() if language in LANGUAGES}


def characters(value: Any) -> int:
    """Characters of all texts in a value, and bytes; eight for each number."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(characters, value.values()))
    return sum(map(characters, value)) if isinstance(value, list) else 8


def _extrapolation_factor(source: FileSource, files: list[Path], num_rows: int, read_bytes: int) -> float:
    """Ratio of the whole source to what was read: rows of records, files, or bytes of text. At least 1."""
    if source.kind in ONE_ROW_FILES:
        return max(1.0, len(files) / num_rows)
    if isinstance(source, Parquet):
        return max(1.0, sum(part.args.get("rows", 0) for part in source.parts()) / num_rows)
    if isinstance(source, Jsonl | Csv) and not (isinstance(source, Jsonl) and any(map(source.is_document, files))):
        return max(1.0, sum(map(count_lines, files)) / num_rows)
    plain_bytes = sum(file.stat().st_size * (streams.RATIO if streams.is_compressed(file) else 1) for file in files)
    return max(1.0, plain_bytes * TEXT_FRACTION.get(source.kind, 1.0) / max(1, read_bytes))


def count_lines(file: Path) -> int:
    """Counts the lines of a file, compressed or not, up to where it is damaged; extrapolates from the first 64 MiB."""
    num_lines = num_bytes = 0
    last = b"\n"
    with streams.open_bytes(file) as stream:
        while chunk := stream.read(1 << 20):
            num_lines += chunk.count(b"\n")
            num_bytes += len(chunk)
            last = chunk[-1:]
            if num_bytes >= MAX_COUNTED_BYTES and stream.file_position < file.stat().st_size:
                return round(num_lines * file.stat().st_size / stream.file_position)
    return num_lines + (last != b"\n")
