"""Drops texts that repeat themselves: after MassiveText's repetition rules (Rae et al. 2021, table A1).

Fractions are of words or columns, which Chinese has like English, so one threshold serves both; n-grams are longer in
Chinese, so that they have as much content as in English (measures.py). The n-gram rules skip short texts: in twenty
characters a pair of words that occurs twice is style.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import LimitFilter, fractions
from pipelines.data.corpus.filters.verdict import Limit

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.text.document_stats import Documents


class Repetition(LimitFilter):
    """Limits on the fractions of a text that occur in it more than once."""

    max_duplicate_line_fraction: float = Field(
        default=0.3, ge=0, le=1, description="Maximum fraction of the columns in lines that repeat an earlier line"
    )
    max_duplicate_ngram_fraction: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Maximum fraction of the words in repeated n-grams (of 8 words or 13 Chinese characters)",
    )
    max_top_ngram_fraction: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Maximum fraction of the words in the most frequent n-gram (of 4 words or 6 Chinese characters)",
    )
    max_repeated_character_fraction: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Maximum fraction of the characters in runs of six or more of the same letter or digit",
    )
    min_words_for_ngrams: int = Field(
        default=100, ge=0, description="Words of a document from which on the two n-gram rules apply"
    )
    reasons: ClassVar = ("duplicate_lines", "duplicate_ngrams", "top_ngram", "repeated_characters")

    def limits(self, documents: Documents, rows: np.ndarray, language: str) -> list[Limit]:
        words = documents.counted("words", rows)
        words = words * (words >= self.min_words_for_ngrams)  # 0: no fraction is above a limit
        measured = {
            "duplicate_line": ("duplicate_lines", "duplicate_line_width", documents.counted("width", rows)),
            "duplicate_ngram": ("duplicate_ngrams", "duplicate_ngram_words", words),
            "top_ngram": ("top_ngram", "top_ngram_words", words),
            "repeated_character": ("repeated_characters", "repeated_characters", documents.counted("characters", rows)),
        }
        return [
            Limit(reason, fractions(documents.counted(part, rows), total), getattr(self, f"max_{name}_fraction"),
                  f"repetition.max_{name}_fraction")
            for name, (reason, part, total) in measured.items()
        ]  # fmt: skip
