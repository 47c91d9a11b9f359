"""Reward: the score of a reward model, read at the last token of the conversation, the end of the reply's turn.

The model is frozen and lives in each learner; the conversation is rendered anew from the reply's text, so that a policy
gains nothing by writing words in tokens that the reward model has never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.rollout.rewards.reward import Answered, Reward, Setting

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def reward_model(setting: Setting) -> Reward:
    """Asks the learners' reward model. Needs setting.chat and setting.judge."""
    chat, judge = setting.chat, setting.judge
    if chat is None or judge is None:
        raise UserError("rewards.reward_model: no reward model; put a stage reward_model before ppo, or leave it out "
                        "of ppo.rewards")  # fmt: skip

    def score(replies: Sequence[Answered]) -> Sequence[float]:
        rows = []
        for one in replies:
            rendered = chat.conversation([*one.messages, {"role": "assistant", "content": one.reply}])
            rows.append(rendered.ids[: int(rendered.loss_mask.nonzero()[0][-1]) + 1].tolist())
        return judge(rows)

    return score


class RewardModel:
    """A frozen reward model. Imports torch and transformers when it is made."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype):
        from pipelines.learning.pairs import open_reward_model

        model: Any = open_reward_model(folder).requires_grad_(False).eval()
        self.model = model.to(device)
        self._device, self._dtype = device, dtype
        self._context = int(self.model.config.max_position_embeddings)

    def scores(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The score at the last token of each row. What is over the context is cut at its beginning."""
        import torch

        from pipelines.learning.actor_critic import scores_at

        kept = [list(row)[-self._context :] for row in rows]
        width = max(map(len, kept))
        tokens_BT = torch.tensor([row + [0] * (width - len(row)) for row in kept], device=self._device)
        last_N = torch.tensor([n * width + len(row) - 1 for n, row in enumerate(kept)], device=self._device)
        with torch.no_grad():
            return scores_at(self.model, tokens_BT, last_N, self._dtype).tolist()
