"""Reward: 1 for a reply that says the answer, else 0; 0 too where no answer is known."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.rollout.rewards.reward import Answered, Reward, Setting


def exact_match(setting: Setting) -> Reward:
    from pipelines.data.dialogues.answer_match import matches

    def score(replies: Sequence[Answered]) -> Sequence[float]:
        return [float(one.answer is not None and matches(one.reply, one.answer)) for one in replies]

    return score
