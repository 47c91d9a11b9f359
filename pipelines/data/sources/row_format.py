"""The format of a record: its kind of rows, and which of its columns is what. How columns are found by their names.

A record's column has a name in any case: "Prompt" is found as prompt. What each name means is in column_names.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pipelines.data.sources.cells import has_value
from pipelines.errors import printable

CONTENT_ROLES = ("text", "turns", "prompt", "reply", "chosen", "rejected", "first", "second", "replies", "instances")


@dataclass(frozen=True)
class RowFormat:
    """Format of the rows of a file: the recipe's `rows:`, its description, and the columns with the content."""

    rows: str  # text, conversations, preferences or prompts
    description: str  # for messages: "Alpaca: instruction, input, output"
    columns: tuple[str, ...]  # in the order in which they are read
    roles: tuple[str, ...] = ()  # of the columns: turns, prompt, reply, system, …

    @property
    def content(self) -> tuple[str, ...]:
        """The kind of rows and the columns with their content, without those that may stand beside it."""
        beside = ("prompt",) if self.rows == "preferences" else ()
        named = zip(self.columns, self.roles, strict=False)
        return (self.rows, *(name for name, role in named if role in CONTENT_ROLES and role not in beside))

    def column(self, role: str) -> str | None:
        """The column with a role; None without one."""
        return next(iter(self.columns_of(role)), None)

    def columns_of(self, role: str) -> tuple[str, ...]:
        """All columns with a role."""
        return tuple(name for name, its_role in zip(self.columns, self.roles, strict=False) if its_role == role)


Roles = list[tuple[str, str]]
"""(role, column) of each column that is read."""


def named_format(rows: str, name: str, roles: Roles, *, note: str = "") -> RowFormat:
    """A RowFormat whose description names the columns; note: of the first one."""
    columns = tuple(column for _, column in roles)
    described = ", ".join(map(printable, (note or columns[0], *columns[1:])))
    return RowFormat(rows, f"{name}: {described}", columns, tuple(role for role, _ in roles))


def first_column(
    record: Mapping[str, Any], names: Sequence[str], test: Callable[[Any], bool] = lambda value: True
) -> str | None:
    """The first of the names that the record has, in any case, with a value that passes the test."""
    columns = _spellings(tuple(record))
    for name in names:  # a loop, for this is called sixty times a record
        column = columns.get(name)
        if column is not None and test(record[column]):
            return column
    return None


@lru_cache(maxsize=1024)  # rows of a source have few sets of columns
def _spellings(columns: tuple[str, ...]) -> dict[str, str]:
    """The column for each name in lower case; one that is spelled so goes before others."""
    return {column.lower(): column for column in sorted(columns, key=str.islower)}


def two_columns(record: Mapping[str, Any], names: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """The first two columns of which the record has both."""
    for first, second in names:
        columns = first_column(record, (first,)), first_column(record, (second,))
        if columns[0] is not None and columns[1] is not None:
            return columns[0], columns[1]
    return None


def columns_beside(record: Mapping[str, Any], *roles: tuple[str, tuple[str, ...]]) -> Roles:
    """The columns beside the content, by role, where the record has them; those with a value before empty ones."""
    present = ((role, first_column(record, names, has_value) or first_column(record, names)) for role, names in roles)
    return [(role, column) for role, column in present if column is not None]
