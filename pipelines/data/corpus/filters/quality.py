"""Drops texts that are not running text: tables, dumps, lists of links, wrongly decoded bytes.

After the quality rules of MassiveText (Rae et al. 2021, appendix A.1.1), in words and characters that Chinese has too.
The rule on the length of words applies to English only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import KEEP, Filter, Verdict, above, below, drop, fraction

if TYPE_CHECKING:
    from pipelines.data.text.measures import DocumentStats

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

MIN_CODE_LINES, CODE_LINE_SHARE = 3, 0.5  # a text of at least so many lines, more than half of them code, is code


class Quality(Filter):
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

    def apply(self, document: DocumentStats) -> Verdict:
        return (
            above("mojibake", fraction(document.broken + document.garbled, document.characters),
                  self.max_mojibake_fraction, "quality.max_mojibake_fraction")
            or below("few_letters", fraction(document.alphabetic_words, document.words),
                     self.min_alphabetic_word_fraction, "quality.min_alphabetic_word_fraction")
            or above("symbols", fraction(_symbols(document), document.characters),
                     self.max_symbol_fraction, "quality.max_symbol_fraction")
            or self._lines(document)
            or self._words(document)
            or KEEP
        )  # fmt: skip

    def _lines(self, document: DocumentStats) -> Verdict | None:
        if document.lines < self.min_lines_for_line_rules:
            return None
        short = document.width < SENTENCE_WIDTH * document.lines
        return (
            above("bullets", fraction(document.bullet_lines if short else 0, document.lines),
                  self.max_bullet_line_fraction, "quality.max_bullet_line_fraction")
            or above("ellipses", fraction(document.ellipsis_lines, document.lines),
                     self.max_ellipsis_line_fraction, "quality.max_ellipsis_line_fraction")
        )  # fmt: skip

    def _words(self, document: DocumentStats) -> Verdict | None:
        if document.language == "en":
            mean = fraction(document.spaced_word_characters, document.spaced_words)
            if mean > self.max_mean_word_characters:
                return drop("word_length", mean, self.max_mean_word_characters, "quality.max_mean_word_characters")
        if document.words < self.min_words_for_stop_words:
            return None
        stop_words = distinct_stop_words(document.text, language=document.language)
        return below("stop_words", stop_words, self.min_stop_words, "quality.min_stop_words")


def _symbols(document: DocumentStats) -> int:
    """Characters that are symbols of prose; in code the operators are its words."""
    is_code = document.lines >= MIN_CODE_LINES and document.code_lines > CODE_LINE_SHARE * document.lines
    return document.symbols - document.operators if is_code else document.symbols


def distinct_stop_words(text: str, *, language: str) -> int:
    """Counts the different stop words of the language in the text.

    >>> distinct_stop_words("The name of the rose", language="en")
    2
    """
    return len(CHINESE.intersection(text)) if language == "zh" else len(ENGLISH.intersection(text.lower().split()))
