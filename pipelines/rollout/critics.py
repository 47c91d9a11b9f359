"""Critics of a learner: what is asked of them, and what they learn from. Two kinds, which the learner does not tell
apart.

    own body     tokens ──body, head──► values        a second model learns; it learns from the rows that the policy
                                                      learns from
    frozen body  what a model that stays as it is says of a reply is kept when it is annotated
                 ──head──► values                     only the head learns, on the rank that has kept it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipelines.learning.actor_critic import (
    Critic,
    ExperienceBatch,
    HiddenBatch,
    Learning,
    Sequences,
    ValueHead,
    hidden_at,
    new_critic,
)
from pipelines.learning.batch import cut_evenly
from pipelines.learning.engine import Engine
from pipelines.rollout.experience import Step, joined


class Values(Protocol):
    module: Learning  # what the engine teaches

    def begin(self, count: int) -> None:
        """So many rollouts will be annotated; what was known of others is forgotten."""
        ...

    def values(
        self, engine: Engine, batch: Sequences, hidden_NH: Tensor, numbers: Iterable[int], lengths: Sequence[int]
    ) -> Tensor:
        """What is expected before each token of some rollouts. float32 [N].

        hidden_NH: what the reference says there; numbers: which rollouts these are; lengths: tokens of each reply."""
        ...

    def batches(self, step: Step, rows: Sequence[ExperienceBatch], micro_batch_rows: int) -> Sequence[Any]:
        """What a step teaches on this rank, as many micro-batches on every rank. rows: what the policy learns from."""
        ...

    def nothing(self) -> Any:
        """A batch without labels."""
        ...


class OwnBody:
    """A whole model that learns. folder: what it begins as."""

    def __init__(self, folder: Path, dtype: torch.dtype, *, value_clip: float):
        self._critic = Critic(new_critic(folder), dtype, value_clip=value_clip)
        self.module: Learning = self._critic

    def begin(self, count: int) -> None:
        """Nothing is kept."""

    def values(
        self, engine: Engine, batch: Sequences, hidden_NH: Tensor, numbers: Iterable[int], lengths: Sequence[int]
    ) -> Tensor:
        return engine.evaluate(self._critic.values, batch)

    def batches(self, step: Step, rows: Sequence[ExperienceBatch], micro_batch_rows: int) -> Sequence[ExperienceBatch]:
        return rows

    def nothing(self) -> ExperienceBatch:
        return ExperienceBatch.nothing()


class FrozenBody:
    """A head on a body that is there anyway and stays as it is: the reward model's, or the reference's (None).

    score_1H: what the head begins with."""

    def __init__(self, score_1H: Tensor, body: PreTrainedModel | None, dtype: torch.dtype, *, value_clip: float):
        self._head = ValueHead(score_1H, value_clip=value_clip)
        self.module: Learning = self._head
        self._body, self._dtype = body, dtype
        self._kept: list[Tensor] = []

    def begin(self, count: int) -> None:
        self._kept = [torch.zeros(0)] * count

    def values(
        self, engine: Engine, batch: Sequences, hidden_NH: Tensor, numbers: Iterable[int], lengths: Sequence[int]
    ) -> Tensor:
        if self._body is not None:
            hidden_NH = hidden_at(self._body, batch, self._dtype)
        for number, own_AH in zip(numbers, hidden_NH.to("cpu", self._dtype).split(list(lengths)), strict=True):
            self._kept[number] = own_AH
        return engine.evaluate(self._head.values, hidden_NH)

    def batches(self, step: Step, rows: Sequence[ExperienceBatch], micro_batch_rows: int) -> Sequence[HiddenBatch]:
        pieces = cut_evenly(np.arange(len(step.home)), -(-step.most_home // micro_batch_rows))
        found = []
        for piece in pieces:
            own = [step.home[number] for number in piece]
            columns = [joined(one.values for one in own), joined(one.returns for one in own)]
            kept = [self._kept[one.number] for one in own]
            hidden_NH = torch.cat(kept) if kept else self.nothing().hidden_NH
            found.append(HiddenBatch(hidden_NH, *map(torch.from_numpy, columns)))
        return found

    def nothing(self) -> HiddenBatch:
        empty = torch.zeros(0)
        return HiddenBatch(torch.zeros(0, self._head.hidden, dtype=self._dtype), empty, empty)
