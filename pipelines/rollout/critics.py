"""Critics of a learner: what values they give and what they learn from. Two kinds, alike to the learner.

ModelCritic    tokens ──body, head──► values           a second model learns
HeadCritic     frozen body's hidden states, kept when a reply is annotated
               ──head──► values                        only the head learns, on the rank that has kept them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipelines.learning.actor_critic import (
    HiddenBatch,
    Sequences,
    SummedLoss,
    ValueBatch,
    ValueHead,
    ValueModel,
    concatenated,
    hidden_at,
)
from pipelines.learning.dealing import cut_evenly
from pipelines.learning.engine import Engine, whole
from pipelines.learning.lesson import Batch
from pipelines.learning.model import score_head
from pipelines.rollout.experience import Row, Step, ValueRow


@dataclass(frozen=True)
class ReferencePass:
    """A micro-batch of rollouts that the frozen reference has read."""

    indices: Sequence[int]  # of the rollouts, among those that this rank annotates
    lengths: Sequence[int]  # tokens of each reply
    sequences: Sequences
    hidden_NH: Tensor  # the reference's hidden states where each token of a reply is predicted


class Critic(Protocol):
    module: SummedLoss  # what the engine trains

    def values(self, engine: Engine, batch: ReferencePass) -> Tensor:
        """Expected return before each token of the replies. float32 [N]."""
        ...

    def micro_batches(self, step: Step, micro_batch_rows: int) -> Sequence[Batch]:
        """This rank's micro-batches of a step, as many on every rank; some may be empty."""
        ...

    def empty_batch(self) -> Batch:
        """A batch without labels."""
        ...


class ModelCritic:
    """A whole model that learns, from the same rows as the policy. model: its initial model (new_critic)."""

    def __init__(self, model: PreTrainedModel, *, value_clip: float):
        self._model = ValueModel(model, value_clip=value_clip)
        self.module: SummedLoss = self._model

    def values(self, engine: Engine, batch: ReferencePass) -> Tensor:
        return engine.evaluate(self._model.values, batch.sequences)

    def micro_batches(self, step: Step, micro_batch_rows: int) -> list[ValueBatch]:
        return [_value_batch(rows) for rows in cut_evenly(step.rows, -(-step.max_rows // micro_batch_rows))]

    def empty_batch(self) -> ValueBatch:
        return _value_batch([])


class HeadCritic:
    """A head that learns on a frozen body. score_1H: the head's initial score; body: hidden states of sequences
    [N, H]; None: the reference's."""

    def __init__(self, score_1H: Tensor, body: Callable[[Sequences], Tensor] | None, *, value_clip: float):
        self._head = ValueHead(score_1H, value_clip=value_clip)
        self.module: SummedLoss = self._head
        self._body = body
        self._hidden: dict[int, Tensor] = {}  # [A, H] of each rollout that this rank annotated last

    @classmethod
    def on(
        cls, body: PreTrainedModel | None, evaluate: Callable[..., Tensor], hidden_size: int, *, value_clip: float
    ) -> HeadCritic:
        """With the score head of a frozen reward model, on its hidden states; without one a head of zeros, on the
        reference's. evaluate: calls a function on a frozen model."""
        if body is None:
            return cls(torch.zeros(1, hidden_size), None, value_clip=value_clip)
        with whole(score_head(body).weight) as weight:
            score_1H = weight.detach().clone()
        return cls(score_1H, partial(evaluate, hidden_at, body), value_clip=value_clip)

    def values(self, engine: Engine, batch: ReferencePass) -> Tensor:
        hidden_NH = batch.hidden_NH if self._body is None else self._body(batch.sequences)
        hidden = hidden_NH.cpu().split(list(batch.lengths))
        self._hidden.update(zip(batch.indices, hidden, strict=True))
        return engine.evaluate(self._head.values, hidden_NH)

    def micro_batches(self, step: Step, micro_batch_rows: int) -> list[HiddenBatch]:
        num_pieces = -(-step.max_value_rows // micro_batch_rows)
        return [self._batch(rows) for rows in cut_evenly(step.value_rows, num_pieces)]

    def empty_batch(self) -> HiddenBatch:
        return self._batch([])

    def _batch(self, rows: Sequence[ValueRow]) -> HiddenBatch:
        hidden = [self._hidden[row.index] for row in rows]
        hidden_NH = torch.cat(hidden) if hidden else torch.zeros(0, self._head.hidden_size)
        return HiddenBatch(
            hidden_NH, concatenated([row.values for row in rows]), concatenated([row.returns for row in rows])
        )


def _value_batch(rows: Sequence[Row]) -> ValueBatch:
    return ValueBatch.pack(
        [row.prompt for row in rows], [row.reply for row in rows],
        values_N=[row.values for row in rows], returns_N=[row.returns for row in rows],
    )  # fmt: skip
