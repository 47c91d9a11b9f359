"""Policy and critic of PPO: batches of replies as tensors, and modules whose forward is a loss.

    prompt + reply ──► Sequences{tokens, predictors, actions} ──policy──► log-probability of each token of a reply
                                                              ──critic──► value before each token

Rows are padded on the right: a causal model never looks there, so no mask is needed. Beyond the last layer only the
positions that predict a reply's tokens are computed: N of them, row after row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from pipelines.inference.model_config import read_config
from pipelines.learning.engine import whole
from pipelines.learning.model import head, last_hidden, score_head, scores_of_hidden
from pipelines.learning.pairs import new_reward_model, open_reward_model
from pipelines.learning.policy_losses import clipped_value_loss, num_clipped, policy_loss
from pipelines.learning.token_scores import TokenScores, fused_token_loss, token_logprobs

Floats = np.ndarray
"""float32 [A], one for each token of a reply."""

Packed = TypeVar("Packed", bound="Sequences")


@dataclass(frozen=True)
class Sequences:
    """Prompts with their replies. All int64."""

    tokens_BT: Tensor
    predictors_N: Tensor  # index in the flat B × T of the position that predicts each token of a reply
    actions_N: Tensor  # the tokens of the replies

    @classmethod
    def pack(
        cls: type[Packed],
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
        **columns: Sequence[Floats],
    ) -> Packed:
        """Prompts and replies of any length; none give one row without a reply.

        columns: a subclass's further fields, each as one array a reply."""
        rows = [[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)] or [[0]]
        tokens_BT = pad_right(rows)
        predictors, actions = [], []
        for number, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            first = number * tokens_BT.shape[1] + len(prompt) - 1  # the prompt's last token predicts the reply's first
            predictors.append(torch.arange(first, first + len(reply)))
            actions.append(torch.tensor(reply, dtype=torch.int64))
        empty = torch.zeros(0, dtype=torch.int64)
        tensors = {name: concatenated(parts) for name, parts in columns.items()}
        return cls(tokens_BT, torch.cat([empty, *predictors]), torch.cat([empty, *actions]), **tensors)

    @property
    def num_labels(self) -> int:
        """Tokens of replies."""
        return len(self.actions_N)

    def to(self: Packed, device: str | torch.device) -> Packed:
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class PolicyBatch(Sequences):
    """What the policy learns from each token of a reply. float32 [N]."""

    old_logprobs_N: Tensor
    advantages_N: Tensor


@dataclass(frozen=True)
class ValueBatch(Sequences):
    """What a value model learns from each token of a reply. float32 [N]."""

    values_N: Tensor  # when the reply was annotated
    returns_N: Tensor


@dataclass(frozen=True)
class HiddenBatch:
    """A frozen model's hidden states where each token of a reply is predicted, and what a head learns from them."""

    hidden_NH: Tensor
    values_N: Tensor  # float32, when the reply was annotated
    returns_N: Tensor  # float32

    @property
    def num_labels(self) -> int:
        return len(self.values_N)

    def to(self, device: str | torch.device) -> HiddenBatch:
        return HiddenBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def pad_right(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids with zeros after the end of each row. int64 [B, T]."""
    return pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True)


def concatenated(parts: Sequence[Floats]) -> Tensor:
    """Arrays end to end. float32 [N]; of none [0]."""
    return torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *parts]))


class SummedLoss(nn.Module):
    """A module whose forward is the loss of a batch, summed over tokens; it adds up figures on the way."""

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[str, Tensor] = {}

    def record(self, **sums: Tensor) -> None:
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()

    def pop_sums(self) -> dict[str, float]:
        """Figures since the last call, summed over tokens."""
        sums, self._sums = self._sums, {}
        return {name: value.item() for name, value in sums.items()}


class Policy(SummedLoss):
    """A causal model under PPO's clipped loss. frozen: models that are no part of the loss; as parts of this module
    they are partitioned with the policy at ZeRO 3."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        temperature: float,
        clip: float,
        entropy_bonus: float,
        frozen: Mapping[str, PreTrainedModel] | None = None,
    ):
        super().__init__()
        self.model = model
        self.frozen = nn.ModuleDict(cast(Any, frozen or {})).requires_grad_(False)
        self.temperature, self.clip, self.entropy_bonus = temperature, clip, entropy_bonus

    def forward(self, batch: PolicyBatch) -> Tensor:
        """Clipped loss less the entropy bonus, summed over tokens."""

        def chunk_loss(scores: TokenScores, part: slice) -> Tensor:
            columns = batch.old_logprobs_N[part], batch.advantages_N[part]
            return policy_loss(scores, *columns, clip=self.clip, entropy_bonus=self.entropy_bonus)

        hidden_NH = hidden_at(self.model, batch)
        loss, scores = fused_token_loss(
            hidden_NH, head(self.model), batch.actions_N, chunk_loss, temperature=self.temperature
        )
        entropy = scores.entropies_N.sum()
        self.record(
            policy_loss=loss + self.entropy_bonus * entropy,
            entropy_nats=entropy,
            clipped=num_clipped(scores.logprobs_N, batch.old_logprobs_N, clip=self.clip),
        )
        return loss


