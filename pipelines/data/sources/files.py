"""Sources that are files: resolving a `path:` to files, reading each, and converting records to rows.

    path ──find_files──► files ──pieces──► parts ──read_piece──► records ──to_row──► Row | BadRow

A file that cannot be read is one bad row, or an error where the source has no other file. Hidden files and folders are
read only where a path names them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from pipelines.data.sources import cells, encodings, object_files, streams
from pipelines.data.sources.column_names import Column
from pipelines.data.sources.finding import check_exists, find_files
from pipelines.data.sources.not_read import EMPTY, without_content
from pipelines.data.sources.source import TEXT_ROWS, BadRow, Part, Row, Source
from pipelines.data.text.languages import language_code
from pipelines.errors import UserError, one_line
from pipelines.objects import is_url

RAW_CHARACTERS = 500  # kept of a bad row: enough to recognise it
MAX_ROW_BYTES = 64 << 20


class FileProblem(Exception):
    """What is wrong with a whole file: what was found, what was expected, what to do."""


class FileSource(Source):
    """A source whose rows are read from files. `path` is a file, a folder, a glob or a list of them."""

    path: str | list[str] = Field(
        description="Files to read: a file, a folder, a glob or a list of them, relative to the recipe's folder; also "
        "of objects: s3://BUCKET/KEY, gs://BUCKET/KEY"
    )
    max_row_bytes: PositiveInt = Field(
        default=MAX_ROW_BYTES, description="Maximum size of a row: a larger line, cell or document is a bad row"
    )
    suffixes: ClassVar[tuple[str, ...]] = ()  # of the files that are read from a folder, in lower case

    def each_file(self) -> Iterator[Path]:
        """Yields every file that `path` names, each once, in the order of the list and sorted within a folder or glob.

        Raises UserError if one is missing or unreadable, or if all are empty."""
        return map(Path, self._names())

    def _names(self) -> list[str]:
        """The paths of `each_file` as text, which takes a fifth of the memory."""
        patterns = [self.path] if isinstance(self.path, str) else self.path
        names = [name for pattern in patterns for name in self.find(self.local(pattern))]
        if not names:
            raise UserError(f"path: {self.path!r} names no file; give a file, a folder, a glob or a list of them")
        if not any(os.path.getsize(name) for name in names):
            raise UserError(f"{names[0]}: {EMPTY}")
        return list(dict.fromkeys(names))

    def local(self, pattern: str) -> str:
        """The path itself, or, for a URL of objects, that of their copies; see `object_files.bring`."""
        if not is_url(pattern):
            return pattern
        if self._cache is None:
            raise UserError(f"path: {pattern}: objects are read by a run; expected a file or a folder here")
        return object_files.bring(pattern, self._cache, self.object_suffixes)

    @property
    def object_suffixes(self) -> tuple[str, ...]:
        """As `suffixes`, of the objects that are read from a folder; empty: all."""
        return self.suffixes

    def missing_objects(self) -> list[object_files.Version]:
        urls = filter(is_url, [self.path] if isinstance(self.path, str) else self.path)
        if self._cache is None:
            return []
        return [each for url in urls for each in object_files.missing(url, self._cache, self.object_suffixes)]

    def find(self, pattern: str) -> list[str]:
        """Lists the files that one path names. Raises UserError if there is none, or one is unreadable."""
        return find_files(pattern, self._folder, self.suffixes)

    def identity(self) -> dict[str, Any]:
        """Returns the options without the path, and the files' names: they are groups, so they decide the split.

        The limit of rows is left out at its default, so that results made before there was one keep their identity."""
        identity = super().identity()
        if self.max_row_bytes == type(self).model_fields["max_row_bytes"].default:
            del identity["max_row_bytes"]
        return {**identity, "files": [encodings.readable_name(file.name) for file in self.each_file()]}

    def encoding_of(self, file: Path) -> str | None:
        """The encoding in which a file's text is read; None for data that is not text."""
        return None

    def each_part(self) -> Iterator[Part]:
        """Divides each file into the pieces that can be read by themselves.

        Raises UserError if the only file cannot be read."""
        names, numbers = self._names(), itertools.count()
        for name in names:
            file = Path(name)
            args = {"file": name, "size": file.stat().st_size, "alone": len(names) == 1}
            for piece in self._pieces(file, alone=args["alone"]):
                yield Part(
                    index=next(numbers),
                    where=self.display_path(file),
                    group=encodings.readable_name(file.name),
                    bytes=piece.pop("bytes", args["size"]),
                    first_row=piece.pop("first_row", 1),
                    args=args | piece,
                )

    def pieces(self, file: Path) -> Iterator[dict[str, Any]]:
        """Yields the arguments of `read_piece` for each piece of a file, with `bytes`, its approximate size, and
        `first_row`, if its rows are not numbered from 1.

        Raises FileProblem."""
        yield {"bytes": file.stat().st_size * (streams.RATIO if streams.is_compressed(file) else 1)}

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Streams the rows of one part. Raises UserError if its file changes meanwhile."""
        return self._read(part, self.read_piece)

    def _read(self, part: Part, read_piece: Callable[[Path, dict[str, Any]], Iterator[Any]]) -> Iterator[Any]:
        file = Path(part.args["file"])
        before = state(file)
        try:
            if "problem" in part.args:
                raise FileProblem(part.args["problem"])
            yield from read_piece(file, {**part.args, "first_row": part.first_row})
        except FileProblem as problem:
            if part.args["alone"]:
                raise UserError(f"{file}: {problem}") from None
            yield BadRow(row=1, problem=str(problem))
        if state(file) != before or before[0] != part.args["size"]:
            raise UserError(
                f"{file}: changed while it was read; expected a complete file. Run again once it is complete"
            )

    def read_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row | BadRow]:
        """Streams the rows of one piece of a file. Raises FileProblem."""
        raise NotImplementedError

    def display_path(self, file: Path) -> str:
        """Returns a file's path for messages: relative to the recipe's folder if it lies inside; an object's URL."""
        if self._cache is not None and (url := object_files.url_of(file, self._cache)) is not None:
            return one_line(url)
        folder = self._folder.absolute()
        path = file.relative_to(folder) if file.is_relative_to(folder) else file
        return one_line(encodings.readable_name(path.as_posix()))

    def too_long(self, size: int) -> str:
        """The problem with a row of this size. Of a larger file one byte more than allowed is read."""
        known = f"over {self.max_row_bytes:,}" if size == self.max_row_bytes + 1 else f"{size:,}"
        return f"{known} bytes; max_row_bytes allows {self.max_row_bytes:,}. Raise it, or divide the row"

    def _pieces(self, file: Path, *, alone: bool) -> Iterator[dict[str, Any]]:
        try:
            if problem := without_content(file):
                raise FileProblem(problem)
            yield from self.pieces(file)
        except FileProblem as problem:
            if alone:
                raise UserError(f"{file}: {problem}") from None
            yield {"problem": str(problem), "bytes": 0}


