"""Drops texts that are too short to teach anything; splits, or drops, those that are longer than a book.

For the minimum a Chinese character counts as a word, so Chinese passes with slightly less content. That is intended:
it needs fewer bytes for the same content, and the shortest form that stands alone, a quatrain of four characters a
line, has sixteen. For the maximum the content counts: 1.6 Chinese characters as a word, so that a book and its
translation meet the same verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import KEEP, Filter, Verdict, above, below
from pipelines.data.text.languages import CHARACTERS_PER_WORD

if TYPE_CHECKING:
    from pipelines.data.text.measures import DocumentStats


class Length(Filter):
    """Limits on the number of words."""

    min_words: int = Field(
        default=10, ge=0, description='Minimum words of a document; "Return a copy of self." has five, a sentence ten'
    )
    max_words: int = Field(
        default=100_000,
        ge=1,
        description="Maximum words of a document, those of a novel, 1.6 Chinese characters counting as one; "
        "split_long says what happens to longer ones",
    )
    split_long: bool = Field(
        default=True,
        description="Whether to split longer documents into parts, at chapters or paragraphs; false: drop them",
    )
    reasons: ClassVar = ("too_short", "too_long")

    def apply(self, document: DocumentStats) -> Verdict:
        content_words = document.spaced_words + document.chinese / CHARACTERS_PER_WORD
        return length(document.words, min_words=self.min_words, max_words=self.max_words, content_words=content_words)


def length(words: int, *, min_words: int, max_words: int, content_words: float | None = None) -> Verdict:
    """Drops documents with too few or too many words. content_words: those of the maximum, if it counts others.

    >>> length(3, min_words=10, max_words=100)
    Verdict(keep=False, reason='too_short')
    """
    content = words if content_words is None else content_words
    return (
        below("too_short", words, min_words, "length.min_words")
        or above("too_long", content, max_words, "length.max_words")
        or KEEP
    )
