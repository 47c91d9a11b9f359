"""What a filter decides of a document, and the limits by which most do. No NumPy here: recipes are read without it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Verdict(NamedTuple):
    """Whether a document is kept, and if not the reason, which is counted in `documents/dropped_<reason>`."""

    keep: bool
    reason: str = ""
    language: str = ""  # of the text, where it is the reason
    value: float | None = None  # what was measured, where the reason is a limit
    limit: float | None = None
    option: str = ""  # the limit's key below `filters:`
    message: str = ""  # what was observed, where that is no number
    text: str | None = None  # what is left of a document of which lines are dropped
    lines: tuple[int, ...] | None = None  # the numbers of those that are left, where they are so but for blanks

    @property
    def problem(self) -> str:
        """What was measured and what the limit is, for messages; empty where the reason has no limit.

        >>> drop("too_short", 5, 10, "length.min_words").problem
        '5 < 10 (filters.length.min_words)'
        """
        if self.value is None or self.limit is None:
            return self.message
        return compared(self.value, self.limit, self.option)


@lru_cache(4096, typed=True)  # 5 and 5.0 are written differently
def compared(value: float, limit: float, option: str) -> str:
    """What was measured and what the limit is, for messages."""
    numbers: list[str] = []
    for digits in (3, 6, 17):  # until they differ
        numbers = [f"{number:.{digits}g}" for number in (value, limit)]
        if numbers[0] != numbers[1]:
            break
    for place, number in enumerate((value, limit)):
        if isinstance(number, int):
            numbers[place] = f"{number:,}"
    return f"{numbers[0]} {'<' if value < limit else '>'} {numbers[1]} (filters.{option})"


KEEP = Verdict(True)


def drop(reason: str, value: float | None = None, limit: float | None = None, option: str = "") -> Verdict:
    """Returns the verdict that drops a document for this reason: a value beyond the limit that an option sets."""
    return Verdict(False, reason, value=value, limit=limit, option=option)


class Limit(NamedTuple):
    """A limit of what was measured in some documents; `values` has a number for each."""

    reason: str  # for which a document beyond the limit is dropped
    values: np.ndarray
    limit: float
    option: str
    is_minimum: bool = False
