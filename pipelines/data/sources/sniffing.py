"""Detects the format of a user's files, so that `rayse init` can write a starter recipe.

    file ──suffix──► kind of source ──first rows──► format of the rows ──► rows, text column, group, language, sample

A guess, which `rayse init` displays with sample rows: the user has the last word in the recipe.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.data.sources import SOURCES
from pipelines.data.sources.files import FileSource, check_readable
from pipelines.data.sources.record_formats import RowFormat, detect_format
from pipelines.data.sources.source import BadRow
from pipelines.data.text.languages import language_of
from pipelines.errors import UserError

MAX_ROWS = 300  # read of each file
DISPLAYED_ROWS = 3
DISPLAYED_CHARACTERS = 200
MIN_LANGUAGE_FRACTION = 0.95  # of the rows read; below, the language is auto
ONE_DOCUMENT_BYTES = 200_000  # a text file up to this size counts as one document

GROUP_COLUMNS = ("source", "group", "domain", "site", "book", "package", "category", "dataset", "topic", "来源", "类别")


@dataclass(frozen=True)
class SniffResult:
    """The detected format of one file, or of one folder of text files."""

    path: Path
    kind: str  # kind of source
    row_format: RowFormat | None  # None: not recognised, see problems
    language: str  # en, zh or auto
    options: Mapping[str, Any]  # the source as a recipe would write it, without its path
    sample: tuple[str, ...]  # the first rows, as text
    problems: tuple[str, ...]  # for the user: bad rows, no column with text


def sniff(path: Path) -> list[SniffResult]:
    """Detects the format of a file, or of each file of a folder; a folder of plain text is one source.

    Raises UserError if the path is missing, a file is empty, or its suffix belongs to no kind of source."""
    if not path.is_dir():
        return [_sniff_file(path)]
    files = sorted(file for file in path.rglob("*") if file.is_file() and source_kind(file))
    texts = [file for file in files if source_kind(file) == "text"]
    results = [_sniff_file(file) for file in files if source_kind(file) != "text"]
    if len(texts) > 1:
        results.insert(0, _sniff_texts(path, texts))
    elif texts:
        results.insert(0, _sniff_file(texts[0]))
    if not results:
        raise UserError(f"{path}: no file in this folder is of a known kind; expected {_suffixes()}")
    return results


def source_kind(file: Path) -> str | None:
    """The kind of source that reads files with this suffix."""
    for kind, source in SOURCES.items():
        if issubclass(source, FileSource) and file.name.endswith(source.suffixes):
            return kind
    return None


def _sniff_file(path: Path) -> SniffResult:
    check_readable(path)
    kind = source_kind(path)
    if kind is None:
        raise UserError(f"{path}: its suffix belongs to no kind of source; expected {_suffixes()}")
    if kind == "text":
        return _sniff_texts(path, [path])
    # With any kind of rows but text the source returns whole records.
    source = SOURCES[kind].model_validate({"kind": kind, "path": str(path.absolute()), "rows": "conversations"})
    rows = list(itertools.islice((row for part in source.parts() for row in source.read(part)), MAX_ROWS))
    records = [row.record for row in rows if not isinstance(row, BadRow) and row.record is not None]
    problems = [f"{path.name}:{row.row}: {row.problem}" for row in rows if isinstance(row, BadRow)][:DISPLAYED_ROWS]
    formats = Counter(detected for record in records if (detected := detect_format(record)) is not None)
    if not formats:
        columns = ", ".join(records[0]) if records else "none"
        problems.append(f"{path.name}: no column with text; columns are: {columns}")
        return SniffResult(path, kind, None, "en", {"kind": kind}, (), tuple(problems))
    row_format, count = formats.most_common(1)[0]
    if count < len(records):
        problems.append(f"{path.name}: {len(records) - count} of {len(records)} sampled rows have another format")
    texts = [_record_text(record, row_format) for record in records]
    language = main_language(texts)
    options = _source_options(kind, row_format, language, records)
    return SniffResult(path, kind, row_format, language, options, _sample(texts), tuple(problems))


def _source_options(kind: str, row_format: RowFormat, language: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    options: dict[str, Any] = {"kind": kind}
    if row_format.rows == "text":
        options["text"] = row_format.columns[0]
    else:
        options["rows"] = row_format.rows
    options["language"] = language
    columns = records[0].keys()
    group = next((name for name in GROUP_COLUMNS if name in columns and _has_groups(records, name)), None)
    if group is not None and group not in row_format.columns:
        options["group"] = group
    return options


def _has_groups(records: list[dict[str, Any]], column: str) -> bool:
    """Whether every record has a short name in the column, and some records have the same."""
    values = [record.get(column) for record in records]
    short = all(isinstance(value, str) and 0 < len(value) <= 100 for value in values)
    return short and (len(set(values)) < len(values) or len(values) == 1)


def _sniff_texts(path: Path, files: list[Path]) -> SniffResult:
    """Detects how a text file, or a folder of them, divides into documents, and its language."""
    for file in files:
        check_readable(file)
    split = _text_split(files)
    source = SOURCES["text"].model_validate({"kind": "text", "path": str(path.absolute()), "split": split})
    rows = itertools.islice((row for part in source.parts() for row in source.read(part)), MAX_ROWS)
    texts, problems = [], []
    for row in rows:
        if isinstance(row, BadRow):
            problems.append(f"{path.name}:{row.row}: {row.problem}")
        else:
            texts.append(row.text)
    language = main_language(texts)
    description = {"file": "one document in each file", "blank_lines": "documents between blank lines"}[split]
    options = {"kind": "text", "split": split, "language": language}
    row_format = RowFormat("text", description, ())
    return SniffResult(path, "text", row_format, language, options, _sample(texts), tuple(problems[:DISPLAYED_ROWS]))


def _text_split(files: list[Path]) -> str:
    """Small files are one document each; a large file has many, with blank lines between them."""
    return "file" if max(file.stat().st_size for file in files) <= ONE_DOCUMENT_BYTES else "blank_lines"


def _record_text(record: Mapping[str, Any], row_format: RowFormat) -> str:
    """The content of a record in one line."""
    if row_format.rows in ("text", "prompts"):
        return str(record.get(row_format.columns[0], ""))
    return " | ".join(f"{name}: {_turns_text(record.get(name))}" for name in row_format.columns if record.get(name))


def _turns_text(value: Any) -> str:
    """Text, or the turns of a conversation, in one line."""
    if isinstance(value, list):
        return " / ".join(_turns_text(turn) for turn in value)
    if isinstance(value, dict):
        role, content = value.get("role") or value.get("from"), value.get("content") or value.get("value")
        return f"{role}: {content}" if content else str(value)
    return str(value)


def _sample(texts: list[str]) -> tuple[str, ...]:
    return tuple(" ".join(text.split())[:DISPLAYED_CHARACTERS] for text in texts[:DISPLAYED_ROWS])


def main_language(texts: Iterable[str]) -> str:
    """en or zh if nearly all texts are in that language, else auto."""
    languages = Counter(language_of(text[:2000]) for text in texts if text.strip())
    if not languages:
        return "en"
    language, count = languages.most_common(1)[0]
    return language if count >= MIN_LANGUAGE_FRACTION * languages.total() else "auto"


def _suffixes() -> str:
    return ", ".join(
        suffix for source in SOURCES.values() if issubclass(source, FileSource) for suffix in source.suffixes
    )
