"""Looks at a user's files and says what they seem to hold, so that `rayse init` can write a starter recipe.

    file ──suffix──► kind of source ──first rows──► shape of the columns ──► rows, text column, group, language, sample

A guess, shown with rows as they were understood: the user has the last word in the recipe.
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
from pipelines.data.sources.source import BadRow
from pipelines.data.text.languages import language_of
from pipelines.errors import UserError

SAMPLED_ROWS = 300
SHOWN_ROWS = 3
SHOWN_CHARACTERS = 200
MAIN_LANGUAGE = 0.95  # of the sampled rows: from here on a file is in one language
ONE_DOCUMENT_BYTES = 200_000  # a text file up to this size is taken for one document

TEXT_COLUMNS = ("text", "content", "body", "document", "article", "passage", "正文", "内容", "文本")
GROUP_COLUMNS = ("source", "group", "domain", "site", "book", "package", "category", "dataset", "topic", "来源", "类别")
LANGUAGE_COLUMNS = ("language", "lang")
# What is asked and what is replied, by the names that data sets give the two columns.
EXCHANGES = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("query", "answer"),
)
PROMPT_COLUMNS = ("prompt", "question", "instruction", "query")
TURN_LISTS = ("messages", "conversations", "conversation")


@dataclass(frozen=True)
class Shape:
    """What the rows of a file hold: the recipe's `rows:`, how they are spelled, and the columns that say it."""

    rows: str  # text, conversations, preferences or prompts
    spelling: str  # in words, for the user: "Alpaca: instruction, input, output"
    columns: tuple[str, ...]  # in the order in which they are read


@dataclass(frozen=True)
class Sniffed:
    """One file, or one folder of text files, as it was understood."""

    path: Path
    kind: str  # of source
    shape: Shape | None  # None: not understood, see problems
    language: str  # en, zh or auto
    options: Mapping[str, Any]  # the source as a recipe would write it, without its path
    sample: tuple[str, ...]  # the first rows, as understood
    problems: tuple[str, ...]  # what a user should know: bad rows, no column with text


def sniff(path: Path) -> list[Sniffed]:
    """What a file holds, or each file of a folder; a folder of plain text is one source.

    Raises UserError if there is nothing there, a file is empty, or its suffix tells no kind of source."""
    if not path.is_dir():
        return [_sniff_file(path)]
    files = sorted(file for file in path.rglob("*") if file.is_file() and kind_of(file))
    texts = [file for file in files if kind_of(file) == "text"]
    found = [_sniff_file(file) for file in files if kind_of(file) != "text"]
    if len(texts) > 1:
        found.insert(0, _sniff_texts(path, texts))
    elif texts:
        found.insert(0, _sniff_file(texts[0]))
    if not found:
        raise UserError(f"{path}: no file in this folder is of a known kind; expected {_suffixes()}")
    return found


def kind_of(file: Path) -> str | None:
    """The kind of source that reads files with this suffix."""
    for kind, source in SOURCES.items():
        if issubclass(source, FileSource) and file.name.endswith(source.suffixes):
            return kind
    return None


def shape_of(record: Mapping[str, Any]) -> Shape | None:
    """What a record seems to be; None if it has no text that can be told.

    >>> shape_of({"instruction": "Add", "input": "1, 2", "output": "3"}).spelling
    'Alpaca: instruction, input, output'
    """
    if "chosen" in record and "rejected" in record:
        asked = tuple(name for name in (*PROMPT_COLUMNS, *TURN_LISTS) if name in record)[:1]
        columns = (*asked, "chosen", "rejected")
        return Shape("preferences", f"preference pairs: {', '.join(columns)}", columns)
    for name in TURN_LISTS:
        turns = record.get(name)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            if {"role", "content"} <= turns[0].keys():
                return Shape("conversations", f"OpenAI: {name} of role and content", (name,))
            if {"from", "value"} <= turns[0].keys():
                return Shape("conversations", f"ShareGPT: {name} of from and value", (name,))
    for asked, replied in EXCHANGES:
        if isinstance(record.get(asked), str) and isinstance(record.get(replied), str):
            between = ("input",) if asked == "instruction" and "input" in record else ()
            columns = (asked, *between, replied)
            spelling = "Alpaca: " if asked == "instruction" else "asked and replied: "
            return Shape("conversations", spelling + ", ".join(columns), columns)
    return _text_shape(record)


def _text_shape(record: Mapping[str, Any]) -> Shape | None:
    """A column known to hold text, else prompts, else the longest text."""
    texts = {name: value for name, value in record.items() if isinstance(value, str)}
    named = [name for name in TEXT_COLUMNS if name in texts] or [n for n in texts if n.lower() in TEXT_COLUMNS]
    if not named:
        prompts = [name for name in PROMPT_COLUMNS if name in texts]
        if prompts:
            return Shape("prompts", f"prompts: {prompts[0]}", (prompts[0],))
        named = sorted(texts, key=lambda name: -len(texts[name]))
    return Shape("text", f"text: {named[0]}", (named[0],)) if named else None


