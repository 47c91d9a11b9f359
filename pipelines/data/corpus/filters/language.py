"""Drops texts in other languages than that of their source: English or Chinese, or one of them (`auto`).

Careful with short texts, code, formulas and texts in two languages: they stay (`other_language` says how).
The counts of a document decide nearly always, at no cost; the identifier looks at a sample of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pipelines.data.corpus.filters.filter import Filter
from pipelines.data.corpus.filters.verdict import Verdict
from pipelines.data.text.languages import (
    LANGUAGES,
    LETTERS_PER_CHARACTER,
    MIN_ENGLISH_WORD_SHARE,
    MIN_JAPANESE_SHARE,
    other_language,
)

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.corpus.filters.verdicts import Verdicts
    from pipelines.data.text.document_stats import Documents

MAX_GARBLED = 0.005  # fraction of the characters that are traces of a wrong decoding: the language cannot be told


class Language(Filter):
    """No options: whether a text is in another language."""

    reasons: ClassVar = ("language",)

    def decide(self, documents: Documents, rows: np.ndarray, verdicts: Verdicts) -> None:
        for row in rows[~_are_clearly_in_their_language(documents, rows)].tolist():
            language = documents.language(row)
            if language not in LANGUAGES:
                verdicts[row] = Verdict(False, "language", language)  # the row itself names it
                continue
            document = documents[row]
            if document.garbled > MAX_GARBLED * document.characters:
                continue  # a matter of quality
            if other := other_language(document.text, language):
                verdicts[row] = Verdict(False, "language", other)


def _are_clearly_in_their_language(documents: Documents, rows: np.ndarray) -> np.ndarray:
    """Whether the counts show that texts are in the language they were taken to be in: en or zh. bool[rows]."""
    chinese, letters = documents.counted("chinese", rows), documents.counted("letters", rows)
    is_japanese = documents.counted("japanese", rows) >= MIN_JAPANESE_SHARE / 2 * chinese
    is_zh = documents.is_zh[rows] & ~is_japanese & (LETTERS_PER_CHARACTER * chinese >= letters)
    english, words = documents.counted("english_words", rows), documents.counted("spaced_words", rows)
    has_english = (english > 0) & (english >= MIN_ENGLISH_WORD_SHARE * words)  # see is_english
    of_english = [documents.language(row) == "en" for row in rows.tolist()]
    return is_zh | (of_english & has_english & (letters > LETTERS_PER_CHARACTER * chinese))
