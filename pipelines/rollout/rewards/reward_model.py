"""Reward: the score of a reward model at the last token of the conversation, the end of the reply's turn.

The model is frozen and lives in each learner; the conversation is rendered anew from the reply's text, so that a policy
cannot raise its score by tokens that the reward model has never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipelines.errors import UserError
from pipelines.rollout.rewards.reward import Exchange, Reward, RewardContext

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def reward_model(context: RewardContext) -> Reward:
    """Needs context.chat and context.reward_model."""
    chat, scores_of = context.chat, context.reward_model
    if chat is None or scores_of is None:
        raise UserError("rewards.reward_model: no reward model; put a stage reward_model before ppo, or leave it out "
                        "of ppo.rewards")  # fmt: skip

    def score(exchanges: Sequence[Exchange]) -> Sequence[float]:
        rows = []
        for exchange in exchanges:
            turns = [*exchange.messages, {"role": "assistant", "content": exchange.reply}]
            rendered = chat.conversation(turns, exchange.tools)
            rows.append(rendered.ids[: int(rendered.loss_mask.nonzero()[0][-1]) + 1].tolist())
        return scores_of(rows)

    return score


def scores(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], device: torch.device, evaluate: Callable[..., torch.Tensor]
) -> list[float]:
    """A reward model's score at the last token of each row, as evaluate(function, …) computes it; of no rows none.

    Rows over the context lose their first tokens. Imports torch."""
    import torch

    from pipelines.learning.actor_critic import pad_right, scores_at

    rows = [row[-int(model.config.max_position_embeddings) :] for row in rows]
    tokens_BT = pad_right(rows or [[0]]).to(device)
    width = tokens_BT.shape[1]
    last_B = torch.tensor([number * width + len(row) - 1 for number, row in enumerate(rows)], device=device)
    return evaluate(scores_at, model, tokens_BT, last_B.long()).tolist()
