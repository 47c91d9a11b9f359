"""Gopher's filters of web text: quality and repetition of MassiveText (Rae et al. 2021, appendix A.1.1, table A1).

English has the published limits, in the words of datatrove, which filtered FineWeb with them; Chinese those that
FineWeb2 published for it (Penedo et al. 2025, cmn_Hani), in words of 1.6 characters (text/web_words.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import LimitFilter, fractions
from pipelines.data.corpus.filters.verdict import Limit
from pipelines.options import Options

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.text.document_stats import Documents

Limits = dict[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=0, le=1)]]  # by n; replaced as a whole


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


class GopherQuality(LimitFilter):
    """Drops texts that are not running text, by words, signs and lines."""

    en: QualityLimits = Field(default=QualityLimits(), description="Limits for English")
    zh: ChineseQualityLimits = Field(default=ChineseQualityLimits(), description="Limits for Chinese")
    split_long: bool = Field(
        default=True,
        description="Whether to split documents of more than max_words into parts before they are filtered, as length "
        "does; false: drop them, as datatrove does",
    )
    reasons: ClassVar = (
        "gopher_short", "gopher_long", "gopher_short_words", "gopher_long_words", "gopher_hashes", "gopher_ellipses",
        "gopher_bullets", "gopher_ellipsis_lines", "gopher_few_letters", "gopher_stop_words",
    )  # fmt: skip
    reads_web_words: ClassVar = True

    def limits(self, documents: Documents, rows: np.ndarray, language: str) -> list[Limit]:
        from pipelines.data.text.line_counts import signs_and_lines  # compiled: not for reading a recipe

        limits, option = (self.zh if language == "zh" else self.en), f"gopher_quality.{language}"
        web = documents.web(rows)
        words, real_words = web.words(language), web.real_words(language)
        hashes, ellipses, lines, bullet_lines, ellipsis_lines = signs_and_lines(documents.texts, rows).T

        def below(reason: str, values: np.ndarray, name: str) -> Limit:
            return Limit(reason, values, getattr(limits, name), f"{option}.{name}", is_minimum=True)

        def above(reason: str, values: np.ndarray, name: str) -> Limit:
            return Limit(reason, values, getattr(limits, name), f"{option}.{name}")

        mean = fractions(web.real_characters, real_words)
        return [
            below("gopher_short", real_words, "min_words"),
            above("gopher_long", real_words, "max_words"),
            below("gopher_short_words", mean, "min_mean_word_characters"),
            above("gopher_long_words", mean, "max_mean_word_characters"),
            above("gopher_hashes", fractions(hashes, words), "max_hashes_per_word"),
            above("gopher_ellipses", fractions(ellipses, words), "max_ellipses_per_word"),
            above("gopher_bullets", fractions(bullet_lines, lines), "max_bullet_line_fraction"),
            above("gopher_ellipsis_lines", fractions(ellipsis_lines, lines), "max_ellipsis_line_fraction"),
            below("gopher_few_letters", fractions(web.lettered_words(language), words), "min_alphabetic_word_fraction"),
            below("gopher_stop_words", web.stop_words, "min_stop_words"),
        ]


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


class GopherRepetition(LimitFilter):
    """Drops texts that repeat themselves, by paragraphs, lines and sequences of words."""

    en: RepetitionLimits = Field(default=RepetitionLimits(), description="Limits for English")
    zh: ChineseRepetitionLimits = Field(default=ChineseRepetitionLimits(), description="Limits for Chinese")
    reasons: ClassVar = (
        "gopher_paragraphs", "gopher_paragraph_characters", "gopher_lines", "gopher_line_characters",
        "gopher_top_ngram", "gopher_duplicate_ngrams",
    )  # fmt: skip
    reads_web_words: ClassVar = True

    def limits(self, documents: Documents, rows: np.ndarray, language: str) -> list[Limit]:
        from pipelines.data.text.line_counts import repeated_pieces  # compiled: not for reading a recipe

        limits, option = (self.zh if language == "zh" else self.en), f"gopher_repetition.{language}"
        counts, characters = repeated_pieces(documents.texts, rows), documents.characters[rows]
        result: list[Limit] = []
        for piece, first in (("paragraph", 0), ("line", 3)):
            number, repeated, repeated_characters = counts[:, first : first + 3].T
            for reason, values, key in (
                (f"gopher_{piece}s", fractions(repeated, number), f"max_duplicate_{piece}_fraction"),
                (f"gopher_{piece}_characters", fractions(repeated_characters, characters),
                 f"max_duplicate_{piece}_character_fraction"),
            ):  # fmt: skip
                result.append(Limit(reason, values, getattr(limits, key), f"{option}.{key}"))
        return [*result, *_ngrams(documents, rows, language, limits, option)]


def _ngrams(
    documents: Documents, rows: np.ndarray, language: str, limits: RepetitionLimits, option: str
) -> Iterator[Limit]:
    """Limits of each n: of a document only the first is measured that it is beyond, all others are 0."""
    from pipelines.data.text.web_ngrams import first_above  # compiled: not for reading a recipe

    top, repeated = limits.max_top_ngram_fractions, limits.max_duplicate_ngram_fractions
    characters = documents.characters[rows]
    places, found = first_above(documents.web(rows), language, top, repeated, characters)
    for place, (n, limit) in enumerate((*top.items(), *repeated.items())):
        is_top = place < len(top)
        reason = "gopher_top_ngram" if is_top else "gopher_duplicate_ngrams"
        key = "max_top_ngram_fractions" if is_top else "max_duplicate_ngram_fractions"
        yield Limit(reason, fractions(found * (places == place), characters), limit, f"{option}.{key}.{n}")
