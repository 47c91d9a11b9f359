"""FineWeb's rules for web pages, by lines (Penedo et al. 2024, section 3.6): lists and remains of menus.

English has the published limits; Chinese those that FineWeb2 published for it (Penedo et al. 2025, cmn_Hani).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import KEEP, Filter, Verdict, above, below, fraction
from pipelines.data.corpus.filters.web_text import counted, duplicates
from pipelines.data.text.web_words import TERMINAL_SIGNS
from pipelines.options import Options

if TYPE_CHECKING:
    from pipelines.data.text.measures import DocumentStats


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


class FineWeb(Filter):
    """Drops texts of lines that are not sentences, by their ends, lengths and repetition."""

    en: LineLimits = Field(default=LineLimits(), description="Limits for English")
    zh: ChineseLineLimits = Field(default=ChineseLineLimits(), description="Limits for Chinese")
    reasons: ClassVar = ("fineweb_line_ends", "fineweb_short_lines", "fineweb_duplicate_lines", "fineweb_lists")
    reads_web_words: ClassVar = True

    def apply(self, document: DocumentStats) -> Verdict:
        language = "zh" if document.language == "zh" else "en"
        limits, option = (self.zh if language == "zh" else self.en), f"fineweb.{language}"
        text = document.text
        line_ends = text.count("\n")
        lines = [line for line in text.split("\n") if line.strip()]
        ended = fraction(sum(line[-1] in TERMINAL_SIGNS for line in lines), len(lines))
        short = fraction(sum(len(line) <= limits.short_line_characters for line in lines), len(lines))
        repeated = fraction(duplicates(lines)[1], len(text) - line_ends)
        return (
            below("fineweb_line_ends", ended, limits.min_ended_line_fraction, f"{option}.min_ended_line_fraction")
            or above("fineweb_short_lines", short, limits.max_short_line_fraction, f"{option}.max_short_line_fraction")
            or above("fineweb_duplicate_lines", repeated, limits.max_duplicate_line_character_fraction,
                     f"{option}.max_duplicate_line_character_fraction")
            or above("fineweb_lists", fraction(line_ends, counted(document).words),
                     limits.max_lines_per_word, f"{option}.max_lines_per_word")
            or KEEP
        )  # fmt: skip
