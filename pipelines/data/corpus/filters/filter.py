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
    language: str = field(default="", repr=False)  # the text's own, where it is the reason


KEEP = Verdict(True)


def drop(reason: str, language: str = "") -> Verdict:
    """Returns the verdict that drops a document for this reason."""
    return Verdict(False, reason, language)


def fraction(part: int, total: int) -> float:
    """part ÷ total, or 0 if the total is 0."""
    return part / total if total else 0.0


class Filter(Options):
    """One entry of a corpus's `filters:`; `null` there disables it."""

    reasons: ClassVar[tuple[str, ...]]  # all that `apply` may return, in its order: each is a fact of the corpus

    def apply(self, document: DocumentStats) -> Verdict:
        """Returns KEEP, or drops the document with the first reason that applies."""
        raise NotImplementedError
