"""Texts too short to teach anything, or too long to be a text.

A Chinese character counts as a word. The same text has about 1.6 characters in Chinese for a word in English, so
Chinese is let in a little earlier; that is meant, for it says the same in fewer bytes, and the shortest form that
stands alone, a quatrain of four characters a line, has sixteen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import KEEP, Filter, Verdict, drop

if TYPE_CHECKING:
    from pipelines.data.text.measures import Measured


class Length(Filter):
    """Number of words."""

    minimum_words: int = Field(
        default=10, ge=0, description='"Return a copy of self." teaches little; a sentence has ten words or more'
    )
    maximum_words: int = Field(default=100_000, ge=1, description="a novel has that many; beyond are dumps and tables")
    reasons: ClassVar = ("too_short", "too_long")

    def judge(self, document: Measured) -> Verdict:
        return length(document.words, minimum=self.minimum_words, maximum=self.maximum_words)


def length(words: int, *, minimum: int, maximum: int) -> Verdict:
    """
    >>> length(3, minimum=10, maximum=100)
    Verdict(keep=False, reason='too_short')
    """
    if words < minimum:
        return drop("too_short")
    return drop("too_long") if words > maximum else KEEP
