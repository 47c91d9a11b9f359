"""Reward: 1 for a reply of the target's length, falling in a straight line to 0 at none and at twice as many tokens."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.rollout.rewards.reward import Answered, Reward, Setting


def length(setting: Setting) -> Reward:
    target = setting.target_tokens

    def score(replies: Sequence[Answered]) -> Sequence[float]:
        return [max(0.0, 1 - abs(one.num_tokens - target) / target) for one in replies]

    return score
