"""Drops texts that are too short to teach anything; splits, or drops, those that are longer than a book.

For the minimum a Chinese character counts as a word, so Chinese passes with slightly less content. That is intended:
it needs fewer bytes for the same content, and the shortest form that stands alone, a quatrain of four characters a
line, has sixteen. For the maximum the content counts: 1.6 Chinese characters as a word, so that a book and its
translation meet the same verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import LimitFilter
from pipelines.data.corpus.filters.verdict import Limit
from pipelines.data.text.languages import CHARACTERS_PER_WORD

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.text.document_stats import Documents


class Length(LimitFilter):
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

    def limits(self, documents: Documents, rows: np.ndarray, language: str) -> list[Limit]:
        words = documents.counted("words", rows)
        content = documents.counted("spaced_words", rows) + documents.counted("chinese", rows) / CHARACTERS_PER_WORD
        return [
            Limit("too_short", words, self.min_words, "length.min_words", is_minimum=True),
            Limit("too_long", content, self.max_words, "length.max_words"),
        ]
