"""Drops texts that are too short to teach anything, or too long to be running text.

A Chinese character counts as a word. The same text has about 1.6 characters in Chinese for a word in English, so
Chinese passes with slightly less content; that is intended, as it needs fewer bytes for the same content, and the
shortest form that stands alone, a quatrain of four characters a line, has sixteen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import KEEP, Filter, Verdict, drop

if TYPE_CHECKING:
    from pipelines.data.text.measures import DocumentStats


class Length(Filter):
    """Limits on the number of words."""

    min_words: int = Field(
        default=10, ge=0, description='Minimum words of a document; "Return a copy of self." has five, a sentence ten'
    )
    max_words: int = Field(
        default=100_000, ge=1, description="Maximum words of a document: those of a novel; longer are dumps and tables"
    )
    reasons: ClassVar = ("too_short", "too_long")

    def apply(self, document: DocumentStats) -> Verdict:
        return length(document.words, min_words=self.min_words, max_words=self.max_words)


def length(words: int, *, min_words: int, max_words: int) -> Verdict:
    """Drops documents with too few or too many words.

    >>> length(3, min_words=10, max_words=100)
    Verdict(keep=False, reason='too_short')
    """
    if words < min_words:
        return drop("too_short")
    return drop("too_long") if words > max_words else KEEP