class TextFileSource(FileSource):
    """A source of text files, in any encoding, also compressed."""

    encoding: str | None = Field(
        default=None, description="Encoding of the text, such as gb18030; default: found out in each file"
    )

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str | None) -> str | None:
        if encoding is not None and not encodings.known(encoding):
            raise ValueError(f"{encoding!r} is no encoding; expected one such as utf-8, utf-16, gb18030, big5, latin-1")
        return encoding

    def identity(self) -> dict[str, Any]:
        """Returns the options and the files' names, and the encodings of those that are not UTF-8."""
        identity = super().identity()
        if self.encoding is None:
            del identity["encoding"]
            others: dict[str, str] = {}
            for file in self.each_file():  # of files of one name the last one counts
                name, encoding = encodings.readable_name(file.name), self.encoding_of(file)
                others.pop(name, None)
                others |= {name: encoding} if encoding not in ("utf-8", None) else {}
            identity |= {"encodings": others} if others else {}
        return identity

    def encoding_of(self, file: Path) -> str | None:
        return self.encoding or found_encoding(file)

    def text_encoding(self, file: Path) -> str:
        """The encoding in which a file's text is read. Raises FileProblem for data that is not text."""
        encoding = self.encoding_of(file)
        if encoding is None:
            held = encodings.signature(streams.sample(file)) or "binary data"
            raise FileProblem(f"holds {held}; expected text. Unpack or remove it, or give it the suffix of its kind")
        return encoding


