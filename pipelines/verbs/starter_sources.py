"""What starter recipes have in common: the sources in a user's files, with sample rows and amounts, and their YAML."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.data.sources import sniffing
from pipelines.data.sources.amounts import Amount, amount
from pipelines.data.sources.record_formats import RowFormat
from pipelines.data.sources.sniffing import SniffResult
from pipelines.errors import UserError
from pipelines.recipe import yaml_lines
from pipelines.store.artifacts import write_atomically

MAX_SAMPLE_CHARACTERS = 100
BYTES_PER_TOKEN = 3.5
HELD_OUT_FRACTION = 0.05  # the corpus stage's default
UNUSED_ROWS = {"prompts": "ppo, which uses the prompts of conversations so far"}  # rows that no stage reads yet
MAX_CONVERSATIONS_FOR_3_EPOCHS = 50_000  # beyond that one epoch of sft is enough


@dataclass(frozen=True)
class DetectedSource:
    """One source of the recipe: files of one kind and format."""

    name: str
    row_format: RowFormat
    language: str
    options: dict[str, Any]  # its keys in the recipe, with the path
    sample: tuple[str, ...]
    problems: tuple[str, ...]
    amount: Amount

    @property
    def rows(self) -> str:
        """The kind of rows: text, conversations, preferences or prompts."""
        return self.row_format.rows

    def facts(self) -> dict[str, Any]:
        """As `rayse init --json` prints it."""
        return {
            "options": self.options, "rows": self.rows, "format": self.row_format.description,
            "columns": list(self.row_format.columns), "language": self.language, "num_rows": self.amount.rows,
            "exact": self.amount.exact, "file_bytes": self.amount.file_bytes, "text_bytes": self.amount.text_bytes,
            "sample": list(self.sample), "problems": list(self.problems),
        }  # fmt: skip


def detect(data: list[Path], out: Path) -> tuple[list[DetectedSource], list[str]]:
    """The sources in files and folders, and the problems of files that are left out.

    out: the recipe. Raises UserError if it exists, if a file is missing or empty, or if none is of a known kind."""
    if out.exists():
        raise UserError(f"{out}: exists already; name another recipe with --out, or move this one away")
    files = [(argument, file) for argument in data for file in sniffing.sniff(argument)]
    readable = [(argument, file) for argument, file in files if file.row_format is not None]
    problems = [problem for _, file in files if file.row_format is None for problem in file.problems]
    if not readable:
        raise UserError(f"none of these files was understood: {'; '.join(problems)}")
    return _group(readable, out.absolute().parent), problems


def _group(files: Iterable[tuple[Path, SniffResult]], folder: Path) -> list[DetectedSource]:
    """One source for each group of files that have the same argument, format and options.

    files: with the argument that named them; folder: that of the recipe."""
    groups: dict[str, list[tuple[Path, SniffResult]]] = {}
    for argument, file in files:
        groups.setdefault(f"{argument} {sorted(file.options.items())} {file.row_format}", []).append((argument, file))
    sources: list[DetectedSource] = []
    for members in groups.values():
        argument, first = members[0]
        assert first.row_format is not None
        paths = [file.path for _, file in members]
        if len(paths) > 1 and set(paths) == _files_below(argument, first.kind):
            paths = [argument]
        absolute = [os.path.abspath(path) for path in paths]
        relative = [relative_path(path, folder) for path in absolute]
        sources.append(
            DetectedSource(
                name=unique_name(paths[0] if len(paths) == 1 else argument, {source.name for source in sources}),
                row_format=first.row_format,
                language=first.language,
                options={**first.options, "path": relative[0] if len(relative) == 1 else relative},
                sample=first.sample,
                problems=tuple(problem for _, file in members for problem in file.problems),
                amount=amount({**first.options, "path": absolute}),
            )
        )
    return sources


def _files_below(folder: Path, kind: str) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file() and sniffing.source_kind(file) == kind}


def unique_name(path: Path, existing: set[str]) -> str:
    """A name for a source, from that of its file: without dots, since --set splits keys at dots."""
    stem = re.sub(r"(\.(jsonl|ndjson|txt|md|rst|csv|tsv|parquet|gz))+$", "", path.absolute().name)
    base = re.sub(r"[^\w-]+", "_", stem).strip("_") or "text"
    name, number = base, 1
    while name in existing:
        number += 1
        name = f"{base}_{number}"
    return name


def relative_path(path: str, folder: Path) -> str:
    """The path relative to a folder, if below it."""
    try:
        return Path(path).relative_to(folder).as_posix()
    except ValueError:
        return path


def opening(out: Path) -> list[str]:
    """The first lines of a recipe."""
    name = unique_name(out.absolute().parent if out.stem == "recipe" else Path(out.stem), set())
    return [
        "# Written by `rayse init`; yours to change. Each key is explained by `rayse recipe --keys STAGE`.",
        f"name: {plain(name)}",
        "seed: 7",
        "store: ./store  # folder of all artifacts",
    ]


def source_lines(sources: list[DetectedSource]) -> list[str]:
    """The sources as YAML below `sources:`."""
    lines: list[str] = []
    for source in sources:
        if source.rows in UNUSED_ROWS:
            lines.append(f"  # {source.rows}: listed, not used; they are for {UNUSED_ROWS[source.rows]}")
        lines.append(f"  {plain(source.name)}: {plain(source.options)}  # {describe(source.amount)}")
    return lines


def sft_epochs(sources: list[DetectedSource]) -> int:
    """Epochs of sft: three, or one where there are many conversations."""
    num_conversations = sum(source.amount.rows for source in sources if source.rows == "conversations")
    return 1 if num_conversations > MAX_CONVERSATIONS_FOR_3_EPOCHS else 3


def print_sources(sources: list[DetectedSource], problems: list[str]) -> None:
    """Prints how each source was understood, with sample rows; problems: of files that are left out."""
    for source in sources:
        row_format, options = source.row_format, source.options
        is_column = source.rows == "text" and row_format.columns
        rows = f"text in column {row_format.columns[0]}" if is_column else f"{source.rows} ({row_format.description})"
        group = f", grouped by {options['group']}" if "group" in options else ""
        amount_text = describe(source.amount)
        print(f"{source.name}: {options['kind']}, {amount_text}, {rows}, language {source.language}{group}")
        for text in source.sample:
            print(f"    {text[:MAX_SAMPLE_CHARACTERS]}{'…' if len(text) > MAX_SAMPLE_CHARACTERS else ''}")
        for problem in source.problems:
            print(f"    note: {problem}")
        if source.rows in UNUSED_ROWS:
            print(f"    listed, not used; they are for {UNUSED_ROWS[source.rows]}")
    for problem in problems:
        print(f"left out: {problem}")


def write(out: Path, text: str) -> None:
    """Writes a recipe. Raises UserError where it cannot be written."""
    try:
        write_atomically(out, text)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); name another recipe with --out") from None


def plain(value: Any) -> str:
    """A value as YAML on one line, with quotes only where YAML would otherwise parse another value."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{plain(key)}: {plain(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(plain, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:_}" if isinstance(value, int) and value >= 10_000 else str(value)
    if isinstance(value, str) and (not re.fullmatch(r"[\w./~][\w./+@-]*", text) or yaml_lines.scalar(text) != text):
        return json.dumps(text, ensure_ascii=not text.isprintable())
    return text


def describe(amount: Amount) -> str:
    """4,000 rows, 0.3 MB, 0.3 MB of text."""
    rows = f"{'' if amount.exact else 'about '}{amount.rows:,} {'row' if amount.rows == 1 else 'rows'}"
    text = f", {format_bytes(sum(amount.text_bytes.values()))} of text" if amount.text_bytes else ""
    return f"{rows}, {format_bytes(amount.file_bytes)}{text}"


def format_bytes(size: int) -> str:
    if size >= 1e9:
        return f"{size / 1e9:,.1f} GB"
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,} bytes"
