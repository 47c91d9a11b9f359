"""The interface of a filter: a rule that keeps a document, or drops it with a reason.

A new filter is one file with a class derived from `Filter`, or from `LimitFilter`, and one line in `Filters`
(filters/__init__.py). Its options are its fields, described once; the rules below the class are plain functions.

Filters see many documents at once: most rules compare a column of numbers with a limit, which costs nothing for each
document that is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pipelines.options import Options

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.corpus.filters.verdict import Limit
    from pipelines.data.corpus.filters.verdicts import Verdicts
    from pipelines.data.text.document_stats import Documents


def fractions(parts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """part ÷ total of each document, 0 where the total is 0. float64."""
    import numpy as np  # not for reading a recipe

    return np.divide(parts, totals, out=np.zeros(len(parts)), where=totals != 0)


class MaxWords(NamedTuple):
    """Beyond which documents are split into parts, each a document of its own."""

    content: int | None = None  # words, 1.6 Chinese characters counting as one; None: no limit
    en: int | None = None  # words of the published filters, signs apart, of all documents but Chinese ones
    zh: int | None = None  # of those; None if the other is

    @property
    def least(self) -> int | None:
        """The lowest of the limits: a text with so few bytes is beyond none. None if there is no limit."""
        return min((limit for limit in self if limit is not None), default=None)


class Filter(Options):
    """One entry of a corpus's `filters:`; `null` there disables it."""

    reasons: ClassVar[tuple[str, ...]]  # all that `decide` may give, in its order: each is a fact of the corpus
    reads_web_words: ClassVar[bool] = False  # whether it needs the documents' `web`

    def decide(self, documents: Documents, rows: np.ndarray, verdicts: Verdicts) -> None:
        """Sets the verdicts of the documents that are not kept as they are, each with the first reason that applies.
        rows: int64, the places of the documents that are filtered."""
        raise NotImplementedError


class LimitFilter(Filter):
    """A filter of numbers that have limits."""

    def decide(self, documents: Documents, rows: np.ndarray, verdicts: Verdicts) -> None:
        is_zh = documents.is_zh[rows]
        for language, of_language in (("en", rows[~is_zh]), ("zh", rows[is_zh])):
            if len(of_language):
                verdicts.drop_beyond(self.limits(documents, of_language, language), of_language)

    def limits(self, documents: Documents, rows: np.ndarray, language: str) -> list[Limit]:
        """The limits in the order in which they apply. language: zh if the documents are in Chinese, otherwise en."""
        raise NotImplementedError
