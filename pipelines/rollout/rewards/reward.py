"""What a reward is: a function of a batch of answered prompts that gives a number for each.

    def politeness(replies: Sequence[Answered]) -> Sequence[float]: ...

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
class Answered:
    """A prompt and the policy's reply to it."""

    name: str  # the conversation's id, for messages to people
    messages: Sequence[Message]  # the prompt
    reply: str
    num_tokens: int  # of the reply, its end included
    answer: str | None = None  # what a right reply says, where that can be checked
    safety: str = ""  # of the prompt: unsafe, safe or neither


class Reward(Protocol):
    def __call__(self, replies: Sequence[Answered], /) -> Sequence[float]:
        """A finite number for each, in their order."""
        ...


@dataclass(frozen=True)
class Setting:
    """What rewards are made from; each takes what it needs."""

    chat: Chat | None = None
    judge: Callable[[list[list[int]]], Sequence[float]] | None = None  # scores of conversations as tokens
    target_tokens: int = 64
    function: str | None = None  # path/to/file.py:name


@dataclass(frozen=True)
class Scores:
    """total: weighted sum for each reply; parts: each reward as it was given, by name."""

    total: list[float]
    parts: dict[str, list[float]]


def score(rewards: Mapping[str, Reward], weights: Mapping[str, float], replies: Sequence[Answered]) -> Scores:
    """Every reward of every reply. Raises UserError, naming reward and row, for one that fails or is no number."""
    parts = {name: _asked(name, reward, replies) for name, reward in rewards.items()}
    total = [sum(weights[name] * own[place] for name, own in parts.items()) for place in range(len(replies))]
    return Scores(total, parts)


def _asked(name: str, reward: Reward, replies: Sequence[Answered]) -> list[float]:
    values = list(reward(replies))
    if len(values) != len(replies):
        raise UserError(
            f"rewards.{name}: gave {len(values)} numbers for {len(replies)} replies; expected one for each, in order"
        )
    for value, one in zip(values, replies, strict=True):
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise UserError(
                f"rewards.{name}: gave {value!r} for the reply {one.reply[:80]!r} to {one.name}; expected a finite "
                f"number. Make it give one for any text, the empty one too"
            )
    return [float(value) for value in values]
