"""Gopher's filters of web text: quality and repetition of MassiveText (Rae et al. 2021, appendix A.1.1, table A1).

English has the published limits, in the words of datatrove, which filtered FineWeb with them; Chinese those that
FineWeb2 published for it (Penedo et al. 2025, cmn_Hani), in words of 1.6 characters (text/web_words.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import KEEP, Filter, Verdict, above, below, drop, fraction
from pipelines.data.corpus.filters.web_text import counted, duplicates
from pipelines.options import Options

if TYPE_CHECKING:
    from pipelines.data.text.measures import DocumentStats
    from pipelines.data.text.web_words import WebText

Limits = dict[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=0, le=1)]]  # by n; replaced as a whole
PARAGRAPH_END = re.compile(r"\n{2,}")


class QualityLimits(Options):
    """Limits of Gopher's quality filter for English."""

    min_words: int = Field(default=50, ge=0, description="Minimum number of words; signs of punctuation do not count")
    max_words: int = Field(default=100_000, ge=1, description="Maximum number of words")
    min_mean_word_characters: float = Field(default=3, ge=0, description="Minimum mean length of the words")
    max_mean_word_characters: float = Field(default=10, gt=0, description="Maximum mean length of the words")
    max_hashes_per_word: float = Field(default=0.1, ge=0, description="Maximum number of # for each word")
    max_ellipses_per_word: float = Field(default=0.1, ge=0, description="Maximum number of ellipses for each word")
    max_bullet_line_fraction: float = Field(
        default=0.9, ge=0, le=1, description="Maximum fraction of the lines that begin with a bullet"
    )
    max_ellipsis_line_fraction: float = Field(
        default=0.3, ge=0, le=1, description="Maximum fraction of the lines that end with an ellipsis"
    )
    min_alphabetic_word_fraction: float = Field(
        default=0.8, ge=0, le=1, description="Minimum fraction of the words and signs that have a letter"
    )
    min_stop_words: int = Field(
        default=2, ge=0, description="Minimum number of different stop words of the document's language"
    )


class ChineseQualityLimits(QualityLimits):
    """Limits of Gopher's quality filter for Chinese."""

    min_mean_word_characters: float = Field(default=1, ge=0, description="Minimum mean length of the words")
    max_mean_word_characters: float = Field(default=5, gt=0, description="Maximum mean length of the words")
    min_alphabetic_word_fraction: float = Field(
        default=0.735, ge=0, le=1, description="Minimum fraction of the words and signs that have a letter"
    )


class GopherQuality(Filter):
    """Drops texts that are not running text, by words, signs and lines."""

    en: QualityLimits = Field(default=QualityLimits(), description="Limits for English")
    zh: ChineseQualityLimits = Field(default=ChineseQualityLimits(), description="Limits for Chinese")
    reasons: ClassVar = (
        "gopher_short", "gopher_long", "gopher_short_words", "gopher_long_words", "gopher_hashes", "gopher_ellipses",
        "gopher_bullets", "gopher_ellipsis_lines", "gopher_few_letters", "gopher_stop_words",
    )  # fmt: skip
    reads_web_words: ClassVar = True

    def apply(self, document: DocumentStats) -> Verdict:
        language = "zh" if document.language == "zh" else "en"
        limits, option = (self.zh if language == "zh" else self.en), f"gopher_quality.{language}"
        web = counted(document)
        mean = fraction(web.real_characters, web.real_words)
        ellipses = document.text.count("...") + document.text.count("…")
        return (
            below("gopher_short", web.real_words, limits.min_words, f"{option}.min_words")
            or above("gopher_long", web.real_words, limits.max_words, f"{option}.max_words")
            or below("gopher_short_words", mean, limits.min_mean_word_characters, f"{option}.min_mean_word_characters")
            or above("gopher_long_words", mean, limits.max_mean_word_characters, f"{option}.max_mean_word_characters")
            or above("gopher_hashes", fraction(document.text.count("#"), web.words), limits.max_hashes_per_word,
                     f"{option}.max_hashes_per_word")
            or above("gopher_ellipses", fraction(ellipses, web.words), limits.max_ellipses_per_word,
                     f"{option}.max_ellipses_per_word")
            or _lines(document.text, limits, option)
            or _letters(web, limits, option)
            or KEEP
        )  # fmt: skip


def _lines(text: str, limits: QualityLimits, option: str) -> Verdict | None:
    if not any(sign in text for sign in ("•", "-", "...", "…")):
        return None
    lines = text.splitlines()
    bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
    ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines)
    return (
        above("gopher_bullets", fraction(bullets, len(lines)), limits.max_bullet_line_fraction,
              f"{option}.max_bullet_line_fraction")
        or above("gopher_ellipsis_lines", fraction(ellipses, len(lines)), limits.max_ellipsis_line_fraction,
                 f"{option}.max_ellipsis_line_fraction")
    )  # fmt: skip


def _letters(web: WebText, limits: QualityLimits, option: str) -> Verdict | None:
    letters = fraction(web.lettered_words, web.words)
    return (
        below("gopher_few_letters", letters, limits.min_alphabetic_word_fraction,
              f"{option}.min_alphabetic_word_fraction")
        or below("gopher_stop_words", web.stop_words, limits.min_stop_words,
                 f"{option}.min_stop_words")
    )  # fmt: skip


