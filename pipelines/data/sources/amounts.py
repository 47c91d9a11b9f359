"""The amount of text in the files of a source: counted if that is quick, otherwise estimated from their first rows.

rows   lines of the files (.jsonl, .csv), or the number in Parquet's footer
bytes  rows × the mean text of the rows that were read, by language
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.data.sources import SOURCES, streams
from pipelines.data.sources.csv import Csv
from pipelines.data.sources.files import FileSource
from pipelines.data.sources.jsonl import Jsonl
from pipelines.data.sources.parquet import Parquet
from pipelines.data.sources.source import BadRow
from pipelines.data.text.languages import LANGUAGES, document_language

MAX_READ_BYTES = 32 << 20  # of text, which takes about a second; beyond, the rest is estimated
MAX_READ_ROWS = 100_000  # short rows take longer than their bytes
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
    text_bytes = Counter[str]()
    for row in (row for part in source.parts() for row in source.read(part)):
        if num_rows + num_bad >= MAX_READ_ROWS or read_bytes >= MAX_READ_BYTES:
            break
        if isinstance(row, BadRow):
            num_bad += 1
            continue
        num_rows += 1
        if source.rows == "images" and row.record is not None:
            read_bytes += len(row.record["image"])
        if source.rows == "text":
            size, named = len(row.text.encode()), row.language or source.language
            read_bytes += size
            language = document_language(row.text, named)
            if language in LANGUAGES and named in ("auto", language):  # the corpus leaves out the others
                text_bytes[language] += size
    else:
        return Amount(num_rows, file_bytes, dict(text_bytes), exact=True)
    if source.rows == "images":
        return Amount(round(num_rows * max(1.0, file_bytes / max(1, read_bytes))), file_bytes, {}, exact=False)
    factor = _extrapolation_factor(source, files, num_rows + num_bad, read_bytes)
    estimated_bytes = {language: round(size * factor) for language, size in text_bytes.items()}
    return Amount(round(num_rows * factor), file_bytes, estimated_bytes, exact=False)


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
