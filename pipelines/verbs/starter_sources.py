"""What starter recipes have in common: the sources in a user's files, with sample rows and amounts, and their YAML."""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.data.sources import folder_files, sniffing
from pipelines.data.sources.amounts import Amount, amount
from pipelines.data.sources.finding import visible_files
from pipelines.data.sources.image_folders import IMAGE_SUFFIXES
from pipelines.data.sources.not_read import remedy
from pipelines.data.sources.row_format import RowFormat
from pipelines.data.sources.sniffing import SniffResult
from pipelines.errors import UserError, one_line
from pipelines.recipe import yaml_lines
from pipelines.store.artifacts import write_atomically
from pipelines.verbs.file_review import MAX_REASONS, FileReview, describe_file, num_rows, review

MAX_SAMPLE_CHARACTERS = 100
MAX_FILES = 20  # of a source that are shown one by one
SUFFIXES = (
    r"(\.(jsonl|ndjson|json|txt|md|rst|csv|tsv|parquet|arrow|feather|html?|xhtml|warc|wet|pdf|doc[xm]|epub"
    r"|tar|tgz|gz|zst|bz2|xz))+$"
)
MAX_SUFFIXES = 20
EXPECTED = (
    "expected rows of running text (a column such as text), of conversations (messages, or prompt and reply, under any "
    "usual names) or of preference pairs (chosen, rejected). docs/files.md has every spelling, and how to name columns"
)
BYTES_PER_TOKEN = 3.5
HELD_OUT_FRACTION = 0.05  # the corpus stage's default
# Kinds of rows that no stage of a starter recipe reads.
UNUSED_ROWS = {"prompts": "evaluation sets (corpus: decontaminate), and no stage trains on them"}
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
    files: tuple[FileReview, ...]

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
            "files": [file.name for file in self.files],
        }  # fmt: skip


@dataclass(frozen=True)
class Detected:
    """What was understood of a user's files."""

    sources: list[DetectedSource]
    left_out: list[str]  # of folders: files of no known kind, and files of which nothing was understood
    not_understood: list[str]  # of files that the user named, with the reason: no recipe is written then

    def facts(self) -> dict[str, Any]:
        """As `rayse init --json` prints it: the sources of the recipe, and each file."""
        files = [file for source in self.sources for file in source.files]
        return {
            "sources": {source.name: source.facts() for source in self.sources},
            "files": {file.name: file.facts() for file in files},
            "left_out": self.left_out,
            "not_understood": self.refusal,
        }

    @property
    def refusal(self) -> list[str]:
        """Why no recipe is written: nothing was understood of a file that the user named, or no stage trains on the
        rows; empty where one is."""
        if self.not_understood or not all(source.rows in UNUSED_ROWS for source in self.sources):
            return self.not_understood
        return [line for source in self.sources for file in source.files for line in _only_prompts(source, file)]

    def check(self) -> None:
        """Raises UserError if there is a refusal, or nothing was read."""
        if self.refusal or not self.sources:
            raise UserError(*_first(self.refusal), f"no recipe is written; {EXPECTED}")


def _only_prompts(source: DetectedSource, file: FileReview) -> list[str]:
    """Lines on a file with rows that no stage trains on, and which columns of it nothing reads."""
    column, others = source.row_format.columns[0], ", ".join(file.columns_not_used)
    line = f"{file.name}: only {source.rows}, which no stage trains on (column {column})"
    hint = f"columns not used: {others}. If one is the reply: columns: {{prompt: {column}, reply: …}} of a source"
    return [line, *([f"    {hint}"] if others else [])]


def local_files(data: list[str]) -> list[Path]:
    """The paths that a user named. Raises UserError for a URL."""
    for name in data:
        if "://" in name:
            raise UserError(
                f"{name}: is a URL, and init reads local files; expected a file or a folder. Copy a sample here, or "
                f"write the source into the recipe by hand (docs/stores.md)"
            )
    return [path for name in data for path in _matches(name)]


def _matches(name: str) -> list[Path]:
    """The file or folder of a name, or those that a pattern matches which no shell replaced."""
    if Path(name).exists() or not glob.has_magic(name):
        return [Path(name)]
    return [Path(match) for match in sorted(glob.glob(name, recursive=True))] or [Path(name)]


