"""Checks of documents that the filters kept, against something beside the document: evaluation sets, a trained model.

    Candidates (a batch of documents, with the hashes of their words) ──Check──► CheckResult: drops, counts, columns

A filter decides by one document's counts alone; a check sees a batch, and holds what it compares with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from pipelines.data.corpus.filters.verdict import Verdict
from pipelines.data.text.document_stats import DocumentStats
from pipelines.data.text.measures import HashedTexts


@dataclass(frozen=True)
class Candidates:
    """Documents of one source; `kept` are the positions of those that are to be checked."""

    source: str
    ids: Sequence[str]
    documents: Sequence[DocumentStats]
    hashed: HashedTexts  # of the documents' texts
    kept: Sequence[int]
    groups: Sequence[Sequence[str]] = ()  # of people, that each document mentions; empty where no check counts them


@dataclass(frozen=True)
class CheckResult:
    """What a check says of a batch."""

    dropped: dict[int, Verdict] = field(default_factory=dict)  # by position
    counts: Counter[str] = field(default_factory=Counter)  # facts of the corpus
    columns: dict[str, pa.Array] = field(default_factory=dict)  # added to the documents: a value for each position


class Check(Protocol):
    """A check, opened once by each task."""

    def apply(self, batch: Candidates) -> CheckResult:
        """Checks the kept documents of a batch."""
        ...
