"""What says what an image shows: a record's caption, the text beside an image file, a folder's metadata file.

photo.jpg + photo.txt, photo.caption, photo.json         metadata.csv, metadata.jsonl: file_name, text, …
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipelines.data.sources import encodings
from pipelines.data.sources.parquet import open_parquet
from pipelines.data.sources.source import BadRow

CAPTION_COLUMNS = ("text", "caption", "captions", "txt", "alt_text", "alt", "description", "TEXT", "描述", "标题")
TEXT_SUFFIXES = (".txt", ".caption", ".text")  # beside an image file or in an archive: the caption itself
RECORD_SUFFIX = ".json"  # beside an image file or in an archive: an object with a column for the caption
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_COLUMN = "file_name"  # of metadata files: the image's path from the metadata file's folder
MAX_CAPTION_BYTES = 1 << 20  # of a file with a caption
MAX_META_CHARACTERS = 1000  # of a column that is kept beside the caption


@dataclass(frozen=True)
class CaptionColumns:
    """The columns that a source reads of a record beside an image."""

    text: str | None  # column of the caption; None: the first of CAPTION_COLUMNS that the record has
    group: str | None


@dataclass(frozen=True)
class Caption:
    """What is said of one image."""

    text: str = ""  # empty: nothing is said
    group: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)  # the other columns


@dataclass(frozen=True)
class Metadata:
    """One metadata file: captions by the image's path from the file's folder, and the lines that name no image."""

    captions: Mapping[str, Caption]
    rows: Mapping[str, int]  # the line of each path
    bad_rows: tuple[BadRow, ...]


def caption_of(record: Mapping[str, Any], columns: CaptionColumns) -> Caption:
    """The caption of a record; several captions of one image are lines of one text.

    >>> caption_of({"caption": ["A cat.", "A cat sleeps."], "licence": "CC0"}, CaptionColumns(None, None))
    Caption(text='A cat.\\nA cat sleeps.', group=None, meta={'licence': 'CC0'})
    """
    names = CAPTION_COLUMNS if columns.text is None else (columns.text,)
    name = next((name for name in names if record.get(name)), None)
    value = record.get(name) if name else None
    texts = value if isinstance(value, list) else [value]
    text = "\n".join(text.strip() for text in texts if isinstance(text, str) and text.strip())
    group = record.get(columns.group) if columns.group else None
    used = {name if text else None, columns.group, FILE_COLUMN}
    meta = {column: _as_text(value) for column, value in record.items() if column not in used and value is not None}
    return Caption(text, None if group is None else str(group), meta)


def caption_of_files(files: Mapping[str, bytes], columns: CaptionColumns) -> Caption | str:
    """The caption in the files of one image, by suffix: the text file's, else the record's. Or what is wrong with one.

    >>> caption_of_files({".txt": b"A cat.", ".json": b'{"url": "a"}'}, CaptionColumns(None, None))
    Caption(text='A cat.', group=None, meta={'url': 'a'})
    """
    for suffix, data in files.items():
        if len(data) > MAX_CAPTION_BYTES:
            return f"its {suffix} has {len(data):,} bytes; expected a caption of at most {MAX_CAPTION_BYTES:,}"
    caption = Caption()
    if RECORD_SUFFIX in files:
        record = parse_record(files[RECORD_SUFFIX])
        if isinstance(record, str):
            return record
        caption = caption_of(record, columns)
    text_file = next((suffix for suffix in TEXT_SUFFIXES if suffix in files), None)
    if text_file is None:
        return caption
    text = decoded(files[text_file])
    if text is None:
        return f"its {text_file} is no text in any encoding that is known; expected UTF-8 text"
    return Caption(text.strip() or caption.text, caption.group, caption.meta)


def decoded(data: bytes) -> str | None:
    """The text in bytes of whatever encoding, without a byte order mark; None where it is no text."""
    encoding = encodings.detect(data)
    try:
        return None if encoding is None else data.decode(encodings.codec(encoding)).removeprefix("\ufeff")
    except UnicodeError:
        return None


def parse_record(data: bytes) -> dict[str, Any] | str:
    """The object in a JSON text, or what is wrong with it."""
    try:
        record = json.loads(data.decode("utf-8-sig"))
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeError:
        return "not UTF-8; expected UTF-8 text"
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error}); expected an object"
    return record if isinstance(record, dict) else "not an object; expected an object with a column for the caption"


def read_metadata(file: Path, columns: CaptionColumns) -> Metadata:
    """Reads a metadata file. Read once in a process, as long as it does not change."""
    return _read_metadata(file, columns, file.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read_metadata(file: Path, columns: CaptionColumns, mtime_ns: int) -> Metadata:
    captions: dict[str, Caption] = {}
    rows: dict[str, int] = {}
    bad_rows: list[BadRow] = []
    for number, record in _records(file):
        name = "" if isinstance(record, str) else record.get(FILE_COLUMN)
        if isinstance(record, str):
            bad_rows.append(BadRow(row=number, problem=record))
        elif not isinstance(name, str) or not name:
            problem = f"no column {FILE_COLUMN!r} with an image's path; columns here: {', '.join(map(str, record))}"
            bad_rows.append(BadRow(row=number, problem=problem, raw=str(record)[:500]))
        elif name in captions:
            problem = f"{name} is named again; the first time was in line {rows[name]}, which counts"
            bad_rows.append(BadRow(row=number, problem=problem, raw=str(record)[:500]))
        else:
            captions[name], rows[name] = caption_of(record, columns), number
    return Metadata(captions, rows, tuple(bad_rows))


def _records(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yields (line, record or what is wrong with it) of a metadata file."""
    if file.suffix == ".jsonl":
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            if line.strip():
                yield number, parse_record(line)
        return
    if file.suffix == ".parquet":
        with open_parquet(file) as table:
            yield from enumerate(table.read().to_pylist(), 1)
        return
    text = decoded(file.read_bytes())
    if text is None:
        yield 1, "no text in any encoding that is known; expected UTF-8 text"
        return
    reader = csv.DictReader(text.splitlines(keepends=True))
    try:
        for record in reader:
            extra = record.pop(None, None)  # cells beyond the header
            yield reader.line_num, record if extra is None else f"{len(extra)} cells more than the header has columns"
    except csv.Error as error:
        yield reader.line_num, f"not CSV ({error}); the lines after it are not read"


def _as_text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text[:MAX_META_CHARACTERS]