def detect(data: list[Path], out: Path) -> Detected:
    """What is in files and folders. out: the recipe.

    Raises UserError if it exists, if a file is missing or empty, or if nothing in a folder is of a known kind."""
    if out.exists():
        raise UserError(f"{out}: exists already; name another recipe with --out, or move this one away")
    found = [(argument, file) for argument in data for file in sniffing.sniff(argument)]
    num_names = Counter(path for path, _ in {(file.path, _name(file)) for _, file in found})
    names = [_name(file) if file.files or num_names[file.path] > 1 else str(file.path) for _, file in found]
    files = [
        (argument, file, None if file.row_format is None else review(file, name, len(found)))
        for (argument, file), name in zip(found, names, strict=True)
    ]
    understood = [
        (argument, file, reviewed) for argument, file, reviewed in files if reviewed and reviewed.is_understood
    ]
    read_folders = {argument for argument, _, _ in understood if argument.is_dir()}
    left_out = [text for folder in data if folder.is_dir() for text in _passed_over(folder)]
    not_understood: list[str] = []
    for argument, file, reviewed in files:
        if reviewed is None or not reviewed.is_understood:
            (left_out if argument in read_folders else not_understood).append(_reason(file, reviewed))
    return Detected(_group(understood, out.absolute().parent), left_out, not_understood)


def _name(file: SniffResult) -> str:
    """The path of a file or folder, with the kind and split of what is read of it, or how many of its files are."""
    if file.files:
        return f"{file.path} ({len(file.files):,} {file.kind} files)"
    split = file.options.get("split") if file.kind == "dataset" else None
    return f"{file.path} ({split or file.kind})"


def _passed_over(folder: Path) -> list[str]:
    """Lines on the files of a folder that belong to no kind of source, or to a split that none trains on."""
    suffixes = folder_files.passed_over(folder)
    splits = _splits(folder_files.splits_beside_train(folder))
    splits += [f"{file}: describes a data set; name it to read it" for file in folder_files.cards(folder)]
    if caches := folder_files.caches(folder):
        splits.append(f"{folder}: {_named(caches)}: kept by the library datasets for itself; name one to read it")
    if not suffixes:
        return splits
    numbers = ", ".join(f"{number:,} {suffix}" for suffix, number in suffixes.most_common(MAX_SUFFIXES))
    more = ", …" if len(suffixes) > MAX_SUFFIXES else ""
    remedies = {suffix: remedy(Path(f"x{suffix}")) for suffix in suffixes}
    others = [suffix for suffix, advice in remedies.items() if not advice and suffix not in IMAGE_SUFFIXES]
    hint = f"; text among them is read if you name it, such as {folder}/*{others[0]}" if others else ""
    lines = [f"{folder}: {suffixes.total():,} files of no known kind ({numbers}{more}){hint}"]
    if any(suffix.lower() in IMAGE_SUFFIXES for suffix in suffixes):
        expected = "a .txt beside each, or a metadata.csv with the columns file_name and text in their folder"
        lines.append(f"{folder}: images are read where something is said of them; expected {expected}")
    return splits + lines + [f"{folder}: {suffix}: {advice}" for suffix, advice in remedies.items() if advice]


def _splits(files: list[Path]) -> list[str]:
    """Lines on the files that are splits beside train; one for many in a folder."""
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        by_folder.setdefault(file.parent, []).append(file)
    lines: list[str] = []
    for folder, members in by_folder.items():
        shown = members if len(members) <= MAX_REASONS else []
        lines += [f"{file}: a split beside train, which is not for training; name it to read it" for file in shown]
        if not shown:
            lines.append(f"{folder}: {len(members):,} files of a split beside train, which is not for training; name "
                         f"the folder to read them")  # fmt: skip
    return lines


def _reason(file: SniffResult, reviewed: FileReview | None) -> str:
    """Why nothing of a file was understood."""
    if reviewed is None:
        return f"{file.path}: nothing of it was understood: {'; '.join(file.problems)}"
    if reviewed.not_used.get("empty", 0) == reviewed.rows_read:
        return f"{file.path}: nothing of it was understood: it holds no text, only blanks"
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in reviewed.not_used.items())
    first = next(iter(reviewed.firsts.values()), "")
    return f"{file.path}: nothing of it was understood: {reasons} of {reviewed.rows_read:,} rows. First: {first}"


