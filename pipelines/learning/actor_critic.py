"""The two that PPO trains, and what they are given: replies as tensors, a policy and a critic as modules with a loss.

    prompt + reply ──► Sequences{tokens, places, actions} ──policy──► log-probability of each token of a reply
                                                          ──critic──► what it expects before each token

Rows are padded on the right: a causal model never looks there, so no mask is needed. Only the tokens of replies are
kept beyond the last layer: N of them, row after row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipelines.inference.model_config import read_config
from pipelines.learning.model import autocast, last_hidden, output_embedding, score_head, scores_of_hidden
from pipelines.learning.pairs import new_reward_model, open_reward_model
from pipelines.learning.policy_losses import clipped_tokens, clipped_value_loss, policy_loss
from pipelines.learning.token_scores import TokenScores, fused_token_loss, token_logprobs

Floats = np.ndarray
"""float32 [N]."""


@dataclass(frozen=True)
class Sequences:
    """Prompts with their replies. All int64."""

    tokens_BT: Tensor
    places_N: Tensor  # where, in the flat B × T hidden states, each token of a reply is predicted
    actions_N: Tensor  # the tokens of the replies

    @classmethod
    def pack(cls, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> Sequences:
        """Prompts and replies of any length; none give one row without a reply."""
        rows = [[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)] or [[0]]
        width = max(map(len, rows))
        tokens_BT = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        places, actions = [], []
        for number, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            first = number * width + len(prompt) - 1  # the prompt's last token predicts the reply's first
            places.append(torch.arange(first, first + len(reply)))
            actions.append(torch.tensor(reply, dtype=torch.int64))
        empty = torch.zeros(0, dtype=torch.int64)
        return cls(tokens_BT, torch.cat([empty, *places]), torch.cat([empty, *actions]))

    def to(self, device: str | torch.device) -> Any:
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class ExperienceBatch(Sequences):
    """Sequences and what is learnt from each token of a reply. float32 [N]."""

    old_logprobs_N: Tensor
    advantages_N: Tensor
    values_N: Tensor
    returns_N: Tensor

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], columns: Iterable[Floats]
    ) -> ExperienceBatch:
        """columns: old log-probabilities, advantages, values and returns of all tokens of replies, one row after the
        other."""
        packed = Sequences.pack(prompts, replies)
        return cls(packed.tokens_BT, packed.places_N, packed.actions_N, *map(torch.as_tensor, columns))

    @classmethod
    def nothing(cls) -> ExperienceBatch:
        """A batch without labels."""
        return cls.of([], [], np.zeros((4, 0), np.float32))

    @property
    def num_labels(self) -> int:
        return len(self.actions_N)


@dataclass(frozen=True)
class HiddenBatch:
    """A frozen model's hidden states where each token of a reply is predicted, and what a head learns from them."""

    hidden_NH: Tensor
    values_N: Tensor  # float32, as are the returns
    returns_N: Tensor

    @property
    def num_labels(self) -> int:
        return len(self.values_N)

    def to(self, device: str | torch.device) -> HiddenBatch:
        return HiddenBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


class Learning(nn.Module):
    """A module whose forward is the loss of a batch, summed over tokens; it also counts, for whoever watches."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: dict[str, Tensor] = {}

    def count(self, **sums: Tensor) -> None:
        for name, value in sums.items():
            self.counted[name] = self.counted.get(name, 0) + value.detach()

    def told(self) -> dict[str, float]:
        """What was counted since this was last asked, summed over tokens."""
        found, self.counted = self.counted, {}
        return {name: value.item() for name, value in found.items()}


class Policy(Learning):
    """A causal model under PPO's clipped loss. dtype: of the matrix products (as in model.py)."""

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype, *, temperature: float, clip: float, entropy_bonus: float
    ):
        super().__init__()
        self.model, self.dtype = model, dtype
        self.temperature, self.clip, self.entropy_bonus = temperature, clip, entropy_bonus

    def forward(self, batch: ExperienceBatch) -> Tensor:
        """The clipped loss less the bonus for entropy, summed over tokens."""

        def of_chunk(scored: TokenScores, here: slice) -> Tensor:
            columns = batch.old_logprobs_N[here], batch.advantages_N[here]
            return policy_loss(scored, *columns, clip=self.clip, entropy_bonus=self.entropy_bonus)

        hidden_NH, weight_VH = hidden_at(self.model, batch, self.dtype), output_embedding(self.model)
        with autocast(hidden_NH, self.dtype):
            total, scored = fused_token_loss(
                hidden_NH, weight_VH, batch.actions_N, of_chunk, temperature=self.temperature
            )
        moved = clipped_tokens(scored.logprobs_N, batch.old_logprobs_N, clip=self.clip)
        entropy = scored.entropies_N.sum()
        self.count(policy_loss=total + self.entropy_bonus * entropy, entropy_nats=entropy, clipped=moved)
        return total


