"""Reward: 1 for a reply of the target's length, falling linearly to 0 at none and at twice as many tokens."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.rollout.rewards.reward import Exchange, Reward, RewardContext


def length(context: RewardContext) -> Reward:
    target = context.target_tokens

    def score(exchanges: Sequence[Exchange]) -> Sequence[float]:
        return [max(0.0, 1 - abs(exchange.num_tokens - target) / target) for exchange in exchanges]

    return score