def _group(files: Iterable[tuple[Path, SniffResult, FileReview]], folder: Path) -> list[DetectedSource]:
    """One source for each group of files that have the same argument, format and options.

    files: with the argument that named them; folder: that of the recipe."""
    groups: dict[str, list[tuple[Path, SniffResult, FileReview]]] = {}
    for argument, file, reviewed in files:
        key = f"{argument} {sorted(file.options.items())} {file.row_format}"
        groups.setdefault(key, []).append((argument, file, reviewed))
    sources: list[DetectedSource] = []
    for members in groups.values():
        argument, first, _ = members[0]
        assert first.row_format is not None
        paths = [path for _, file, _ in members for path in file.paths]
        if len(paths) > 1 and first.kind != "dataset" and set(paths) == _files_below(argument, first.kind):
            paths = [argument]
        absolute = [os.path.abspath(path) for path in paths]
        relative = [relative_path(path, folder) for path in absolute]
        total = amount({**first.options, "path": absolute})
        sources.append(
            DetectedSource(
                name=unique_name(paths[0] if len(paths) == 1 else argument, {source.name for source in sources}),
                row_format=first.row_format,
                language=first.language,
                options={**first.options, "path": relative[0] if len(relative) == 1 else relative},
                sample=first.sample,
                problems=tuple(problem for _, file, _ in members for problem in file.problems),
                amount=total,
                files=tuple(_scaled(reviewed, total) for reviewed in {one.name: one for *_, one in members}.values()),
            )
        )
    return sources


def _scaled(reviewed: FileReview, total: Amount) -> FileReview:
    """The estimate for a whole file, which has as many rows of its source as it has of its bytes."""
    if reviewed.exact:
        return reviewed
    if reviewed.path.is_dir():
        return reviewed.scaled(total.rows)
    return reviewed.scaled(round(total.rows * reviewed.path.stat().st_size / max(1, total.file_bytes)))


def _files_below(folder: Path, kind: str) -> set[Path]:
    return {file for file in visible_files(folder) if folder_files.source_kind(file) == kind}


def unique_name(path: Path, existing: set[str]) -> str:
    """A name for a source, from that of its file: without dots, since --set splits keys at dots."""
    stem = re.sub(SUFFIXES, "", path.absolute().name, flags=re.IGNORECASE)
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


def print_sources(detected: Detected) -> None:
    """Prints how each source and each of its files was understood, with sample rows, and what is left out."""
    for source in detected.sources:
        row_format, options = source.row_format, source.options
        is_column = source.rows == "text" and row_format.columns
        rows = f"text in column {row_format.columns[0]}" if is_column else f"{source.rows} ({row_format.description})"
        rows = row_format.description if source.rows == "images" else rows
        group = f", grouped by {options['group']}" if "group" in options else ""
        amount_text = describe(source.amount)
        show(f"{source.name}: {options['kind']}, {amount_text}, {rows}, language {source.language}{group}")
        for text in source.sample:
            show(f"    {text[:MAX_SAMPLE_CHARACTERS]}{'…' if len(text) > MAX_SAMPLE_CHARACTERS else ''}")
        firsts = [first for file in source.files for first in file.firsts.values()]
        notes = [problem for problem in source.problems if not any(first.endswith(problem) for first in firsts)]
        for problem in _first(notes):
            show(f"    note: {problem}")
        _print_files(source)
        if source.rows in UNUSED_ROWS:
            show(f"    listed, not used; they are for {UNUSED_ROWS[source.rows]}")
    for problem in _first(detected.left_out):
        show(f"left out: {problem}")


def _first(lines: list[str]) -> list[str]:
    """The first of many lines, and how many there are besides."""
    more = len(lines) - MAX_FILES
    return lines if more <= 0 else [*lines[:MAX_FILES], f"{more:,} more of these; --json has all"]


def _named(files: list[Path]) -> str:
    """2 files (a.arrow, b.arrow): how many, and the first names."""
    names = ", ".join(file.name for file in files[:MAX_REASONS])
    return f"{len(files):,} {'file' if len(files) == 1 else 'files'} ({names}{', …' if files[MAX_REASONS:] else ''})"


def _print_files(source: DetectedSource) -> None:
    """Prints what a run would make of each file; of many files those with rows that it would not use."""
    files = list(source.files)
    if len(files) > MAX_FILES:
        files = [file for file in files if file.not_used][:MAX_FILES]
        show(f"    {len(source.files):,} files; shown are {len(files)} with rows that are not used; --json has all")
    for file in files:
        for line in describe_file(file):
            show(f"    {line}")


def show(text: str) -> None:
    """Prints a line that may hold anything from a user's file."""
    print(one_line(text))


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
    rows = f"{'' if amount.exact else 'about '}{num_rows(amount.rows)}"
    text = f", {format_bytes(sum(amount.text_bytes.values()))} of text" if amount.text_bytes else ""
    return f"{rows}, {format_bytes(amount.file_bytes)}{text}"


def format_bytes(size: int) -> str:
    if size >= 1e9:
        return f"{size / 1e9:,.1f} GB"
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,} bytes"
