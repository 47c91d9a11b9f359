"""The filters of a corpus, in the order in which they run. A new one is a file here and a line in Filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from pipelines.data.corpus.filters.filter import KEEP, Filter, Verdict
from pipelines.data.corpus.filters.language import Language
from pipelines.data.corpus.filters.length import Length
from pipelines.data.corpus.filters.quality import Quality
from pipelines.data.corpus.filters.repetition import Repetition
from pipelines.options import Options

if TYPE_CHECKING:
    from pipelines.data.text.measures import DocumentStats

__all__ = ["FILTERS", "KEEP", "Filter", "Filters", "Verdict", "apply_filters"]


class Filters(Options):
    """Options of every filter by name, as a recipe writes them: {length: {min_words: 20}, quality: null}."""

    length: Length | None = Field(default=Length(), description="Options of the length filter; null disables it")
    language: Language | None = Field(
        default=Language(), description="Options of the language filter, of which there are none; null disables it"
    )
    repetition: Repetition | None = Field(
        default=Repetition(), description="Options of the repetition filter; null disables it"
    )
    quality: Quality | None = Field(default=Quality(), description="Options of the quality filter; null disables it")

    def enabled(self) -> list[Filter]:
        """The filters that are not null, in order."""
        filters: list[Filter | None] = [getattr(self, name) for name in FILTERS]
        return [filter_ for filter_ in filters if filter_ is not None]

    @property
    def split_words(self) -> int | None:
        """Words beyond which documents are split; None if they are not."""
        return self.length.max_words if self.length is not None and self.length.split_long else None


FILTERS = tuple(Filters.model_fields)


def apply_filters(filters: Sequence[Filter], document: DocumentStats) -> Verdict:
    """Returns the first verdict that drops the document, else KEEP."""
    for filter_ in filters:
        verdict = filter_.apply(document)
        if not verdict.keep:
            return verdict
    return KEEP
