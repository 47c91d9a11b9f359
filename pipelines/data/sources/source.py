"""The interface of a source of rows: where text comes from, divided into parts that can be read in parallel.

A new source is one file with a class derived from `Source` and one line in `SOURCES` (sources/__init__.py).
Tops of source files import only pydantic, the standard library and this folder: recipes are read with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from pipelines import user_functions
from pipelines.data.sources import object_files
from pipelines.data.text.privacy_kinds import PrivacyOptions
from pipelines.errors import printable
from pipelines.options import Options

Rows = Literal["text", "documents", "conversations", "preferences", "prompts", "images"]
TEXT_ROWS = ("text", "documents")  # those that hold a text
Language = Literal["en", "zh", "auto"]  # auto: detected in each document from its fraction of Chinese characters


@dataclass(frozen=True, slots=True)
class Part:
    """A unit of reading within a source: a file, a range of a file, a package. Plain data, cheap to send to a task."""

    index: int  # position in the source: rows are ordered by (source, part, row)
    where: str  # the path or package, for messages
    group: str  # held-out data is split by whole groups: package, file, `source` column
    bytes: int = 0  # approximate size of the text: small parts are read together by one task
    # Number of its first row. None: rows are numbered on from the part before, and nobody has counted those yet.
    first_row: int | None = 1
    args: dict[str, Any] = field(default_factory=dict)  # arguments of `read`, JSON-like


class Row(BaseModel):
    """One raw row of a source: `text` where the source has rows of text, `record` for any other kind of rows."""

    model_config = ConfigDict(frozen=True)

    row: int  # number within the part, from 1: a file's line where lines are rows
    text: str = ""
    record: dict[str, Any] | None = None
    group: str | None = None  # overrides the part's group
    language: str | None = None  # overrides the source's
    meta: dict[str, str] = Field(default_factory=dict)  # not = {}, which would be copied deeply for each row


class Texts(NamedTuple):
    """Consecutive rows of a part that have a text and nothing else; so many that none is an object of its own."""

    first_row: int  # the number of the first one
    texts: Any  # pyarrow.StringArray, none of them null


class BadRow(BaseModel):
    """A row that cannot be read: counted, rejected and reported; over the recipe's limit the stage stops."""

    model_config = ConfigDict(frozen=True)

    row: int
    problem: str  # what is wrong with it and what was expected
    raw: str = ""  # the first 500 characters
    reason: str = ""  # by which it is counted where it was understood and is left out by a rule, and is no bad row

    @field_validator("problem")
    @classmethod
    def _printable(cls, problem: str) -> str:
        return printable(problem)  # it quotes the file, and is displayed

    @field_validator("raw")
    @classmethod
    def _encodable(cls, raw: str) -> str:
        return raw.encode(errors="replace").decode()  # it is written to a file


