"""FineWeb's rules for web pages, by lines (Penedo et al. 2024, section 3.6): lists and remains of menus.

English has the published limits; Chinese those that FineWeb2 published for it (Penedo et al. 2025, cmn_Hani).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import LimitFilter, fractions
from pipelines.data.corpus.filters.verdict import Limit
from pipelines.options import Options

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.text.document_stats import Documents


class LineLimits(Options):
    """Limits of FineWeb's filter for English."""

    min_ended_line_fraction: float = Field(
        default=0.12, ge=0, le=1, description="Minimum fraction of the lines that end in a terminal mark"
    )
    max_short_line_fraction: float = Field(
        default=0.67, ge=0, le=1, description="Maximum fraction of the lines that are short"
    )
    short_line_characters: int = Field(default=30, ge=0, description="Length up to which a line is short")
    max_duplicate_line_character_fraction: float = Field(
        default=0.01, ge=0, le=1, description="Maximum fraction of the characters in lines that repeat an earlier one"
    )
    max_lines_per_word: float = Field(default=0.3, ge=0, description="Maximum number of line ends for each word")


class ChineseLineLimits(LineLimits):
    """Limits of FineWeb's filter for Chinese; FineWeb2 has none on short lines."""

    min_ended_line_fraction: float = Field(
        default=0.106, ge=0, le=1, description="Minimum fraction of the lines that end in a terminal mark"
    )
    max_short_line_fraction: float = Field(
        default=1, ge=0, le=1, description="Maximum fraction of the lines that are short"
    )
    max_duplicate_line_character_fraction: float = Field(
        default=0.1, ge=0, le=1, description="Maximum fraction of the characters in lines that repeat an earlier one"
    )
    max_lines_per_word: float = Field(default=0.178, ge=0, description="Maximum number of line ends for each word")


class FineWeb(LimitFilter):
    """Drops texts of lines that are not sentences, by their ends, lengths and repetition."""

    en: LineLimits = Field(default=LineLimits(), description="Limits for English")
    zh: ChineseLineLimits = Field(default=ChineseLineLimits(), description="Limits for Chinese")
    reasons: ClassVar = ("fineweb_line_ends", "fineweb_short_lines", "fineweb_duplicate_lines", "fineweb_lists")
    reads_web_words: ClassVar = True

    def limits(self, documents: Documents, rows: np.ndarray, language: str) -> list[Limit]:
        from pipelines.data.text.line_counts import line_shapes  # compiled: not for reading a recipe

        limits, option = (self.zh if language == "zh" else self.en), f"fineweb.{language}"
        feeds, lines, ended, short, repeated = line_shapes(documents.texts, rows, limits.short_line_characters).T
        return [
            Limit("fineweb_line_ends", fractions(ended, lines), limits.min_ended_line_fraction,
                  f"{option}.min_ended_line_fraction", is_minimum=True),
            Limit("fineweb_short_lines", fractions(short, lines), limits.max_short_line_fraction,
                  f"{option}.max_short_line_fraction"),
            Limit("fineweb_duplicate_lines", fractions(repeated, documents.characters[rows] - feeds),
                  limits.max_duplicate_line_character_fraction, f"{option}.max_duplicate_line_character_fraction"),
            Limit("fineweb_lists", fractions(feeds, documents.num_words(rows, language)), limits.max_lines_per_word,
                  f"{option}.max_lines_per_word"),
        ]  # fmt: skip
