"""Advantages of tokens: plain functions of tensors, for a whole batch of replies.

    score of a reply, KL of each token ──► reward of each token ──GAE, values──────────────► advantages ──► whitened
                                                                ──other replies' rewards──►

Shapes: B replies, A tokens of the longest; mask_BA is True where a reply has a token, and only there do values count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor


class RunningMoments(NamedTuple):
    """Number, mean and sum of squared distances from the mean, of values that come in batches (Chan et al. 1979)."""

    num: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def with_values(self, values: Sequence[float]) -> RunningMoments:
        """The moments with these values among them."""
        num, mean = self.num + len(values), fmean(values)
        squares = sum((value - mean) ** 2 for value in values)
        gap = mean - self.mean
        return RunningMoments(
            num,
            self.mean + gap * len(values) / num,
            self.squares + squares + gap**2 * self.num * len(values) / num,
        )

    def standardised(self, values: Sequence[float]) -> list[float]:
        """The values less the mean, over the standard deviation; less the mean alone where there is none."""
        deviation = (self.squares / max(1, self.num - 1)) ** 0.5 or 1.0
        return [(value - self.mean) / deviation for value in values]


def token_rewards(scores_B: Tensor, kl_BA: Tensor, mask_BA: Tensor, *, coefficient: float) -> Tensor:
    """The score at a reply's last token, less coefficient × KL at each (Ouyang et al. 2022, eq. 2, by tokens).

    kl_BA: log p − log p_reference of the sampled token, the k1 estimate of the KL divergence (Schulman 2020,
    "Approximating KL divergence"): unbiased, and of any sign. float32 [B, A]."""
    rewards_BA = torch.where(mask_BA, -coefficient * kl_BA, 0.0)
    last_B = mask_BA.sum(1) - 1
    rewards_BA[torch.arange(len(scores_B)), last_B] += scores_B
    return rewards_BA


def generalised_advantages(
    rewards_BA: Tensor, values_BA: Tensor, mask_BA: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """GAE: Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V_{t+1} − V_t (Schulman et al. 2016, eq. 16); after a reply all is 0.

    values_BA: the critic's, before each token. Advantages plus values are the returns that a critic learns."""
    advantages_BA = torch.zeros_like(rewards_BA)
    next_advantage_B = torch.zeros_like(rewards_BA[:, 0])
    next_value_B = torch.zeros_like(next_advantage_B)
    for t in reversed(range(rewards_BA.shape[1])):
        mask_B = mask_BA[:, t]
        delta_B = rewards_BA[:, t] + gamma * next_value_B - values_BA[:, t]
        next_advantage_B = torch.where(mask_B, delta_B + gamma * lam * next_advantage_B, 0.0)
        next_value_B = torch.where(mask_B, values_BA[:, t], 0.0)
        advantages_BA[:, t] = next_advantage_B
    return advantages_BA


def group_advantages(rewards_B: Tensor, mask_BA: Tensor, *, group_size: int) -> Tensor:
    """A reply's reward less the mean reward of the other replies to its prompt, for each of its tokens: REINFORCE
    leave-one-out (Kool et al. 2019; Ahmadian et al. 2024, eq. 8), which needs no critic.

    rewards_B: of whole replies, the KL's cost included; `group_size` in a row belong to one prompt. float32 [B, A].
    Raises ValueError for groups of one reply, or where groups are not complete."""
    if group_size < 2 or len(rewards_B) % group_size:
        raise ValueError(f"{len(rewards_B)} rewards in groups of {group_size}; expected whole groups of 2 or more")
    rewards_PG = rewards_B.view(-1, group_size)
    others_PG = (rewards_PG.sum(1, keepdim=True) - rewards_PG) / (group_size - 1)
    return torch.where(mask_BA, (rewards_PG - others_PG).view(-1, 1), 0.0)


def whitened(values_BA: Tensor, mask_BA: Tensor) -> Tensor:
    """Mean 0 and variance 1 over all tokens of the batch, 0 elsewhere; equal values become 0."""
    tokens_N = values_BA[mask_BA].double()
    deviation = (tokens_N.var(correction=0) + 1e-8).sqrt()
    return torch.where(mask_BA, ((values_BA.double() - tokens_N.mean()) / deviation).to(values_BA.dtype), 0.0)


def scaled_by_reply(values_BA: Tensor, mask_BA: Tensor) -> Tensor:
    """Divided by the standard deviation over replies of their values (mean over a reply's tokens): the scale of the
    rewards does not matter, and a long reply counts in it no more than a short one. Equal values become 0."""
    replies_B = torch.where(mask_BA, values_BA, 0.0).sum(1) / mask_BA.sum(1)
    deviation = (replies_B.double().var(correction=0) + 1e-8).sqrt()
    return torch.where(mask_BA, (values_BA.double() / deviation).to(values_BA.dtype), 0.0)


@dataclass(frozen=True)
class KlController:
    """The coefficient of the KL penalty over iterations: fixed, or moved so that a reply's KL approaches `target` nats.

    Adaptive as in Ziegler et al. 2019, section 2.2: β ← β (1 + 0.1 · clip(KL/target − 1, −0.2, 0.2))."""

    target: float | None = None  # nats a reply; None: the coefficient stays

    def next(self, coefficient: float, kl_nats: float) -> float:
        """The next iteration's coefficient, from this iteration's and the mean KL of its replies."""
        if self.target is None:
            return coefficient
        return coefficient * (1 + 0.1 * max(-0.2, min(0.2, kl_nats / self.target - 1)))
