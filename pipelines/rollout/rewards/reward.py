"""Reward: a function of a batch of exchanges that returns a number for each.

    def politeness(exchanges: Sequence[Exchange]) -> Sequence[float]: ...

A new one is a file in this folder and a line in REWARDS.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pipelines.errors import UserError

if TYPE_CHECKING:
    from pipelines.data.tokens.chat import Chat, Message


@dataclass(frozen=True)
class Exchange:
    """A prompt and the policy's reply to it."""

    name: str  # the conversation's id, for messages to people
    messages: Sequence[Message]  # the prompt
    reply: str
    num_tokens: int  # of the reply, its stop token included
    answer: str | None = None  # the right answer, where it can be checked
    safety: str = ""  # of the prompt: unsafe, safe or neither
    tools: str = ""  # those that the assistant may call, as Conversation has them


class Reward(Protocol):
    def __call__(self, exchanges: Sequence[Exchange], /) -> Sequence[float]:
        """A finite number for each, in their order."""
        ...


@dataclass(frozen=True)
class RewardContext:
    """What rewards are built from; each takes what it needs."""

    chat: Chat | None = None
    reward_model: Callable[[list[list[int]]], Sequence[float]] | None = None  # scores conversations of token ids
    target_tokens: int = 64
    function: str | None = None  # path/to/file.py:name


@dataclass(frozen=True)
class Scores:
    """total: weighted sum for each reply; parts: each reward, unweighted, by name."""

    total: list[float]
    parts: dict[str, list[float]]


def score(rewards: Mapping[str, Reward], weights: Mapping[str, float], exchanges: Sequence[Exchange]) -> Scores:
    """Every reward of every reply. Raises UserError, naming reward and row, for one that fails or is no number."""
    parts = {name: _checked(name, reward, exchanges) for name, reward in rewards.items()}
    total = [sum(weights[name] * values[i] for name, values in parts.items()) for i in range(len(exchanges))]
    return Scores(total, parts)


def _checked(name: str, reward: Reward, exchanges: Sequence[Exchange]) -> list[float]:
    values = list(reward(exchanges))
    if len(values) != len(exchanges):
        raise UserError(
            f"rewards.{name}: returned {len(values)} numbers for {len(exchanges)} replies; expected one for each, in "
            f"order"
        )
    for value, exchange in zip(values, exchanges, strict=True):
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise UserError(
                f"rewards.{name}: returned {value!r} for the reply {exchange.reply[:80]!r} to {exchange.name}; "
                f"expected a finite number. Make it return one for any text, the empty one too"
            )
    return [float(value) for value in values]
