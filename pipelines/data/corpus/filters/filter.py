"""What a filter is: a rule that looks at one document and says keep, or drop and why.

A new filter is one file with a class derived from `Filter` and one line in `FILTERS` (filters/__init__.py). Its
options are its fields, so they stand once, with their reasons; the rules below it are plain functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipelines.options import Options

if TYPE_CHECKING:
    from pipelines.data.text.measures import Measured


@dataclass(frozen=True)
class Verdict:
    """Whether a document stays, and if not the reason, which is counted in `documents/dropped_<reason>`."""

    keep: bool
    reason: str = ""


KEEP = Verdict(True)


def drop(reason: str) -> Verdict:
    """A document that goes."""
    return Verdict(False, reason)


class Filter(Options):
    """One entry of a corpus's `filters:`; `null` there switches it off."""

    reasons: ClassVar[tuple[str, ...]]  # all that `judge` may give, in its order: each is a figure of the corpus

    def judge(self, document: Measured) -> Verdict:
        """KEEP, or the first of the filter's reasons to drop."""
        raise NotImplementedError
