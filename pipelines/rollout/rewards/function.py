"""Reward: a function of the user, `path/to/file.py:name`.

    def name(batch: list[dict]) -> list[float]

Each row of the batch is {"prompt": [{role, content}], "reply": text, "answer": text or None}; the function returns a
number for each. It runs in the driver, on whole batches. Importing its file runs its code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines import user_functions
from pipelines.errors import UserError
from pipelines.rollout.rewards.reward import Exchange, Reward, RewardContext

RewardFunction = Callable[..., Any]


def function(context: RewardContext) -> Reward:
    """Raises UserError where there is no such function, or it fails."""
    where = context.function
    if where is None:
        raise UserError("rewards.function: no function named; write ppo.function: path/to/file.py:name")
    reward_function = load(where)

    def score(exchanges: Sequence[Exchange]) -> Sequence[float]:
        batch = [{"prompt": list(e.messages), "reply": e.reply, "answer": e.answer} for e in exchanges]
        try:
            return list(reward_function(batch))
        except Exception as error:
            row = _failing_row(reward_function, batch, exchanges)
            raise UserError(
                f"rewards.function: {where} raised {type(error).__name__}: {error} on {row}; expected a number for "
                f"each reply. Make it return one for any text, the empty one too"
            ) from error

    return score


def _failing_row(reward_function: RewardFunction, batch: list[dict[str, Any]], exchanges: Sequence[Exchange]) -> str:
    """Describes the first row on which the function fails alone too."""
    for row, exchange in zip(batch, exchanges, strict=True):
        try:
            list(reward_function([row]))
        except Exception:
            return f"the reply {exchange.reply[:80]!r} to {exchange.name}"
    return f"a batch of {len(batch)} replies, though on none of them alone"


def location(where: str) -> tuple[Path, str]:
    """File and name. Raises UserError for anything but path/to/file.py:name."""
    return _named(user_functions.location, where)


def load(where: str) -> RewardFunction:
    """The function, from its file."""
    return _named(lambda where: user_functions.read(where).load(), where)


def _named(use: Callable[[str], Any], where: str) -> Any:
    """What `use` returns; its error names this reward."""
    try:
        return use(where)
    except UserError as error:
        raise UserError(f"rewards.function: {error}") from error
