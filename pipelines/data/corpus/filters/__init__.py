"""The filters of a corpus, in the order in which they judge. A new one is a file here and a line in Filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.data.corpus.filters.filter import KEEP, Filter, Verdict
from pipelines.data.corpus.filters.length import Length
from pipelines.data.corpus.filters.quality import Quality
from pipelines.data.corpus.filters.repetition import Repetition
from pipelines.options import Options

if TYPE_CHECKING:
    from pipelines.data.text.measures import Measured

__all__ = ["FILTERS", "KEEP", "Filter", "Filters", "Verdict", "judge"]


class Filters(Options):
    """Settings of every filter by name, as a recipe writes them: {length: {minimum_words: 20}, quality: null}."""

    length: Length | None = Length()
    repetition: Repetition | None = Repetition()
    quality: Quality | None = Quality()

    def switched_on(self) -> list[Filter]:
        """The filters that are not null, in order."""
        return [found for name in FILTERS if (found := getattr(self, name)) is not None]


FILTERS = tuple(Filters.model_fields)


def judge(filters: Sequence[Filter], document: Measured) -> Verdict:
    """The first verdict that drops the document, else KEEP."""
    for filter_ in filters:
        verdict = filter_.judge(document)
        if not verdict.keep:
            return verdict
    return KEEP
