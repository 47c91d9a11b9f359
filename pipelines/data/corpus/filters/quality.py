"""Drops texts that are not running text: tables, dumps, lists of links, wrongly decoded bytes.

After the quality rules of MassiveText (Rae et al. 2021, appendix A.1.1), in words and characters that Chinese has too.
The rule on the length of words applies to English only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import KEEP, Filter, Verdict, drop, fraction

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

# UTF-8 decoded as Latin-1 or GBK, and the replacement characters of GBK decoders.
MOJIBAKE = re.compile(
    "[ÃÂ][\u00a1-\u00bf]|â[\u0080€][\u0080-\u00bf\u2018-\u201d™œ˜]|ï»¿"
    "|锟斤拷|烫烫烫|屯屯屯|鈥[檚淭渃]|銆[\ue000-\uf8ff侀]"
)


class Quality(Filter):
    """Limits on fractions and counts that distinguish running text from other content."""

    min_alphabetic_word_fraction: float = Field(
        default=0.6, ge=0, le=1, description="Minimum fraction of the words that have a letter or Chinese character"
    )
    max_symbol_fraction: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Maximum fraction of the characters that are neither letters, digits nor punctuation",
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
    reasons: ClassVar = ("few_letters", "symbols", "bullets", "ellipses", "word_length", "stop_words", "mojibake")

    def apply(self, document: DocumentStats) -> Verdict:
        if fraction(document.alphabetic_words, document.words) < self.min_alphabetic_word_fraction:
            return drop("few_letters")
        if fraction(document.symbols, document.characters) > self.max_symbol_fraction:
            return drop("symbols")
        if document.lines >= self.min_lines_for_line_rules:
            short = document.width < SENTENCE_WIDTH * document.lines
            if short and fraction(document.bullet_lines, document.lines) > self.max_bullet_line_fraction:
                return drop("bullets")
            if fraction(document.ellipsis_lines, document.lines) > self.max_ellipsis_line_fraction:
                return drop("ellipses")
        mean_word_characters = fraction(document.spaced_word_characters, document.spaced_words)
        if document.language == "en" and mean_word_characters > self.max_mean_word_characters:
            return drop("word_length")
        if document.words >= self.min_words_for_stop_words:
            if distinct_stop_words(document.text, language=document.language) < self.min_stop_words:
                return drop("stop_words")
        if fraction(document.broken + mojibake(document.text), document.characters) > self.max_mojibake_fraction:
            return drop("mojibake")
        return KEEP


def distinct_stop_words(text: str, *, language: str) -> int:
    """Counts the different stop words of the language in the text.

    >>> distinct_stop_words("The name of the rose", language="en")
    2
    """
    return len(CHINESE.intersection(text)) if language == "zh" else len(ENGLISH.intersection(text.lower().split()))


def mojibake(text: str) -> int:
    """Counts well-known traces of a wrong decoding in the text.

    >>> mojibake("cafÃ© is café")
    1
    """
    return 0 if text.isascii() else len(MOJIBAKE.findall(text))
