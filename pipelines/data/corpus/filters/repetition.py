"""Texts that say the same over and over: after MassiveText's repetition rules (Rae et al. 2021, table A1).

Shares are of words or columns, which Chinese has like English, so one threshold serves both; runs of words are as
long as they must be to say equally much (measures.py). Short texts are let
through by the n-gram rules: in twenty characters a pair of words said twice is style.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import KEEP, Filter, Verdict, drop

if TYPE_CHECKING:
    from pipelines.data.text.measures import Measured


class Repetition(Filter):
    """Shares of a text that stand in it more than once."""

    duplicate_lines: float = Field(default=0.3, ge=0, le=1, description="of the columns: lines that stood before")
    duplicate_ngrams: float = Field(default=0.5, ge=0, le=1, description="of the words: in runs of 8 that stood before")
    top_ngram: float = Field(default=0.2, ge=0, le=1, description="of the words: the most frequent run of 4")
    repeated_characters: float = Field(
        default=0.2, ge=0, le=1, description="of the characters: letters in runs of six or more of one"
    )
    ngrams_from_words: int = Field(
        default=100, ge=0, description="the two rules on n-grams look at texts of so many words or more"
    )
    reasons: ClassVar = ("duplicate_lines", "duplicate_ngrams", "top_ngram", "repeated_characters")

    def judge(self, document: Measured) -> Verdict:
        if share(document.duplicate_line_width, document.width) > self.duplicate_lines:
            return drop("duplicate_lines")
        if document.words >= self.ngrams_from_words:
            if share(document.duplicate_ngram_words, document.words) > self.duplicate_ngrams:
                return drop("duplicate_ngrams")
            if share(document.top_ngram_words, document.words) > self.top_ngram:
                return drop("top_ngram")
        if share(document.repeated_characters, document.characters) > self.repeated_characters:
            return drop("repeated_characters")
        return KEEP


def share(part: int, whole: int) -> float:
    """part ÷ whole; nothing is no share of nothing."""
    return part / whole if whole else 0.0
