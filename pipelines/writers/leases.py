"""Which engine a task calls: each engine is called by one task at a time.

The record is an actor of its own (a gang of one) as long as the tasks run. A task that dies gives nothing back; the one
that Ray runs in its place has the same batch, and so gets the same engine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.gang import Gang
from cluster.resources import Resources

ANSWER_S = 60.0  # within which the record must answer
POLL_S = 0.2


class Leases:
    """The numbers of the engines that batches hold, by the number of the batch."""

    def __init__(self, engines: int):
        self._engines = engines
        self._held: dict[int, int] = {}

    def take(self, batch: int) -> int | None:
        """The engine that the batch holds; otherwise its own by its number, or the next one that is free; None where
        none is."""
        free = set(range(self._engines)) - set(self._held.values())
        if batch not in self._held and free:
            self._held[batch] = min(free, key=lambda engine: (engine - batch) % self._engines)
        return self._held.get(batch)

    def give_back(self, batch: int) -> None:
        self._held.pop(batch, None)


@dataclass(frozen=True)
class Engines:
    """Engines that tasks call. leases: of their numbers; None of a single engine."""

    gangs: Sequence[Gang]
    leases: Gang | None

    @classmethod
    @contextmanager
    def open(cls, gangs: Sequence[Gang]) -> Iterator[Engines]:
        """The engines, for tasks that run within the context."""
        if len(gangs) == 1:
            yield cls(gangs, None)
            return
        nothing = Resources(cpus_per_worker=0)
        with Gang(Leases, 1, resources=nothing, name="leases of engines", engines=len(gangs)) as leases:
            yield cls(gangs, leases)

    @contextmanager
    def one(self, batch: int) -> Iterator[Gang]:
        """An engine that no other batch holds, once there is one. Raises MemberLost where the record is lost."""
        if self.leases is None:
            yield self.gangs[0]
            return
        while (number := self.leases.call("take", batch, deadline_s=ANSWER_S)[0]) is None:
            time.sleep(POLL_S)
        try:
            yield self.gangs[number]
        finally:
            self.leases.call("give_back", batch, deadline_s=ANSWER_S)