class RepetitionLimits(Options):
    """Limits of Gopher's repetition filter for English."""

    max_duplicate_paragraph_fraction: float = Field(
        default=0.3, ge=0, le=1, description="Maximum fraction of the paragraphs that repeat an earlier one"
    )
    max_duplicate_paragraph_character_fraction: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Maximum fraction of characters in paragraphs that repeat an earlier one",
    )
    max_duplicate_line_fraction: float = Field(
        default=0.3, ge=0, le=1, description="Maximum fraction of the lines that repeat an earlier one"
    )
    max_duplicate_line_character_fraction: float = Field(
        default=0.2, ge=0, le=1, description="Maximum fraction of the characters in lines that repeat an earlier one"
    )
    max_top_ngram_fractions: Limits = Field(
        default={2: 0.2, 3: 0.18, 4: 0.16},
        description="By n, the maximum fraction of the characters in the most frequent sequence of n words; "
        "replaces all n of the default",
    )
    max_duplicate_ngram_fractions: Limits = Field(
        default={5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10},
        description="By n, the maximum fraction of the characters in sequences of n words that repeat an earlier "
        "one; replaces all n of the default",
    )


class ChineseRepetitionLimits(RepetitionLimits):
    """Limits of Gopher's repetition filter for Chinese; FineWeb2 has none on paragraphs and characters of lines."""

    max_duplicate_paragraph_fraction: float = Field(
        default=1, ge=0, le=1, description="Maximum fraction of the paragraphs that repeat an earlier one"
    )
    max_duplicate_paragraph_character_fraction: float = Field(
        default=1, ge=0, le=1, description="Maximum fraction of characters in paragraphs that repeat an earlier one"
    )
    max_duplicate_line_fraction: float = Field(
        default=0.287, ge=0, le=1, description="Maximum fraction of the lines that repeat an earlier one"
    )
    max_duplicate_line_character_fraction: float = Field(
        default=1, ge=0, le=1, description="Maximum fraction of the characters in lines that repeat an earlier one"
    )
    max_top_ngram_fractions: Limits = Field(
        default={2: 0.256, 3: 0.201, 4: 0.171},
        description="By n, the maximum fraction of the characters in the most frequent sequence of n words; "
        "replaces all n of the default",
    )
    max_duplicate_ngram_fractions: Limits = Field(
        default={5: 0.198, 6: 0.182, 7: 0.167, 8: 0.154, 9: 0.14, 10: 0.127},
        description="By n, the maximum fraction of the characters in sequences of n words that repeat an earlier "
        "one; replaces all n of the default",
    )


class GopherRepetition(Filter):
    """Drops texts that repeat themselves, by paragraphs, lines and sequences of words."""

    en: RepetitionLimits = Field(default=RepetitionLimits(), description="Limits for English")
    zh: ChineseRepetitionLimits = Field(default=ChineseRepetitionLimits(), description="Limits for Chinese")
    reasons: ClassVar = (
        "gopher_paragraphs", "gopher_paragraph_characters", "gopher_lines", "gopher_line_characters",
        "gopher_top_ngram", "gopher_duplicate_ngrams",
    )  # fmt: skip
    reads_web_words: ClassVar = True

    def apply(self, document: DocumentStats) -> Verdict:
        language = "zh" if document.language == "zh" else "en"
        limits, option = (self.zh if language == "zh" else self.en), f"gopher_repetition.{language}"
        text = document.text
        paragraphs = PARAGRAPH_END.split(text) if "\n\n\n" in text else text.split("\n\n")
        return (
            _pieces(paragraphs, text, "paragraph", limits, option)
            or _pieces("\n".join(paragraphs).split("\n"), text, "line", limits, option)
            or _ngrams(document, language, limits, option)
            or KEEP
        )


def _pieces(pieces: Sequence[str], text: str, piece: str, limits: RepetitionLimits, option: str) -> Verdict | None:
    repeated, characters = duplicates(pieces)
    if not repeated:
        return None
    for reason, value, key in (
        (f"gopher_{piece}s", fraction(repeated, len(pieces)), f"max_duplicate_{piece}_fraction"),
        (f"gopher_{piece}_characters", fraction(characters, len(text)), f"max_duplicate_{piece}_character_fraction"),
    ):
        if verdict := above(reason, value, getattr(limits, key), f"{option}.{key}"):
            return verdict
    return None


def _ngrams(document: DocumentStats, language: str, limits: RepetitionLimits, option: str) -> Verdict | None:
    from pipelines.data.text.web_ngrams import first_above  # compiled: not for reading a recipe

    top, repeated = limits.max_top_ngram_fractions, limits.max_duplicate_ngram_fractions
    characters = len(document.text)
    found = first_above(counted(document), language, top, repeated, characters)
    if found is None:
        return None
    n, limit = [*top.items(), *repeated.items()][found[0]]
    is_top = found[0] < len(top)
    reason = "gopher_top_ngram" if is_top else "gopher_duplicate_ngrams"
    key = "max_top_ngram_fractions" if is_top else "max_duplicate_ngram_fractions"
    return drop(reason, fraction(found[1], characters), limit, f"{option}.{key}.{n}")
