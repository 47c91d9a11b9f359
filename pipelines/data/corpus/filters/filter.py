"""The interface of a filter: a rule that keeps a document, or drops it with a reason.

A new filter is one file with a class derived from `Filter` and one line in `Filters` (filters/__init__.py). Its
options are its fields, described once; the rules below the class are plain functions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pipelines.options import Options

if TYPE_CHECKING:
    from pipelines.data.text.measures import DocumentStats


@dataclass(frozen=True)
class Verdict:
    """Whether a document is kept, and if not the reason, which is counted in `documents/dropped_<reason>`."""

    keep: bool
    reason: str = ""
    language: str = field(default="", repr=False)  # of the text, where it is the reason
    value: float | None = field(default=None, repr=False)  # what was measured, where the reason is a limit
    limit: float | None = field(default=None, repr=False)
    option: str = field(default="", repr=False)  # the limit's key below `filters:`
    message: str = field(default="", repr=False)  # what was observed, where that is no number
    text: str | None = field(default=None, repr=False)  # what is left of a document of which lines are dropped

    @property
    def problem(self) -> str:
        """What was measured and what the limit is, for messages; empty where the reason has no limit.

        >>> drop("too_short", 5, 10, "length.min_words").problem
        '5 < 10 (filters.length.min_words)'
        """
        if self.value is None or self.limit is None:
            return self.message
        digits = 3
        while digits < 17 and f"{self.value:.{digits}g}" == f"{self.limit:.{digits}g}":
            digits = 6 if digits == 3 else 17
        sign = "<" if self.value < self.limit else ">"
        value, limit = (f"{number:,}" if isinstance(number, int) else f"{number:.{digits}g}"
                        for number in (self.value, self.limit))  # fmt: skip
        return f"{value} {sign} {limit} (filters.{self.option})"


KEEP = Verdict(True)


def drop(reason: str, value: float | None = None, limit: float | None = None, option: str = "") -> Verdict:
    """Returns the verdict that drops a document for this reason: a value beyond the limit that an option sets."""
    return Verdict(False, reason, value=value, limit=limit, option=option)


def above(reason: str, value: float, limit: float, option: str) -> Verdict | None:
    """The verdict that drops a document for a value above the limit, if it is; so checks are joined by `or`."""
    return drop(reason, value, limit, option) if value > limit else None


def below(reason: str, value: float, limit: float, option: str) -> Verdict | None:
    """The verdict that drops a document for a value below the limit, if it is."""
    return drop(reason, value, limit, option) if value < limit else None


def fraction(part: float, total: float) -> float:
    """part ÷ total, or 0 if the total is 0."""
    return part / total if total else 0.0


class Filter(Options):
    """One entry of a corpus's `filters:`; `null` there disables it."""

    reasons: ClassVar[tuple[str, ...]]  # all that `apply` may return, in its order: each is a fact of the corpus
    reads_web_words: ClassVar[bool] = False  # whether it needs a document's `web`

    def apply(self, document: DocumentStats) -> Verdict:
        """Returns KEEP, or drops the document with the first reason that applies."""
        raise NotImplementedError
