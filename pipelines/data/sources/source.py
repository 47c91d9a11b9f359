"""What a source of rows is: where text comes from, cut into parts that can be read in parallel.

A new source is one file with a class derived from `Source` and one line in `SOURCES` (sources/__init__.py).
Tops of source files import only pydantic, the standard library and this module: recipes are read with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from pipelines.options import Options

Rows = Literal["text", "conversations", "preferences", "prompts"]
Language = Literal["en", "zh", "auto"]  # auto: each document by its share of Chinese characters


class Part(BaseModel):
    """A piece of a source that one task reads: a file, a range of a file, a package. Plain data, cheap to send."""

    model_config = ConfigDict(frozen=True)

    index: int  # place in the source: rows are ordered by (source, part, row)
    where: str  # shown in errors: a path, a package
    group: str  # held-out data is split by whole groups: package, file, `source` column
    bytes: int = 0  # about how much there is to read: small parts are read together by one task
    args: dict[str, Any] = {}  # what `read` needs, JSON-like


class Row(BaseModel):
    """One row as it was found. `text` for rows of text; `value` for any other kind of rows."""

    model_config = ConfigDict(frozen=True)

    row: int  # number within the part, from 1: a file's line where lines are rows
    text: str = ""
    value: dict[str, Any] | None = None
    group: str | None = None  # overrides the part's group
    language: str | None = None  # overrides the source's
    meta: dict[str, str] = {}


class BadRow(BaseModel):
    """A row that cannot be read: counted, kept aside and reported; beyond the recipe's limit the stage stops."""

    model_config = ConfigDict(frozen=True)

    row: int
    problem: str  # what was found and what was expected
    raw: str = ""  # the first 500 characters


class Source(Options):
    """One entry of the recipe's `sources:`."""

    kind: str
    rows: Rows = Field(default="text", description="text, conversations, preferences or prompts")
    language: Language = Field(default="en", description="en, zh, or auto: document by document")
    _folder: Path = PrivateAttr(default=Path())  # relative paths start at the recipe's folder

    def at(self, folder: Path) -> Source:
        """The same source with relative paths starting at `folder`."""
        copy = self.model_copy()
        copy._folder = folder
        return copy

    def files(self) -> list[Path]:
        """Every file whose bytes decide what this source yields (their content is digested into fingerprints).

        Raises UserError if one is missing, empty or unreadable."""
        return []

    def identity(self) -> dict[str, Any]:
        """What beyond `files` decides what this source yields: its options without paths, versions read."""
        return self.model_dump(exclude={"path"})

    def parts(self) -> list[Part]:
        """The source cut into parts, always the same and in the same order."""
        raise NotImplementedError

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """The rows of one part, streamed."""
        raise NotImplementedError