class ValueModel(SummedLoss):
    """A whole model with one score a token, under the clipped value loss."""

    def __init__(self, model: PreTrainedModel, *, value_clip: float):
        super().__init__()
        self.model, self.value_clip = model, value_clip

    def forward(self, batch: ValueBatch) -> Tensor:
        loss = clipped_value_loss(self.values(batch), batch.values_N, batch.returns_N, clip=self.value_clip)
        self.record(value_loss=loss)
        return loss

    def values(self, batch: Sequences) -> Tensor:
        """Expected return before each token of a reply. float32 [N]."""
        return scores_at(self.model, batch.tokens_BT, batch.predictors_N)


class ValueHead(SummedLoss):
    """A head on a frozen model's hidden states: V(h) = score · h + out · silu(inner · h).

    score_1H: initial score, such as a reward model's. The second term, of as many units as h has entries, begins with a
    random inner matrix, always the same, and an out of 0. All float32."""

    def __init__(self, score_1H: Tensor, *, value_clip: float):
        super().__init__()
        self.hidden_size, self.value_clip = score_1H.shape[1], value_clip
        inner_HH = torch.randn(self.hidden_size, self.hidden_size, generator=torch.Generator().manual_seed(0))
        self.score = nn.Parameter(score_1H.float().clone())
        self.inner = nn.Parameter(inner_HH * self.hidden_size**-0.5)
        self.out = nn.Parameter(torch.zeros_like(self.score))

    def forward(self, batch: HiddenBatch) -> Tensor:
        loss = clipped_value_loss(self.values(batch.hidden_NH), batch.values_N, batch.returns_N, clip=self.value_clip)
        self.record(value_loss=loss)
        return loss

    def values(self, hidden_NH: Tensor) -> Tensor:
        """Expected return at each hidden state. float32 [N]."""
        hidden_NH = hidden_NH.float()
        inner_NH = nn.functional.silu(hidden_NH @ self.inner.T)
        return (hidden_NH @ self.score.T + inner_NH @ self.out.T).squeeze(-1)


def logprobs(model: PreTrainedModel, batch: Sequences, temperature: float) -> Tensor:
    """A causal model's log-probability of each token of the replies. float32 [N], nats."""
    return hidden_and_logprobs(model, batch, temperature)[1]


def hidden_and_logprobs(model: PreTrainedModel, batch: Sequences, temperature: float) -> tuple[Tensor, Tensor]:
    """hidden_at and logprobs, in one pass."""
    hidden_NH = hidden_at(model, batch)
    return hidden_NH, token_logprobs(hidden_NH, head(model), batch.actions_N, temperature=temperature)


def hidden_at(model: PreTrainedModel, batch: Sequences) -> Tensor:
    """The last layer's output where each token of a reply is predicted [N, H]."""
    return _hidden_at(model, batch.tokens_BT, batch.predictors_N)


def scores_at(model: PreTrainedModel, tokens_BT: Tensor, index_N: Tensor) -> Tensor:
    """The score of a model with one label (…ForSequenceClassification) at indices of the flat B × T. float32 [N]."""
    return scores_of_hidden(model, _hidden_at(model, tokens_BT, index_N))


def _hidden_at(model: PreTrainedModel, tokens_BT: Tensor, index_N: Tensor) -> Tensor:
    return last_hidden(model, tokens_BT).flatten(0, 1).index_select(0, index_N)


def new_critic(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A critic's initial model: a reward model as it is, or a causal model's body with a head whose score is 0."""
    if any("SequenceClassification" in name for name in read_config(folder).get("architectures") or ()):
        return open_reward_model(folder, dtype)
    model = new_reward_model(folder, seed=0, pad_id=None, dtype=dtype)
    with whole(score_head(model).weight) as weight:
        nn.init.zeros_(weight)
    return model
