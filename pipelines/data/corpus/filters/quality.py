"""Drops texts that are not running text: tables, dumps, lists of links, wrongly decoded bytes.

After the quality rules of MassiveText (Rae et al. 2021, appendix A.1.1), in words and characters that Chinese has too.
The rule on the length of words applies to English only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import LimitFilter, fractions
from pipelines.data.corpus.filters.verdict import Limit

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.text.document_stats import Documents

# The most frequent words of running text. Those of Chinese are of both the modern and the classical language, in both
# scripts: a poem has no 的, but hardly any hundred characters are without 不, 人 or 有.
ENGLISH = frozenset(
    ("the", "be", "to", "of", "and", "that", "have", "with", "a", "in", "is", "it", "for", "as", "are", "was", "on",
     "or", "by", "this", "an", "at", "from", "not", "if", "can", "will", "which")
)  # fmt: skip
CHINESE = frozenset(
    "的了是在不和有我这這人他也就都一个個上中大为為以于於之其而所者无無何来來时時自如与與可天日此相誰谁更欲且莫已得"
)

SENTENCE_WIDTH = 50  # columns, a Chinese character taking two: longer bullets, on average, contain sentences

COUNTED = (
    "characters", "words", "broken", "alphabetic_words", "symbols", "operators", "lines", "code_lines", "bullet_lines",
    "ellipsis_lines", "width", "spaced_words", "spaced_word_characters",
)  # fmt: skip
MIN_CODE_LINES, CODE_LINE_SHARE = 3, 0.5  # a text of at least so many lines, more than half of them code, is code


class Quality(LimitFilter):
    """Limits on fractions and counts that distinguish running text from other content."""

    min_alphabetic_word_fraction: float = Field(
        default=0.6, ge=0, le=1, description="Minimum fraction of the words that have a letter or Chinese character"
    )
    max_symbol_fraction: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Maximum fraction of the characters that are neither letters, digits nor punctuation; in code, "
        "operators are not counted",
    )
    max_bullet_line_fraction: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Maximum fraction of the lines that begin with a bullet, in texts of short lines",
    )
    max_ellipsis_line_fraction: float = Field(
        default=0.3, ge=0, le=1, description="Maximum fraction of the lines that end with an ellipsis, as teasers do"
    )
    min_lines_for_line_rules: int = Field(
        default=10, ge=0, description="Lines of a document from which on the bullet and ellipsis rules apply"
    )
    max_mean_word_characters: float = Field(
        default=12,
        gt=0,
        description="Maximum mean length of words, English only; longer are encodings and lists of paths",
    )
    min_stop_words: int = Field(
        default=2, ge=0, description="Minimum number of different stop words of the document's language"
    )
    min_words_for_stop_words: int = Field(
        default=100, ge=0, description="Words of a document from which on the stop-word rule applies"
    )
    max_mojibake_fraction: float = Field(
        default=0.005, ge=0, le=1, description="Maximum fraction of the characters that are traces of a wrong decoding"
    )
    reasons: ClassVar = ("mojibake", "few_letters", "symbols", "bullets", "ellipses", "word_length", "stop_words")

    def limits(self, documents: Documents, rows: np.ndarray, language: str) -> list[Limit]:
        count = {name: documents.counted(name, rows) for name in COUNTED}
        garbled = count["broken"] + documents.garbled[rows]
        alphabetic = fractions(count["alphabetic_words"], count["words"])
        return [
            Limit("mojibake", fractions(garbled, count["characters"]), self.max_mojibake_fraction,
                  "quality.max_mojibake_fraction"),
            Limit("few_letters", alphabetic, self.min_alphabetic_word_fraction, "quality.min_alphabetic_word_fraction",
                  is_minimum=True),
            Limit("symbols", fractions(_symbols(count), count["characters"]), self.max_symbol_fraction,
                  "quality.max_symbol_fraction"),
            *self._lines(count),
            *self._words(documents, rows, count),
        ]  # fmt: skip

    def _lines(self, count: Mapping[str, np.ndarray]) -> list[Limit]:
        lines = count["lines"] * (count["lines"] >= self.min_lines_for_line_rules)  # 0: no fraction is above a limit
        bullets = count["bullet_lines"] * (count["width"] < SENTENCE_WIDTH * count["lines"])
        return [
            Limit("bullets", fractions(bullets, lines), self.max_bullet_line_fraction,
                  "quality.max_bullet_line_fraction"),
            Limit("ellipses", fractions(count["ellipsis_lines"], lines), self.max_ellipsis_line_fraction,
                  "quality.max_ellipsis_line_fraction"),
        ]  # fmt: skip

    def _words(self, documents: Documents, rows: np.ndarray, count: Mapping[str, np.ndarray]) -> list[Limit]:
        languages = [documents.language(row) for row in rows.tolist()]
        is_english = [language == "en" for language in languages]
        stop_words = count["words"] * 0 + self.min_stop_words  # of short texts: enough
        for place in (count["words"] >= self.min_words_for_stop_words).nonzero()[0].tolist():
            stop_words[place] = distinct_stop_words(documents.text(int(rows[place])), language=languages[place])
        return [
            Limit("word_length", fractions(count["spaced_word_characters"] * is_english, count["spaced_words"]),
                  self.max_mean_word_characters, "quality.max_mean_word_characters"),
            Limit("stop_words", stop_words, self.min_stop_words, "quality.min_stop_words", is_minimum=True),
        ]  # fmt: skip


def _symbols(count: Mapping[str, np.ndarray]) -> np.ndarray:
    """Characters that are symbols of prose; in code the operators are its words."""
    lines = count["lines"]
    is_code = (lines >= MIN_CODE_LINES) & (count["code_lines"] > CODE_LINE_SHARE * lines)
    return count["symbols"] - count["operators"] * is_code


def distinct_stop_words(text: str, *, language: str) -> int:
    """Counts the different stop words of the language in the text.

    >>> distinct_stop_words("The name of the rose", language="en")
    2
    """
    return len(CHINESE.intersection(text)) if language == "zh" else len(ENGLISH.intersection(text.lower().split()))
