"""Sources that are files: which files a `path:` names, and how a record becomes a row.

path ──find──► files ──parts──► lines, row groups ──record──► Row | BadRow
"""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from pipelines.data.sources.source import BadRow, Row, Source
from pipelines.data.text.languages import language_code
from pipelines.errors import UserError

RAW_CHARACTERS = 500  # of a bad row: enough to recognise it by


class FileSource(Source):
    """A source whose rows stand in files. `path` is a file, a folder, a glob or a list of them."""

    path: str | list[str] = Field(description="a file, a folder, a glob or a list of them, from the recipe's folder")
    suffixes: ClassVar[tuple[str, ...]] = ()  # what a folder is searched for

    def files(self) -> list[Path]:
        """Every file that `path` names, each once, in the order of the list and sorted within a folder or glob.

        Raises UserError if one is missing, empty or unreadable."""
        found: dict[Path, None] = {}
        for pattern in [self.path] if isinstance(self.path, str) else self.path:
            for file in find(pattern, self._folder, self.suffixes):
                found[file] = None
        if not found:
            raise UserError(f"path: {self.path!r} names no file; give a file, a folder, a glob or a list of them")
        return list(found)

    def identity(self) -> dict[str, Any]:
        """The options without the path, and the files' names: a name is a group, so it decides the held-out split."""
        return {**super().identity(), "files": [file.name for file in self.files()]}

    def shown(self, file: Path) -> str:
        """A file as messages name it: relative to the recipe's folder where it lies inside."""
        try:
            return file.relative_to(self._folder.absolute()).as_posix()
        except ValueError:
            return str(file)


class RecordSource(FileSource):
    """A source whose rows are records with named columns. Rows that are not text are kept whole."""

    text: str = Field(default="text", min_length=1, description="the column with the text, for rows: text")
    group: str | None = Field(
        default=None, description="a column whose values are groups; without it a file is a group"
    )
    language_column: str | None = Field(default=None, description="a column that says en or zh, row by row")

    def row(self, number: int, record: dict[str, Any]) -> Row | BadRow:
        """A record as a row, or what is wrong with it."""
        problem = self._problem(record)
        if problem:
            return BadRow(row=number, problem=problem, raw=str(record)[:RAW_CHARACTERS])
        group = None if self.group is None else str(record[self.group])
        language = None if self.language_column is None else language_code(record[self.language_column])
        if self.rows == "text":
            return Row(row=number, text=record[self.text], group=group, language=language)
        return Row(row=number, value=record, group=group, language=language)

    def _problem(self, record: dict[str, Any]) -> str | None:
        for column in self.columns():
            if column not in record:
                known = ", ".join(map(str, record)) or "none"
                return f"no column {column!r}; expected it in every row (columns here: {known})"
        if self.rows == "text":
            text = record[self.text]
            if not isinstance(text, str):
                return f"column {self.text!r} holds {type_name(text)}; expected text"
            if not text.isascii() and not encodable(text):
                return f"column {self.text!r} holds half of a surrogate pair; expected text that UTF-8 can write"
        if self.group is not None and not isinstance(record[self.group], str | int):
            return f"column {self.group!r} holds {type_name(record[self.group])}; expected text or a whole number"
        if self.language_column is not None and language_code(record[self.language_column]) is None:
            return f"column {self.language_column!r} says {record[self.language_column]!r}; expected en or zh"
        return None

    def columns(self) -> list[str]:
        """The columns that must be there."""
        wanted = [self.text] if self.rows == "text" else []
        return wanted + [name for name in (self.group, self.language_column) if name is not None]


def find(pattern: str, folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files that one path names. Raises UserError if there is none, or one is empty or unreadable."""
    path = folder.absolute() / Path(pattern).expanduser()
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file() and f.name.endswith(suffixes))
        if not files:
            raise UserError(f"{path}: no file in this folder ends in {' or '.join(suffixes)}")
    elif glob.has_magic(pattern) and not path.exists():
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
        if not files:
            raise UserError(f"{path}: no file matches this pattern")
    else:
        files = [path]
    for file in files:
        check_readable(file)
    return files


def check_readable(file: Path) -> None:
    """Raises UserError unless the file is there, has bytes and may be read."""
    if not file.exists():
        raise UserError(f"{file}: no such file; check the source's path (it starts at the recipe's folder)")
    if not file.is_file():
        raise UserError(f"{file}: not a file; expected a file, a folder, a glob or a list of them")
    if not os.access(file, os.R_OK):
        raise UserError(f"{file}: cannot be read (permission denied)")
    if file.stat().st_size == 0:
        raise UserError(f"{file}: the file is empty; expected at least one row")


def type_name(value: Any) -> str:
    """What a value is, in the words of JSON."""
    names = {"NoneType": "null", "str": "text", "dict": "an object", "list": "a list", "bool": "true or false",
             "int": "a number", "float": "a number"}  # fmt: skip
    return names.get(type(value).__name__, type(value).__name__)


def encodable(text: str) -> bool:
    """Whether UTF-8 can write the text: JSON escapes can spell lone surrogates, which are not characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