class Critic(Learning):
    """A model with one score a token, under the clipped value loss. dtype: of the matrix products."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, *, value_clip: float):
        super().__init__()
        self.model, self.dtype, self.value_clip = model, dtype, value_clip

    def forward(self, batch: ExperienceBatch) -> Tensor:
        return _value_loss(self, self.values(batch), batch)

    def values(self, batch: Sequences) -> Tensor:
        """What it expects to come, before each token of a reply. float32 [N]."""
        return scores_at(self.model, batch.tokens_BT, batch.places_N, self.dtype)


class ValueHead(Learning):
    """A critic without a body of its own: the value of a hidden state, V(h) = score · h + out · silu(inner · h).

    score_1H: what it begins with, such as a reward model's; the second term, of as many units as h has entries, begins
    with a random inner matrix, always the same, and an out of 0. All float32."""

    def __init__(self, score_1H: Tensor, *, value_clip: float):
        super().__init__()
        self.hidden, self.value_clip = score_1H.shape[1], value_clip
        inner_HH = torch.randn(self.hidden, self.hidden, generator=torch.Generator().manual_seed(0))
        self.score = nn.Parameter(score_1H.float().clone())
        self.inner = nn.Parameter(inner_HH * self.hidden**-0.5)
        self.out = nn.Parameter(torch.zeros_like(self.score))

    def forward(self, batch: HiddenBatch) -> Tensor:
        return _value_loss(self, self.values(batch.hidden_NH), batch)

    def values(self, hidden_NH: Tensor) -> Tensor:
        """What it expects to come. float32 [N]."""
        hidden_NH = hidden_NH.float()
        inner_NH = nn.functional.silu(hidden_NH @ self.inner.T)
        return (hidden_NH @ self.score.T + inner_NH @ self.out.T).squeeze(-1)


def _value_loss(critic: Critic | ValueHead, values_N: Tensor, batch: ExperienceBatch | HiddenBatch) -> Tensor:
    """The clipped loss of what a critic says now of a batch, summed over tokens, and counted."""
    loss = clipped_value_loss(values_N, batch.values_N, batch.returns_N, clip=critic.value_clip)
    critic.count(value_loss=loss)
    return loss


def logprobs(model: PreTrainedModel, batch: Sequences, temperature: float, dtype: torch.dtype) -> Tensor:
    """What a causal model says of the tokens of replies: log p of each. float32 [N]."""
    return logprobs_at(model, hidden_at(model, batch, dtype), batch, temperature, dtype)


def logprobs_at(
    model: PreTrainedModel, hidden_NH: Tensor, batch: Sequences, temperature: float, dtype: torch.dtype
) -> Tensor:
    """The same, where the model's hidden states there are known."""
    with autocast(hidden_NH, dtype):
        return token_logprobs(hidden_NH, output_embedding(model), batch.actions_N, temperature=temperature)


def hidden_at(model: PreTrainedModel, batch: Sequences, dtype: torch.dtype) -> Tensor:
    """The last layer's output where each token of a reply is predicted [N, H]."""
    return _hidden(model, batch.tokens_BT, batch.places_N, dtype)


def _hidden(model: PreTrainedModel, tokens_BT: Tensor, places_N: Tensor, dtype: torch.dtype) -> Tensor:
    with autocast(tokens_BT, dtype):
        return last_hidden(model, tokens_BT).flatten(0, 1).index_select(0, places_N)


def scores_at(model: PreTrainedModel, tokens_BT: Tensor, places_N: Tensor, dtype: torch.dtype) -> Tensor:
    """The score of a model with one label (…ForSequenceClassification) at places of the flat B × T. float32 [N]."""
    hidden_NH = _hidden(model, tokens_BT, places_N, dtype)
    return scores_of_hidden(model, hidden_NH)


def new_critic(folder: Path) -> PreTrainedModel:
    """What a critic begins as: a reward model as it is, or a causal model's body with a head that says 0."""
    if any("SequenceClassification" in name for name in read_config(folder).get("architectures") or ()):
        return open_reward_model(folder)
    model = new_reward_model(folder, seed=0, pad_id=None)
    nn.init.zeros_(score_head(model).weight)
    return model
