"""Sources that are files: resolving a `path:` to files, and converting records to rows.

path ──find_files──► files ──parts──► lines, row groups ──to_row──► Row | BadRow
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

RAW_CHARACTERS = 500  # kept of a bad row: enough to recognise it


class FileSource(Source):
    """A source whose rows are read from files. `path` is a file, a folder, a glob or a list of them."""

    path: str | list[str] = Field(
        description="Files to read: a file, a folder, a glob or a list of them, relative to the recipe's folder"
    )
    suffixes: ClassVar[tuple[str, ...]] = ()  # of the files that are read from a folder

    def files(self) -> list[Path]:
        """Lists every file that `path` names, each once, in the order of the list and sorted within a folder or glob.

        Raises UserError if one is missing, empty or unreadable."""
        patterns = [self.path] if isinstance(self.path, str) else self.path
        files = [file for pattern in patterns for file in find_files(pattern, self._folder, self.suffixes)]
        if not files:
            raise UserError(f"path: {self.path!r} names no file; give a file, a folder, a glob or a list of them")
        return list(dict.fromkeys(files))

    def identity(self) -> dict[str, Any]:
        """Returns the options without the path, and the files' names: they are groups, so they decide the split."""
        return {**super().identity(), "files": [file.name for file in self.files()]}

    def encoding_of(self, file: Path) -> str | None:
        """Returns the name of the encoding in which a file's text is read; None for binary formats."""
        return "utf-8"

    def display_path(self, file: Path) -> str:
        """Returns a file's path for messages: relative to the recipe's folder if it lies inside."""
        try:
            return file.relative_to(self._folder.absolute()).as_posix()
        except ValueError:
            return str(file)


class RecordSource(FileSource):
    """A source whose rows are records with named columns. Where rows are not text, a row keeps its whole record."""

    text: str = Field(default="text", min_length=1, description="Column with the text, where rows are text")
    group: str | None = Field(
        default=None, description="Column with the group, which is never split; default: a file is a group"
    )
    language_column: str | None = Field(
        default=None, description="Column with the language of each row (en or zh); default: that of the source"
    )

    def to_row(self, number: int, record: dict[str, Any]) -> Row | BadRow:
        """Converts a record to a row, or to a bad row that names its problem."""
        problem = self._problem(record)
        if problem:
            return BadRow(row=number, problem=problem, raw=str(record)[:RAW_CHARACTERS])
        group = None if self.group is None else str(record[self.group])
        language = None if self.language_column is None else language_code(record[self.language_column])
        if self.rows == "text":
            return Row(row=number, text=record[self.text], group=group, language=language)
        return Row(row=number, record=record, group=group, language=language)

    def _problem(self, record: dict[str, Any]) -> str | None:
        for column in self.required_columns():
            if column not in record:
                columns = ", ".join(map(str, record)) or "none"
                return f"no column {column!r}; expected it in every row (columns here: {columns})"
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

    def required_columns(self) -> list[str]:
        """Lists the columns that every record must have."""
        text = self.text if self.rows == "text" else None
        return [column for column in (text, self.group, self.language_column) if column is not None]


def find_files(pattern: str, folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Lists the files that one path names. Raises UserError if there is none, or one is empty or unreadable."""
    path = folder.absolute() / Path(pattern).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(suffixes))
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
    """Raises UserError if the file is missing, empty or unreadable."""
    if not file.exists():
        raise UserError(f"{file}: no such file; check the source's path (it starts at the recipe's folder)")
    if not file.is_file():
        raise UserError(f"{file}: not a file; expected a file, a folder, a glob or a list of them")
    if not os.access(file, os.R_OK):
        raise UserError(f"{file}: cannot be read (permission denied)")
    if file.stat().st_size == 0:
        raise UserError(f"{file}: the file is empty; expected at least one row")


def type_name(value: Any) -> str:
    """Returns the type of a value as JSON calls it, for messages."""
    names = {"NoneType": "null", "str": "text", "dict": "an object", "list": "a list", "bool": "true or false",
             "int": "a number", "float": "a number"}  # fmt: skip
    return names.get(type(value).__name__, type(value).__name__)


def encodable(text: str) -> bool:
    """Whether the text can be encoded in UTF-8: JSON escapes can spell lone surrogates, which are not characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
