"""Experience: what was asked, replied and thought of it, as rows to learn from.

    rollouts + scores + annotations ──whole batch──► KL, advantages, whitened ──► rows ──cut──► each rank's steps

Advantages are made over the whole batch, on the driver; only then is it cut, so that nothing depends on how many
learners there are. The order of rows is a function of the seed and the iteration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.rollout import advantage

Floats = np.ndarray
"""float32 [A], one for each token of a reply."""


@dataclass(frozen=True)
class Rollout:
    """A prompt and a reply to it, as tokens; logprobs: nats, when it was sampled."""

    prompt: list[int]
    reply: list[int]
    logprobs: Floats


@dataclass(frozen=True)
class Annotation:
    """What the learners think of a reply."""

    reference: Floats  # log p of the model that training began with
    values: Floats | None = None  # what the critic expected before each token, where there is one
    old: Floats | None = None  # log p of the policy, where the sampler's is too rough


@dataclass(frozen=True)
class Row:
    """A rollout to learn from."""

    prompt: list[int]
    reply: list[int]
    old_logprobs: Floats
    advantages: Floats
    values: Floats
    returns: Floats


@dataclass(frozen=True)
class Valued:
    """What a critic learns of a rollout that its rank annotated."""

    number: int  # of that rank's rollouts
    values: Floats
    returns: Floats


@dataclass(frozen=True)
class Step:
    """One rank's rows of an optimiser step, the longest first.

    home: those of the step that the rank annotated, for a critic that learns from what was kept then."""

    rows: list[Row]
    tokens: int  # of replies, on all ranks: what the step's gradient is divided by
    most_rows: int  # of any rank, so that all make as many micro-batches
    home: list[Valued]
    most_home: int


@dataclass(frozen=True)
class Experience:
    """A whole batch."""

    rows: list[Row]
    kl_nats: Floats  # of each reply: Σ log p − log p_reference. float32

    @classmethod
    def build(
        cls,
        rollouts: Sequence[Rollout],
        scores: Sequence[float],
        annotations: Sequence[Annotation],
        *,
        kl_coefficient: float,
        gamma: float,
        lam: float,
        group: int | None = None,
    ) -> Experience:
        """Everything of a batch of replies, each of one token or more.

        scores: of each rollout's reply. group: there is no critic, and so many replies in a row, to one prompt, are
        measured against each other."""
        old = [r.logprobs if note.old is None else note.old for r, note in zip(rollouts, annotations, strict=True)]
        old_BA, mask_BA = padded(old)
        reference_BA, _ = padded([note.reference for note in annotations])
        nothing = [np.zeros(len(own), np.float32) for own in old]
        values_BA, _ = padded(
            [none if n.values is None else n.values for none, n in zip(nothing, annotations, strict=True)]
        )
        kl_BA = torch.where(mask_BA, old_BA - reference_BA, 0.0)
        scores_B = torch.tensor(list(scores), dtype=torch.float32)
        rewards_BA = advantage.token_rewards(scores_B, kl_BA, mask_BA, coefficient=kl_coefficient)
        if group is None:
            advantages_BA = advantage.generalised_advantages(rewards_BA, values_BA, mask_BA, gamma=gamma, lam=lam)
        else:
            advantages_BA = advantage.group_advantages(rewards_BA.sum(1), mask_BA, group=group)
        returns_BA = advantages_BA + values_BA
        whitened_BA = advantage.whitened(advantages_BA, mask_BA)
        columns = [old_BA, whitened_BA, values_BA, returns_BA]
        rows = [
            Row(r.prompt, r.reply, *(column[n, : len(r.reply)].numpy() for column in columns))
            for n, r in enumerate(rollouts)
        ]
        return cls(rows, kl_nats(rollouts, annotations))

    def steps(self, *, seed: int, iteration: int, epochs: int, minibatches: int, world: int) -> list[list[Step]]:
        """For each rank the optimiser steps of this iteration: every epoch a new order, cut into minibatches whose
        numbers of replies differ by at most one."""
        ranks: list[list[Step]] = [[] for _ in range(world)]
        for epoch in range(epochs):
            order = np.random.default_rng([seed, iteration, epoch]).permutation(len(self.rows))
            for part in np.array_split(order, minibatches):
                dealt = deal([self.rows[number] for number in part], world)
                homes = [self._home(part, rank, world) for rank in range(world)]
                tokens = sum(len(self.rows[number].reply) for number in part)
                most, most_home = max(map(len, dealt)), max(map(len, homes))
                for rank, (rows, home) in enumerate(zip(dealt, homes, strict=True)):
                    ranks[rank].append(Step(rows, tokens, most, home, most_home))
        return ranks

    def _home(self, part: Iterable[int], rank: int, world: int) -> list[Valued]:
        """Those of a minibatch that this rank annotated, in its order."""
        first, last = own_part(len(self.rows), rank, world)
        rows = [(number - first, self.rows[number]) for number in sorted(part) if first <= number < last]
        return [Valued(number, row.values, row.returns) for number, row in rows]


def own_part(count: int, rank: int, world: int) -> tuple[int, int]:
    """Which of so many rollouts are a rank's to score and annotate: from … to, without the last."""
    return count * rank // world, count * (rank + 1) // world


def kl_nats(rollouts: Sequence[Rollout], annotations: Sequence[Annotation]) -> Floats:
    """Σ log p − log p_reference over the tokens of each reply. float32 [B]."""
    pairs = zip(rollouts, annotations, strict=True)
    differences = [(r.logprobs if note.old is None else note.old) - note.reference for r, note in pairs]
    return np.array([own.sum() for own in differences], np.float32)


def deal(rows: Sequence[Row], world: int) -> list[list[Row]]:
    """Rows for each rank, longest first, so that ranks have the same work and padding is short."""
    ordered = sorted(rows, key=lambda row: -(len(row.prompt) + len(row.reply)))
    turns = [list(range(world)), list(range(world))[::-1]]  # 0 1 1 0 0 1 …: nobody always gets the longer one
    dealt: list[list[Row]] = [[] for _ in range(world)]
    for number, row in enumerate(ordered):
        turn, place = divmod(number, world)
        dealt[turns[turn % 2][place]].append(row)
    return dealt


def joined(values: Iterable[Floats]) -> Floats:
    """Values of some replies, one after the other. float32 [N]; of none [0]."""
    return np.concatenate([np.zeros(0, np.float32), *values])


def padded(values: Sequence[Floats]) -> tuple[Tensor, Tensor]:
    """Values of each reply as float32 [B, A], zeros after the end, and the mask of what is there."""
    width = max(map(len, values))
    whole_BA = torch.zeros(len(values), width)
    mask_BA = torch.zeros(len(values), width, dtype=torch.bool)
    for number, own in enumerate(values):
        whole_BA[number, : len(own)] = torch.tensor(own, dtype=torch.float32)
        mask_BA[number, : len(own)] = True
    return whole_BA, mask_BA
