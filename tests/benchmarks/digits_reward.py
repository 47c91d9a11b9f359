"""The reward that both sides of the PPO benchmark learn from: the share of digits. It costs nothing, and differs from
reply to reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def digits(texts: Sequence[str]) -> list[float]:
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in texts]


def reward(batch: list[dict[str, Any]]) -> list[float]:
    """As the stage calls a user's function."""
    return digits([one["reply"] for one in batch])
