"""What says what an image shows: a record's caption, the text beside an image file, a folder's metadata file.

photo.jpg + photo.txt, photo.caption, photo.json         metadata.csv, metadata.jsonl: file_name, text, …
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipelines.data.sources import encodings
from pipelines.data.sources.csv import Csv
from pipelines.data.sources.files import RecordSource
from pipelines.data.sources.jsonl import Jsonl
from pipelines.data.sources.parquet import Parquet
from pipelines.data.sources.source import BadRow
from pipelines.errors import UserError

CAPTION_COLUMNS = ("text", "caption", "captions", "txt", "alt_text", "alt", "description", "TEXT", "描述", "标题")
TEXT_SUFFIXES = (".txt", ".caption", ".text")  # beside an image file or in an archive: the caption itself
RECORD_SUFFIX = ".json"  # beside an image file or in an archive: an object with a column for the caption
METADATA_KINDS: dict[str, type[RecordSource]] = {".csv": Csv, ".jsonl": Jsonl, ".parquet": Parquet}
METADATA_FILES = tuple(f"metadata{suffix}" for suffix in METADATA_KINDS)
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
    texts = {name: text for name in names if (text := _caption_text(record.get(name)))}
    name, text = next(iter(texts.items()), ("", ""))
    group = record.get(columns.group) if columns.group else None
    used = {name, columns.group, FILE_COLUMN}
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
    """The object in a JSON text of whatever encoding, or what is wrong with it."""
    text = decoded(data)
    if text is None:
        return f"its {RECORD_SUFFIX} is no text in any encoding that is known; expected UTF-8 text"
    try:
        record = json.loads(text)
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeError:
        return "half of a surrogate pair, which no text has; expected UTF-8 text"
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
    """Yields (line, record or what is wrong with it) of a metadata file, which is read as any file of its kind."""
    kind = METADATA_KINDS[file.suffix]
    source = kind.model_validate({"path": str(file), "rows": "conversations"})  # rows that are whole records
    try:
        for row in (row for part in source.parts() for row in source.read(part)):
            yield row.row, row.problem if isinstance(row, BadRow) else row.record or {}
    except UserError as error:
        yield 1, str(error)


def _caption_text(value: Any) -> str:
    """The text of a caption, or of several; empty where a value holds none."""
    texts = value if isinstance(value, list) else [value]
    return "\n".join(text.strip() for text in texts if isinstance(text, str) and text.strip())


def _as_text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text[:MAX_META_CHARACTERS]