class Source(Options):
    """One entry of the recipe's `sources:`."""

    kind: str = Field(description="Kind of the source, which decides its other keys")
    rows: Rows = Field(
        default="text",
        description="Content of its rows: text to train on, documents to look up in (the stage knowledge), "
        "conversations, preferences or prompts",
    )
    language: Language = Field(
        default="en", description="Language of its text: en, zh, or auto to detect it by document"
    )
    filters: dict[str, Any] | None = Field(
        default=None,
        description="Filters of its text where they differ from the stage's, with the keys of corpus.filters: "
        "{quality: null}; the stage's other filters stay",
    )
    privacy: PrivacyOptions | None = Field(
        default=None, description="What happens to personal data in its text, where it differs from corpus.privacy"
    )
    kinds_of_rows: ClassVar[tuple[str, ...]] = ("text", "documents", "conversations", "preferences", "prompts")
    needs_look: ClassVar[bool] = False  # whether ranges of a file cannot be read before `count_rows` looked at all
    _folder: Path = PrivateAttr(default=Path())  # relative paths start at the recipe's folder
    _cache: Path | None = PrivateAttr(default=None)

    @field_validator("rows")
    @classmethod
    def _kind_of_rows_that_it_reads(cls, rows: Rows) -> Rows:
        if rows not in cls.kinds_of_rows:
            readers = "only kind: images reads images" if rows == "images" else "it reads images with their captions"
            raise ValueError(f"expected {', '.join(cls.kinds_of_rows)}: {readers}")
        return rows

    @model_validator(mode="after")
    def _rules_are_for_text(self) -> Self:
        for key in ("filters", "privacy"):
            if getattr(self, key) is not None and self.rows != "text":
                raise ValueError(f"{key}: only rows: text have {key}, and this source has rows: {self.rows}; remove it")
        return self

    def at(self, folder: Path, cache: Path | None = None) -> Source:
        """A copy of the source whose relative paths start at `folder`. cache: folder for copies of objects."""
        copy = self.model_copy()
        copy._folder, copy._cache = folder, cache
        return copy

    def each_file(self) -> Iterator[Path]:
        """Yields every file whose bytes decide what this source yields (fingerprints include a digest of them).

        Raises UserError if one is missing or unreadable, or if all are empty."""
        return iter(())

    def files(self) -> list[Path]:
        """Lists the files of `each_file`. Of many files this takes much memory: runs go through them one by one."""
        return list(self.each_file())

    def digest_of(self, file: Path) -> str | None:
        """The xxh3-128 (hex) of one of its files where it is known without reading the file, else None."""
        return object_files.digest_of(file, self._cache) if self._cache is not None else None

    def has_lines(self, file: Path) -> bool:
        """Whether it pays to count the lines of a file while it is hashed: if it is divided, which only a look into it
        tells, `count_rows` needs them."""
        return False

    def missing_objects(self) -> list[object_files.Version]:
        """The copies of the objects that its paths name, as far as they are not in the cache: reading it brings them.

        Raises UserError for a URL that names no object, and what `Objects` raises."""
        return []

    def folders(self) -> list[tuple[Path, list[Path]]]:
        """The files by folder, where they belong together by their names below it; empty: each file stands alone."""
        return []

    def identity(self) -> dict[str, Any]:
        """Returns what decides this source's rows besides the bytes of `files`: its options without paths, versions.

        Rules of its own are left out where there are none; the user's functions count by their code. Raises UserError
        if their files cannot be read."""
        identity = self.model_dump(exclude={"path"})
        for key in ("filters", "privacy"):
            if not identity[key]:
                del identity[key]
        if self.custom_filters:
            custom = [user_functions.read(where).identity for where in self.custom_filters]
            identity["filters"] = {**identity["filters"], "custom": custom}
        return identity

    @property
    def custom_filters(self) -> list[str]:
        """The user's functions among its filters, path/to/file.py:name."""
        return list((self.filters or {}).get("custom") or ())

    def each_part(self) -> Iterator[Part]:
        """Yields the parts into which the source is divided, always the same and in the same order."""
        raise NotImplementedError

    def parts(self) -> list[Part]:
        """Lists the parts of `each_part`."""
        return list(self.each_part())

    def count_rows(self, part: Part, lines_before: Sequence[int] = ()) -> Any:
        """What `numbered` has to know of a part, JSON-like; not always a count, nor one of rows. Of JSON lines and text
        its lines, blank ones too, if numbers go on in the part after it, else 0; of tables see `Csv`.

        lines_before: of the file, as `line_counts` has them, where known."""
        return 0

    def numbered(self, parts: Iterable[Part], counts: Iterable[Any]) -> Iterator[Part]:
        """Yields all parts of the source with the numbers of their first rows; counts: of `count_rows` for each."""
        next_row = 1
        for part, num_rows in zip(parts, counts, strict=True):
            first_row = next_row if part.first_row is None else part.first_row
            yield part if part.first_row is not None else replace(part, first_row=first_row)
            next_row = first_row + num_rows

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Streams the rows of one part. A source that has a `read_texts` of its own yields the same rows by both."""
        raise NotImplementedError

    def read_texts(self, part: Part) -> Iterator[Row | BadRow | Texts]:
        """Streams the rows of one part, as far as it can with many of them together."""
        return self.read(part)
