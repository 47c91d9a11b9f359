"""Experience: a batch of rollouts with all that PPO computes of them, and its rows for each optimiser step and rank.

    rollouts + annotations ──pack──► Experience ──rewards, advantages──► rows ──minibatches──► each rank's steps

Advantages are computed over the whole batch, on the driver; only then is it cut, so that the result does not depend on
the number of learners. The order of rows is a function of the seed and the iteration.

Shapes: B replies, A tokens of the longest. Tensors are 0 beyond a reply's end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipelines.inference.reply import Reply
from pipelines.learning.dealing import deal
from pipelines.rollout import advantage, mismatch

Floats = np.ndarray
"""float32 [A], one for each token of a reply."""


@dataclass(frozen=True)
class Rollout:
    """A prompt, as token ids, and the policy's reply to it."""

    prompt: list[int]
    reply: Reply

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.reply.tokens)


@dataclass(frozen=True)
class Annotation:
    """What the learners compute for each token of a reply. Log-probabilities in nats."""

    ref_logprobs: Floats  # under the model that training began with
    values: Floats | None = None  # the critic's, before each token; None: there is no critic
    old_logprobs: Floats | None = None  # under the policy; None: the sampler's are exact enough


@dataclass(frozen=True)
class Row:
    """A reply as policy and critic learn from it."""

    prompt: list[int]
    reply: list[int]
    old_logprobs: Floats
    advantages: Floats
    values: Floats
    returns: Floats


@dataclass(frozen=True)
class ValueRow:
    """A reply as a critic with a frozen body learns from it, on the rank that has kept its hidden states."""

    index: int  # among the rollouts that the rank annotated
    values: Floats
    returns: Floats


@dataclass(frozen=True)
class Step:
    """One rank's part of an optimiser step. Every rank makes as many micro-batches as the one with most rows."""

    rows: list[Row]  # the longest first
    num_tokens: int  # of replies, on all ranks: what the step's gradient is divided by
    max_rows: int  # of any rank
    value_rows: list[ValueRow]  # those of the step's rows that this rank annotated
    max_value_rows: int  # of any rank


@dataclass(frozen=True)
class Experience:
    """Replies with what the learners computed of them. float32 [B, A] on the CPU but for the mask."""

    prompts: list[list[int]]
    replies: list[list[int]]
    action_mask_BA: Tensor  # bool: where a reply has a token
    old_logprobs_BA: Tensor  # the learner's, or the sampler's where those are exact enough
    sampler_logprobs_BA: Tensor
    ref_logprobs_BA: Tensor
    values_BA: Tensor  # 0 where there is no critic

    @classmethod
    def pack(cls, rollouts: Sequence[Rollout], annotations: Sequence[Annotation]) -> Experience:
        """Rollouts, each of a reply of one token or more, and their annotations in the same order."""
        replies = [rollout.reply.tokens for rollout in rollouts]
        old_logprobs = [
            rollout.reply.logprobs if note.old_logprobs is None else note.old_logprobs
            for rollout, note in zip(rollouts, annotations, strict=True)
        ]
        values = [
            np.zeros(len(reply), np.float32) if note.values is None else note.values
            for reply, note in zip(replies, annotations, strict=True)
        ]
        lengths_B = torch.tensor([len(reply) for reply in replies])
        return cls(
            prompts=[rollout.prompt for rollout in rollouts],
            replies=replies,
            action_mask_BA=torch.arange(int(lengths_B.max())) < lengths_B[:, None],
            old_logprobs_BA=_padded(old_logprobs),
            sampler_logprobs_BA=_padded([rollout.reply.logprobs for rollout in rollouts]),
            ref_logprobs_BA=_padded([note.ref_logprobs for note in annotations]),
            values_BA=_padded(values),
        )

    @property
    def kl_BA(self) -> Tensor:
        """log p − log p_reference of each token, an estimate of the KL divergence from the reference. Nats."""
        return self.old_logprobs_BA - self.ref_logprobs_BA

    @property
    def kl_nats_B(self) -> Tensor:
        """The KL estimate of each reply."""
        return self.kl_BA.sum(1)

    def token_rewards(self, scores: Sequence[float], *, kl_coefficient: float) -> Tensor:
        """Rewards of all tokens, from the score of each reply and the cost of its KL. float32 [B, A]."""
        scores_B = torch.tensor(list(scores), dtype=torch.float32)
        return advantage.token_rewards(scores_B, self.kl_BA, self.action_mask_BA, coefficient=kl_coefficient)

    def mismatch(self) -> dict[str, float]:
        """How far the sampler's log-probabilities are from the learner's (mismatch.py)."""
        return mismatch.figures(self.old_logprobs_BA, self.sampler_logprobs_BA, self.action_mask_BA)

    def rows(self, advantages_BA: Tensor, *, normalise: Callable[[Tensor, Tensor], Tensor]) -> list[Row]:
        """Rows to learn from: advantages are normalised, then weighted where the sampler's probabilities are not the
        learner's; the critic's returns are advantages + values. normalise(advantages_BA, mask_BA)."""
        returns_BA = advantages_BA + self.values_BA
        weights_BA = mismatch.importance_weights(self.old_logprobs_BA, self.sampler_logprobs_BA, self.action_mask_BA)
        weighted_BA = normalise(advantages_BA, self.action_mask_BA) * weights_BA
        columns = [self.old_logprobs_BA, weighted_BA, self.values_BA, returns_BA]
        return [
            Row(prompt, reply, *(column_BA[number, : len(reply)].numpy() for column_BA in columns))
            for number, (prompt, reply) in enumerate(zip(self.prompts, self.replies, strict=True))
        ]


def optimizer_steps(
    rows: Sequence[Row], *, seed: int, iteration: int, epochs: int, minibatches: int, world: int
) -> list[list[Step]]:
    """For each rank its optimiser steps of an iteration: every epoch has a new order of the rows, cut into minibatches
    whose numbers of rows differ by at most one."""
    ranks: list[list[Step]] = [[] for _ in range(world)]
    for epoch in range(epochs):
        order = np.random.default_rng([seed, iteration, epoch]).permutation(len(rows))
        for minibatch in (part.tolist() for part in np.array_split(order, minibatches)):
            lengths = np.array([len(rows[number].prompt) + len(rows[number].reply) for number in minibatch], np.int64)
            dealt = [[rows[number] for number in hand] for hand in deal(np.array(minibatch, np.int64), lengths, world)]
            value_rows = [_value_rows(rows, minibatch, rank_range(len(rows), rank, world)) for rank in range(world)]
            num_tokens = sum(len(rows[number].reply) for number in minibatch)
            max_rows, max_value_rows = max(map(len, dealt)), max(map(len, value_rows))
            for rank, steps in enumerate(ranks):
                steps.append(Step(dealt[rank], num_tokens, max_rows, value_rows[rank], max_value_rows))
    return ranks


def rank_range(num_rollouts: int, rank: int, world: int) -> range:
    """Which of the rollouts a rank generates, scores and annotates."""
    return range(num_rollouts * rank // world, num_rollouts * (rank + 1) // world)


def _value_rows(rows: Sequence[Row], minibatch: Iterable[int], annotated: range) -> list[ValueRow]:
    """Those rows of a minibatch that a rank annotated, in its order."""
    numbers = sorted(number for number in minibatch if number in annotated)
    return [ValueRow(number - annotated.start, rows[number].values, rows[number].returns) for number in numbers]


def _padded(values: Sequence[Floats]) -> Tensor:
    """float32 [B, A]."""
    return pad_sequence([torch.tensor(row, dtype=torch.float32) for row in values], batch_first=True)
