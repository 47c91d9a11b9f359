"""The interface of a filter: a rule that keeps a document, or drops it with a reason.

A new filter is one file with a class derived from `Filter`, or from `LimitFilter`, and one line in `Filters`
(filters/__init__.py). Its options are its fields, described once; the rules below the class are plain functions.

Filters see many documents at once: most rules compare a column of numbers with a limit, which costs nothing for each
document that is kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pipelines.options import Options

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.corpus.filters.verdicts import Verdicts
    from pipelines.data.text.document_stats import Documents


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


def fractions(parts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """part ÷ total of each document, 0 where the total is 0. float64."""
    import numpy as np  # not for reading a recipe

    return np.divide(parts, totals, out=np.zeros(len(parts)), where=totals != 0)


class MaxWords(NamedTuple):
    """Beyond which documents are split into parts, each a document of its own."""

    content: int | None = None  # words, 1.6 Chinese characters counting as one; None: no limit
    en: int | None = None  # words of the published filters, signs apart, of all documents but Chinese ones
    zh: int | None = None  # of those; None if the other is

    @property
    def least(self) -> int | None:
        """The lowest of the limits: a text with so few bytes is beyond none. None if there is no limit."""
        return min((limit for limit in self if limit is not None), default=None)


class Filter(Options):
    """One entry of a corpus's `filters:`; `null` there disables it."""

    reasons: ClassVar[tuple[str, ...]]  # all that `decide` may give, in its order: each is a fact of the corpus
    reads_web_words: ClassVar[bool] = False  # whether it needs the documents' `web`

    def decide(self, documents: Documents, rows: np.ndarray, verdicts: Verdicts) -> None:
        """Sets the verdicts of the documents that are not kept as they are, each with the first reason that applies.
        rows: int64, the places of the documents that are filtered."""
        raise NotImplementedError


class LimitFilter(Filter):
    """A filter of numbers that have limits."""

    def decide(self, documents: Documents, rows: np.ndarray, verdicts: Verdicts) -> None:
        is_zh = documents.is_zh[rows]
        for language, of_language in (("en", rows[~is_zh]), ("zh", rows[is_zh])):
            if len(of_language):
                verdicts.drop_beyond(self.limits(documents, of_language, language), of_language)

    def limits(self, documents: Documents, rows: np.ndarray, language: str) -> list[Limit]:
        """The limits in the order in which they apply. language: zh if the documents are in Chinese, otherwise en."""
        raise NotImplementedError
