"""Reward: the score of a reward model at the last token of the conversation, the end of the reply's turn.

The model is frozen and lives in each learner; the conversation is rendered anew from the reply's text, so that a policy
cannot raise its score by tokens that the reward model has never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.rollout.rewards.reward import Exchange, Reward, RewardContext

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def reward_model(context: RewardContext) -> Reward:
    """Needs context.chat and context.reward_model."""
    chat, scores_of = context.chat, context.reward_model
    if chat is None or scores_of is None:
        raise UserError("rewards.reward_model: no reward model; put a stage reward_model before ppo, or leave it out "
                        "of ppo.rewards")  # fmt: skip

    def score(exchanges: Sequence[Exchange]) -> Sequence[float]:
        rows = []
        for exchange in exchanges:
            rendered = chat.conversation([*exchange.messages, {"role": "assistant", "content": exchange.reply}])
            rows.append(rendered.ids[: int(rendered.loss_mask.nonzero()[0][-1]) + 1].tolist())
        return scores_of(rows)

    return score


class RewardModel:
    """A frozen reward model. Imports torch and transformers when it is made."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype):
        from pipelines.learning.pairs import open_reward_model

        model: Any = open_reward_model(folder).requires_grad_(False).eval()
        self.model = model.to(device)
        self._device, self._dtype = device, dtype
        self._max_tokens = int(self.model.config.max_position_embeddings)

    def scores(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The score at the last token of each row. Rows over the context lose their first tokens."""
        import torch

        from pipelines.learning.actor_critic import pad_right, scores_at

        rows = [row[-self._max_tokens :] for row in rows]
        tokens_BT = pad_right(rows).to(self._device)
        width = tokens_BT.shape[1]
        last_B = torch.tensor([number * width + len(row) - 1 for number, row in enumerate(rows)], device=self._device)
        with torch.no_grad():
            return scores_at(self.model, tokens_BT, last_B, self._dtype).tolist()
