"""Reward: 1 for a reply that matches the answer, else 0; 0 too where no answer is known."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.rollout.rewards.reward import Exchange, Reward, RewardContext


def exact_match(context: RewardContext) -> Reward:
    from pipelines.data.dialogues.answer_match import matches

    def score(exchanges: Sequence[Exchange]) -> Sequence[float]:
        return [float(e.answer is not None and matches(e.reply, e.answer)) for e in exchanges]

    return score
