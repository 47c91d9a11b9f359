"""Sampling parameters and replies. Plain data: no engine is needed to read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """How replies are sampled. temperature 0: greedy; top_p 1 and top_k 0: from all tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 64
    stop_ids: tuple[int, ...] = ()  # stop tokens: the first of them ends a reply, as its last token


@dataclass(frozen=True)
class Reply:
    """One reply.

    tokens: ids, the stop token included; logprobs: float32 [A], nats, of each token in the distribution it was sampled
    from (after temperature, top-p and top-k; before them where temperature is 0)."""

    tokens: list[int]
    logprobs: np.ndarray
    finish: Literal["stop", "length"]