def _sniff_file(path: Path) -> Sniffed:
    check_readable(path)
    kind = kind_of(path)
    if kind is None:
        raise UserError(f"{path}: its name tells no kind of source; expected {_suffixes()}")
    if kind == "text":
        return _sniff_texts(path, [path])
    # Any kind of rows but text makes the source give whole records.
    source = SOURCES[kind].model_validate({"kind": kind, "path": str(path.absolute()), "rows": "conversations"})
    rows = list(itertools.islice((row for part in source.parts() for row in source.read(part)), SAMPLED_ROWS))
    records = [row.value for row in rows if not isinstance(row, BadRow) and row.value is not None]
    problems = [f"{path.name}:{row.row}: {row.problem}" for row in rows if isinstance(row, BadRow)][:SHOWN_ROWS]
    shapes = Counter(shape for record in records if (shape := shape_of(record)) is not None)
    if not shapes:
        problems.append(
            f"{path.name}: no column with text; columns are: {', '.join(records[0]) if records else 'none'}"
        )
        return Sniffed(path, kind, None, "en", {"kind": kind}, (), tuple(problems))
    shape, number = shapes.most_common(1)[0]
    if number < len(records):
        problems.append(
            f"{path.name}: {len(records) - number} of {len(records)} rows looked at are not like the others"
        )
    texts = [_understood(record, shape) for record in records]
    language = main_language(texts)
    options = _options(kind, shape, language, records)
    return Sniffed(path, kind, shape, language, options, _shown(texts), tuple(problems))


def _options(kind: str, shape: Shape, language: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    options: dict[str, Any] = {"kind": kind}
    if shape.rows == "text":
        options["text"] = shape.columns[0]
    else:
        options["rows"] = shape.rows
    options["language"] = language
    columns = records[0].keys()
    group = next((name for name in GROUP_COLUMNS if name in columns and _may_group(records, name)), None)
    if group is not None and group not in shape.columns:
        options["group"] = group
    return options


def _may_group(records: list[dict[str, Any]], name: str) -> bool:
    """Whether every record has a short name there, and records share names."""
    values = [record.get(name) for record in records]
    short = all(isinstance(value, str) and 0 < len(value) <= 100 for value in values)
    return short and (len(set(values)) < len(values) or len(values) == 1)


def _sniff_texts(path: Path, files: list[Path]) -> Sniffed:
    """A text file, or a folder of them: what is a document in it, and in which language."""
    for file in files:
        check_readable(file)
    split = _split(files)
    source = SOURCES["text"].model_validate({"kind": "text", "path": str(path.absolute()), "split": split})
    rows = itertools.islice((row for part in source.parts() for row in source.read(part)), SAMPLED_ROWS)
    samples, problems = [], []
    for row in rows:
        if isinstance(row, BadRow):
            problems.append(f"{path.name}:{row.row}: {row.problem}")
        else:
            samples.append(row.text)
    language = main_language(samples)
    shape = Shape("text", {"file": "a document a file", "blank_lines": "documents between blank lines"}[split], ())
    options = {"kind": "text", "split": split, "language": language}
    return Sniffed(path, "text", shape, language, options, _shown(samples), tuple(problems[:SHOWN_ROWS]))


def _split(files: list[Path]) -> str:
    """A few small files are documents; a large one is many, with blank lines between them."""
    return "file" if max(file.stat().st_size for file in files) <= ONE_DOCUMENT_BYTES else "blank_lines"


def _understood(record: Mapping[str, Any], shape: Shape) -> str:
    """A record in one line, as it would be read."""
    if shape.rows in ("text", "prompts"):
        return str(record.get(shape.columns[0], ""))
    return " | ".join(f"{name}: {_told(record.get(name))}" for name in shape.columns if record.get(name))


def _told(value: Any) -> str:
    """Text, or the turns of a conversation, in one line."""
    if isinstance(value, list):
        return " / ".join(_told(turn) for turn in value)
    if isinstance(value, dict):
        speaker, said = value.get("role") or value.get("from"), value.get("content") or value.get("value")
        return f"{speaker}: {said}" if said else str(value)
    return str(value)


def _shown(texts: list[str]) -> tuple[str, ...]:
    return tuple(" ".join(text.split())[:SHOWN_CHARACTERS] for text in texts[:SHOWN_ROWS])


def main_language(texts: Iterable[str]) -> str:
    """en or zh if nearly all texts are in that language, else auto."""
    found = Counter(language_of(text[:2000]) for text in texts if text.strip())
    language, number = found.most_common(1)[0] if found else ("en", 0)
    return language if number >= MAIN_LANGUAGE * found.total() else "auto"


def _suffixes() -> str:
    return ", ".join(s for source in SOURCES.values() if issubclass(source, FileSource) for s in source.suffixes)
