"""Texts that are not running text: tables, dumps, lists of links, wrongly decoded bytes.

After the quality rules of MassiveText (Rae et al. 2021, appendix A.1.1), said in words and characters that Chinese
has too. What holds for English alone (the length of words) is asked of English alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import KEEP, Filter, Verdict, drop
from pipelines.data.corpus.filters.repetition import share

if TYPE_CHECKING:
    from pipelines.data.text.measures import Measured

# The most frequent words of running text. For Chinese both of today's language and of the classical one, in both
# scripts: a poem has no 的, but hardly a hundred characters go by without 不, 人 or 有.
ENGLISH = frozenset(
    ("the", "be", "to", "of", "and", "that", "have", "with", "a", "in", "is", "it", "for", "as", "are", "was", "on",
     "or", "by", "this", "an", "at", "from", "not", "if", "can", "will", "which")
)  # fmt: skip
CHINESE = frozenset(
    "的了是在不和有我这這人他也就都一个個上中大为為以于於之其而所者无無何来來时時自如与與可天日此相誰谁更欲且莫已得"
)

SENTENCE_WIDTH = 50  # columns, a Chinese character taking two: bullets longer than that on average hold sentences

# What UTF-8 looks like when it was read as Latin-1 or GBK, and what GBK decoders print for what they cannot read.
MOJIBAKE = re.compile(
    "[ÃÂ][\u00a1-\u00bf]|â[\u0080€][\u0080-\u00bf\u2018-\u201d™œ˜]|ï»¿"
    "|锟斤拷|烫烫烫|屯屯屯|鈥[檚淭渃]|銆[\ue000-\uf8ff侀]"
)


class Quality(Filter):
    """Shares and counts that tell running text from other things."""

    alphabetic_words: float = Field(
        default=0.6, ge=0, le=1, description="of the words, at least: with a letter or Chinese"
    )
    symbols: float = Field(
        default=0.3, ge=0, le=1, description="of the characters, at most: neither letters, digits nor punctuation"
    )
    bullet_lines: float = Field(
        default=0.9, ge=0, le=1, description="of the lines, at most, if they are short: lists without sentences"
    )
    ellipsis_lines: float = Field(default=0.3, ge=0, le=1, description="of the lines, at most: cut-off teasers")
    lines_from: int = Field(
        default=10, ge=0, description="the two rules on lines look at texts of so many lines or more"
    )
    mean_word_characters: float = Field(
        default=12, gt=0, description="at most, English: beyond are encodings and lists of paths"
    )
    stop_words: int = Field(
        default=2, ge=0, description="different ones, at least, of the most frequent of the language"
    )
    stop_words_from_words: int = Field(default=100, ge=0, description="shorter texts may well do without")
    broken: float = Field(
        default=0.005, ge=0, le=1, description="of the characters, at most: traces of a wrong decoding"
    )
    reasons: ClassVar = ("few_letters", "symbols", "bullets", "ellipses", "word_length", "stop_words", "mojibake")

    def judge(self, document: Measured) -> Verdict:
        if share(document.alphabetic_words, document.words) < self.alphabetic_words:
            return drop("few_letters")
        if share(document.symbols, document.characters) > self.symbols:
            return drop("symbols")
        if document.lines >= self.lines_from:
            short = document.width < SENTENCE_WIDTH * document.lines
            if short and share(document.bullet_lines, document.lines) > self.bullet_lines:
                return drop("bullets")
            if share(document.ellipsis_lines, document.lines) > self.ellipsis_lines:
                return drop("ellipses")
        english = document.language == "en"
        if english and share(document.spaced_word_characters, document.spaced_words) > self.mean_word_characters:
            return drop("word_length")
        if document.words >= self.stop_words_from_words:
            if distinct_stop_words(document.text, language=document.language) < self.stop_words:
                return drop("stop_words")
        if share(document.broken + mojibake(document.text), document.characters) > self.broken:
            return drop("mojibake")
        return KEEP


def distinct_stop_words(text: str, *, language: str) -> int:
    """How many of the language's most frequent words the text has.

    >>> distinct_stop_words("The name of the rose", language="en")
    2
    """
    return len(CHINESE.intersection(text)) if language == "zh" else len(ENGLISH.intersection(text.lower().split()))


def mojibake(text: str) -> int:
    """How often the text shows a well-known trace of a wrong decoding.

    >>> mojibake("cafÃ© is café")
    1
    """
    return 0 if text.isascii() else len(MOJIBAKE.findall(text))
