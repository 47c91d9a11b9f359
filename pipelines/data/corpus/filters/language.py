"""Drops texts in other languages than that of their source: English or Chinese, or one of them (`auto`).

Careful with short texts, code, formulas and texts in two languages: they stay (`other_language` says how).
The counts of a document decide nearly always, at no cost; the identifier looks at a sample of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pipelines.data.corpus.filters.filter import KEEP, Filter, Verdict
from pipelines.data.text.languages import (
    LANGUAGES,
    LETTERS_PER_CHARACTER,
    MIN_JAPANESE_SHARE,
    is_english,
    other_language,
)

if TYPE_CHECKING:
    from pipelines.data.text.measures import DocumentStats

MAX_GARBLED = 0.005  # fraction of the characters that are traces of a wrong decoding: the language cannot be told


class Language(Filter):
    """No options: whether a text is in another language."""

    reasons: ClassVar = ("language",)

    def apply(self, document: DocumentStats) -> Verdict:
        if document.language not in LANGUAGES:
            return Verdict(False, "language", document.language)  # the row itself names it
        if is_clearly_in_its_language(document):
            return KEEP
        if document.garbled > MAX_GARBLED * document.characters:
            return KEEP  # a matter of quality
        other = other_language(document.text, document.language)
        return Verdict(False, "language", other) if other else KEEP


def is_clearly_in_its_language(document: DocumentStats) -> bool:
    """Whether the counts show that a text is in the language it was taken to be in: en or zh."""
    chinese = LETTERS_PER_CHARACTER * document.chinese
    if document.language == "zh":
        return document.japanese < MIN_JAPANESE_SHARE / 2 * document.chinese and chinese >= document.letters
    return document.letters > chinese and is_english(document.english_words, document.spaced_words)
