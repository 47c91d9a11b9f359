"""What PPO's plan is about. Light imports only: the driver of a run has these values too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rollouts:
    """What an iteration generates, and what a rank holds for it beside the policy and the critic that learn."""

    replies: int  # of all ranks
    tokens: int  # of a prompt with its reply, on average
    reply_tokens: int  # of the reply alone
    max_tokens: int  # at most, for which the sampler has room
    epochs: int
    has_reference: bool  # as a second model; with adapters it is the policy without them
    has_reward_model: bool
    kv_cache_bytes: int | None = None  # of a rank; None: engine_size.py's
    minibatches: int = 1  # optimizer steps of an epoch
