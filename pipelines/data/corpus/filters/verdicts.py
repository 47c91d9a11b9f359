"""The verdicts of many documents by columns: those that one limit drops share a verdict, and each has its own value.

filters ──drop_beyond, [row] = verdict──► Verdicts ──is_kept, numbers, problems──► tables and counts
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.data.corpus.filters.verdict import KEEP, Limit, Verdict, compared


class Verdicts:
    """A verdict of each document: at first that it is kept."""

    def __init__(self, number: int) -> None:
        self.shared = [KEEP]  # a value in one is not that of each document
        self.numbers_D = np.zeros(number, np.int64)  # the place in `shared`
        self._values_D = np.zeros(number)  # what was measured, where there is a value

    def drop_beyond(self, limits: Sequence[Limit], rows: np.ndarray) -> None:
        """Drops documents by the first of the limits that each is beyond. rows: the places of the documents that were
        measured."""
        first = np.full(len(rows), len(limits))
        for number in reversed(range(len(limits))):
            values, limit = limits[number].values, limits[number].limit
            first[values < limit if limits[number].is_minimum else values > limit] = number
        for number, (reason, values, limit, option, _) in enumerate(limits):
            beyond = np.flatnonzero(first == number)
            if len(beyond):
                self.numbers_D[rows[beyond]] = len(self.shared)
                self._values_D[rows[beyond]] = values[beyond]
                self.shared.append(Verdict(False, reason, "", values[beyond[0]].item(), limit, option))

    @property
    def is_kept(self) -> np.ndarray:
        """bool[documents]."""
        return np.array([verdict.keep for verdict in self.shared])[self.numbers_D]

    def counts(self) -> list[tuple[Verdict, int]]:
        """Those of `shared` that documents have, and how many have each, by the first document."""
        numbers, firsts, counts = np.unique(self.numbers_D, return_index=True, return_counts=True)
        return [(self.shared[numbers[place]], int(counts[place])) for place in np.argsort(firsts).tolist()]

    def shortened(self, first: int = 0) -> dict[int, Verdict]:
        """Of the verdicts from the first of `shared` on those that have a text, by document."""
        has_text = [number >= first and verdict.text is not None for number, verdict in enumerate(self.shared)]
        rows = np.flatnonzero(np.array(has_text)[self.numbers_D]).tolist()
        return {row: self.shared[self.numbers_D[row]] for row in rows}

    def problems(self, rows: np.ndarray) -> list[str]:
        """The problem of each document at some places."""
        problems: list[str] = []
        for number, value in zip(self.numbers_D[rows].tolist(), self._values_D[rows].tolist(), strict=True):
            verdict = self.shared[number]
            if verdict.value is None or verdict.limit is None:
                problems.append(verdict.problem)
            else:
                problems.append(compared(type(verdict.value)(value), verdict.limit, verdict.option))
        return problems

    def __len__(self) -> int:
        return len(self.numbers_D)

    def __setitem__(self, row: int, verdict: Verdict) -> None:
        self.numbers_D[row], self._values_D[row] = len(self.shared), verdict.value or 0
        self.shared.append(verdict)

    def __iter__(self) -> Iterator[Verdict]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, row: int) -> Verdict:
        verdict = self.shared[self.numbers_D[row]]
        return verdict if verdict.value is None else verdict._replace(value=type(verdict.value)(self._values_D[row]))
