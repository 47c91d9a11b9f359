"""What a recipe may say of PPO."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipelines.stage import Options
from pipelines.training import WorkerOptions

RewardName = Literal["reward_model", "exact_match", "length", "safety", "function"]


class PpoOptions(Options):
    iterations: int = Field(50, ge=1, description="times that replies are written and learnt from")
    prompts_per_iteration: int = Field(32, ge=1, description="prompts asked in an iteration; tasks take turns")
    replies_per_prompt: int = Field(2, ge=1, description="replies to each of them")
    max_new_tokens: int = Field(
        64, ge=1, description="longest reply; longer prompts than it leaves room for are left out"
    )
    temperature: float = Field(1.0, gt=0, le=10, description="of the replies that are learnt from")
    rewards: dict[RewardName, float] = Field(
        default={"reward_model": 1.0},
        description="weight of each; a reply's reward is the weighted sum. Weight 0: only measured, for the curve",
    )
    function: str | None = Field(None, description="rewards.function: path/to/file.py:name, called with a list of "
                                 "{prompt, reply, answer}; gives a number for each")  # fmt: skip
    target_tokens: int = Field(64, ge=1, description="rewards.length: the length that is rewarded most")
    unfinished_penalty: float = Field(1.0, ge=0, description="taken from a reply that max_new_tokens cut off")
    epochs: int = Field(1, ge=1, description="times that each reply is learnt from")
    minibatches: int = Field(1, ge=1, description="optimiser steps of an epoch")
    learning_rate: float = Field(1e-5, gt=0, description="of the policy, by AdamW")
    critic_learning_rate: float = Field(1e-4, gt=0, description="of the critic, by AdamW")
    decay_share: float = Field(
        1.0, ge=0, le=1, description="of the iterations, at the end, in which both rates fall to 0; 0: they never do"
    )
    advantage: Literal["gae", "group"] = Field(
        "gae", description="gae: against what a critic expects of each token; group: against the mean reward of the "
        "other replies to the prompt, without a critic, which takes less time and memory"
    )  # fmt: skip
    critic: Literal["policy", "reward_model"] | None = Field(
        None, description="whose body the critic has; default: the reward model's where one gives rewards"
    )
    critic_body: Literal["frozen", "learnt"] = Field(
        "frozen", description="frozen: the critic is a head on a body that is there anyway; learnt: a second model, "
        "which takes as long to teach as the policy, and as much memory"
    )  # fmt: skip
    clip: float = Field(0.2, gt=0, lt=1, description="most that a token's probability may gain or lose, relative")
    value_clip: float = Field(0.2, ge=0, description="most that a value may move; 0: any")
    clip_norm: float = Field(1.0, ge=0, description="longest gradient, all weights together; 0: any")
    kl_coefficient: float = Field(0.05, ge=0, description="what a nat away from the starting model costs, at first")
    kl_target: float | None = Field(None, gt=0, description="nats a reply that the coefficient is steered to; default: "
                                    "it stays")  # fmt: skip
    gamma: float = Field(1.0, gt=0, le=1, description="discount of a token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="1: what followed counts; 0: what the critic expects")
    entropy_bonus: float = Field(0.0, ge=0, description="reward of a nat of entropy, in the policy's loss")
    held_out_prompts: int = Field(100, ge=0, description="prompts that the KL to the starting model is measured on")

    def identity(self) -> dict[str, Any]:
        """A function is known by its file's bytes and its name, not by the path."""
        name = None if self.function is None else self.function.rpartition(":")[2]
        return super().identity() | {"function": name}

    @property
    def group(self) -> int | None:
        """Replies that are measured against each other; None: a critic measures them."""
        return self.replies_per_prompt if self.advantage == "group" else None

    @property
    def replies(self) -> int:
        """Replies of an iteration."""
        return self.prompts_per_iteration * self.replies_per_prompt


class PpoCluster(WorkerOptions):
    """Each worker is an actor that generates replies and learns from them."""

    micro_batch_rows: int = Field(32, ge=1, description="Replies of one backward pass: fewer take less memory")
    kv_cache_bytes: int | None = Field(None, ge=2**24, description="memory of an actor for keys and values")
    save_every: int = Field(1, ge=1, description="iterations that a lost actor costs at most")
    start_s: float = Field(900, gt=0, description="seconds for all actors to stand")
    answer_s: float = Field(600, gt=0, description="seconds for anything they are asked")
    restarts: int = Field(3, ge=0, description="times in a row that lost actors are replaced without getting further")


def files(options: PpoOptions) -> list[Path]:
    """The user's code that decides the result."""
    if options.function is None:
        return []
    from pipelines.rollout.rewards.function import location

    return [location(options.function)[0]]