class RecordSource(FileSource):
    """A source whose rows are records with named columns. Where rows are not text, a row keeps its whole record."""

    text: str = Field(
        default="text", min_length=1, description="Column with the text, where rows are text; a.b is b within column a"
    )
    group: str | None = Field(
        default=None, description="Column with the group, which is never split; default: a file is a group"
    )
    language_column: str | None = Field(
        default=None, description="Column with the language of each row (its code or name); default: that of the source"
    )
    meta: tuple[str, ...] = Field(
        default=(),
        description="Columns that documents keep in their `meta`, [domain, year], where rows are text: mixtures of the "
        "stage tokens can weigh documents by them",
    )
    columns: dict[Column, str] = Field(
        default={},
        description="Columns with other names than the usual ones, where rows are not text: {prompt: frage, reply: "
        "antwort}; then these are read and no others",
    )

    @cached_property
    def _reads_text_alone(self) -> bool:
        return self.rows in TEXT_ROWS and self.required_columns() == [self.text] and encodings.encodable(self.text)

    def identity(self) -> dict[str, Any]:
        """Leaves out what is not set, so that results made before there was such an option keep their identity."""
        identity = super().identity()
        return {key: value for key, value in identity.items() if value or key not in ("columns", "meta")}

    @field_validator("meta")
    @classmethod
    def _meta_of_text(cls, meta: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if meta and info.data.get("rows", "text") != "text":
            raise ValueError(f"only rows: text have meta, and this source has rows: {info.data['rows']}; remove it")
        return meta

    def to_row(self, number: int, record: dict[str, Any]) -> Row | BadRow:
        """Converts a record to a row, or to a bad row that names its problem."""
        if self._reads_text_alone and isinstance(text := record.get(self.text), str) and encodings.encodable(text):
            return Row(row=number, text=text)  # most rows: the rest would say the same, slower
        problem = self._problem(record)
        if problem:
            return BadRow(row=number, problem=problem, raw=str(record)[:RAW_CHARACTERS])
        group = None if self.group is None else str(value_of(record, self.group))
        language = None if self.language_column is None else language_code(value_of(record, self.language_column))
        if self.rows in TEXT_ROWS:
            meta = {name: str(value) for name in self.meta if (value := value_of(record, name)) is not None}
            return Row(row=number, text=value_of(record, self.text), group=group, language=language, meta=meta)
        record = cells.renamed(record, self.columns) if self.columns else record
        return Row(row=number, record=record, group=group, language=language)

    def _problem(self, record: dict[str, Any]) -> str | None:
        required = self.required_columns()
        for column in required:
            if value_of(record, column, MISSING) is MISSING:
                columns = ", ".join(map(str, record)) or "none"
                return f"no column {column!r}; expected it in every row (columns here: {columns})"
        if self.rows in TEXT_ROWS and not isinstance(text := value_of(record, self.text), str):
            return f"column {self.text!r} holds {type_name(text)}; expected text"
        for column in required if self.rows in TEXT_ROWS else record:
            if not (encodings.encodable(column) and encodings.encodable(value_of(record, column))):
                return f"column {column!r} holds half of a surrogate pair; expected text that UTF-8 can write"
        if self.group is not None and not isinstance(group := value_of(record, self.group), str | int):
            return f"column {self.group!r} holds {type_name(group)}; expected text or a whole number"
        for column in self.meta:
            if not isinstance(value := value_of(record, column), str | int | float | None):
                return f"column {column!r} holds {type_name(value)}; expected text or a number, to be kept in meta"
        if self.language_column is not None and language_code(code := value_of(record, self.language_column)) is None:
            return f"column {self.language_column!r} says {code!r}; expected a code, such as en"
        return None

    def required_columns(self) -> list[str]:
        """Lists the columns that every record must have."""
        text = self.text if self.rows in TEXT_ROWS else None
        return [column for column in (text, self.group, self.language_column, *self.meta) if column is not None]

    def file_columns(self, file: Path) -> list[str] | None:
        """The columns of all rows of a file, dotted ones included; None if rows may differ. Raises FileProblem."""
        return None

    def each_part(self) -> Iterator[Part]:
        """Divides each file into pieces. The rows of one that lacks a required column are bad rows.

        Raises UserError if that is the only file."""
        for part in super().each_part():
            if part.index == 0 and part.args["alone"]:
                self._check_columns(Path(part.args["file"]))
            yield part

    def _check_columns(self, file: Path) -> None:
        try:
            columns = self.file_columns(file)
        except FileProblem as problem:
            raise UserError(f"{file}: {problem}") from None
        missing = [name for name in self.required_columns() if columns is not None and name not in columns]
        if missing and columns is not None:
            name, names, keys = missing[0], ", ".join(columns), ("group", "language_column", "text")
            key = next((key for key in keys if getattr(self, key) == name), "meta")
            raise UserError(f"{file}: no column {name!r}; the file has: {names}. Name the column with {key}:")


MISSING = object()


def value_of(record: dict[str, Any], column: str, default: Any = None) -> Any:
    """The value of a column of a record; where no column has the name, a.b is b within column a.

    >>> value_of({"meta": {"text": "x"}}, "meta.text")
    'x'
    """
    if column in record:
        return record[column]
    name, dot, rest = column.partition(".")
    inner = record.get(name)
    return value_of(inner, rest, default) if dot and isinstance(inner, dict) else default


def check_readable(file: Path) -> None:
    """Raises UserError if the file is missing, empty or unreadable."""
    check_exists(file)
    if problem := without_content(file):
        raise UserError(f"{file}: {problem}")


def found_encoding(file: Path) -> str | None:
    """The encoding of a file's text, found out from a sample; None for data that is not text."""
    return _found_encoding(file, *state(file))


@lru_cache(maxsize=4096)
def _found_encoding(file: Path, size: int, modified_ns: int) -> str | None:
    return encodings.detect(streams.sample(file))


def state(file: Path) -> tuple[int, int]:
    """(size, time of the last change) of a file, by which a change is noticed."""
    try:
        stat = file.stat()
    except OSError as error:
        raise UserError(f"{file}: cannot be read any more ({error.strerror}); expected it as it was") from None
    return stat.st_size, stat.st_mtime_ns


def type_name(value: Any) -> str:
    """Returns the type of a value as JSON calls it, for messages."""
    names = {"NoneType": "null", "str": "text", "dict": "an object", "list": "a list", "bool": "true or false",
             "int": "a number", "float": "a number", "bytes": "bytes that are not UTF-8"}  # fmt: skip
    return names.get(type(value).__name__, type(value).__name__)
