"""Where the documents of a batch come from, by columns: no object is made for a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.data.sources.source import Part


@dataclass
class Origins:
    """The rows of documents, in their order, or parts of rows."""

    source: str  # its name in the recipe
    parts: list[Part] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # number within the part
    groups: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)  # that the row or the source names; empty: to be detected
    metas: list[Mapping[str, str]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # n for the n-th part of a row, 0 for a whole one

    def add(
        self, part: Part, first_row: int, *, language: str, group: str | None, meta: Mapping[str, str], number: int = 1
    ) -> None:
        """Adds so many consecutive rows of a part."""
        self.parts += [part] * number
        self.rows += range(first_row, first_row + number)
        self.groups += [group or part.group] * number
        self.languages += [language] * number
        self.metas += [meta] * number
        self.numbers += [0] * number

    def take(self, places: Sequence[int], numbers: list[int]) -> Origins:
        """Those at these places, as parts with these numbers."""
        return Origins(
            self.source,
            [self.parts[place] for place in places],
            [self.rows[place] for place in places],
            [self.groups[place] for place in places],
            [self.languages[place] for place in places],
            [self.metas[place] for place in places],
            numbers,
        )

    def id(self, place: int) -> str:
        """The id of a document: source/part/row, and .n for a part of a row."""
        number = f".{self.numbers[place]}" if self.numbers[place] else ""
        return f"{self.source}/{self.parts[place].index}/{self.rows[place]}{number}"

    def where(self, place: int) -> str:
        """The place of a document, for messages: file:line."""
        return f"{self.parts[place].where}:{self.rows[place]}"

    def __len__(self) -> int:
        return len(self.rows)
