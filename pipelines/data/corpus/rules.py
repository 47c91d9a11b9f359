"""The rules by which the documents of one source are cleaned. Plain data, sent to tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.data.corpus.filters import Filter, Verdict
from pipelines.data.corpus.filters.custom import Custom
from pipelines.data.corpus.filters.filter import MaxWords
from pipelines.data.text.privacy_kinds import PERSONAL_DATA, PrivacyOptions

EMPTY = Verdict(False, "empty")  # belongs to no filter: the document has no characters


@dataclass(frozen=True)
class Rules:
    """Filters in their order, and what happens to personal data."""

    filters: Sequence[Filter | Custom]
    split_words: MaxWords
    privacy: PrivacyOptions
    seed: int  # of surrogates

    @property
    def reasons(self) -> list[str]:
        """All reasons for which a document may be dropped, except those that custom filters name."""
        private = [PERSONAL_DATA] if "drop" in self.privacy.values() else []
        return [EMPTY.reason, *private, *(reason for filter_ in self.filters for reason in filter_.reasons)]
