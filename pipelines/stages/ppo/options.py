"""Options of the stage `ppo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.stage import Options
from pipelines.training import LoraOptions, WorkerOptions

RewardName = Literal["reward_model", "exact_match", "length", "safety", "function"]


class PpoOptions(Options):
    iterations: int = Field(50, ge=1, description="Number of times that replies are generated and learnt from")
    prompts_per_iteration: int = Field(32, ge=1, description="Prompts of an iteration; tasks take turns")
    replies_per_prompt: int = Field(2, ge=1, description="Replies that are generated to each prompt")
    max_new_tokens: int = Field(
        64, ge=1, description="Maximum tokens of a reply; prompts that leave no room for it are left out"
    )
    temperature: float = Field(1.0, gt=0, le=10, description="Sampling temperature of the replies")
    rewards: dict[RewardName, float] = Field(
        default={"reward_model": 1.0},
        description="Weight of each reward; a reply's score is the weighted sum. Weight 0: measured only",
    )
    function: str | None = Field(
        None, description="File and name of rewards.function: path/to/file.py:name, from the recipe's folder; it is "
        "called with a list of {prompt, reply, answer} and returns a number for each"
    )  # fmt: skip
    target_tokens: int = Field(64, ge=1, description="Tokens of a reply that rewards.length scores highest")
    unfinished_penalty: float = Field(
        1.0, ge=0, description="Penalty of a reply that max_new_tokens cut off, subtracted from its score"
    )
    epochs: int = Field(1, ge=1, description="Number of times that each reply is learnt from")
    minibatches: int = Field(1, ge=1, description="Optimiser steps of an epoch")
    learning_rate: float = Field(1e-5, gt=0, description="Learning rate of the policy (AdamW) at its peak")
    critic_learning_rate: float = Field(1e-4, gt=0, description="Learning rate of the critic (AdamW) at its peak")
    decay_fraction: float = Field(
        1.0, ge=0, le=1, description="Fraction of the iterations, at the end, in which both learning rates fall to 0; "
        "0: they stay"
    )  # fmt: skip
    lora: LoraOptions | None = Field(
        None, description="Train LoRA adapters and merge them into the weights; the reference is the model without "
        "them, so no second model is in memory. Default: train all weights"
    )  # fmt: skip
    advantage: Literal["gae", "group"] = Field(
        "gae", description="Estimator of advantages. gae: generalised advantage estimation, with a critic; group: "
        "reward less the mean reward of the other replies to the prompt (leave-one-out), without a critic, which takes "
        "less time and memory"
    )  # fmt: skip
    critic: Literal["policy", "reward_model"] | None = Field(
        None, description="Initial model of the critic; default: the reward model where one gives rewards, else the "
        "policy"
    )  # fmt: skip
    critic_body: Literal["frozen", "learnt"] = Field(
        "frozen", description="Body of the critic. frozen: only a head learns, on a model that is in memory anyway; "
        "learnt: a second model, which takes as much time and memory as the policy"
    )  # fmt: skip
    clip: float = Field(
        0.2, gt=0, lt=1, description="Maximum relative change of a token's probability that the policy loss rewards"
    )
    value_clip: float = Field(0.2, ge=0, description="Maximum change of a value in one iteration; 0: no bound")
    clip_norm: float = Field(
        1.0, ge=0, description="Maximum norm of a gradient, over all weights of a model; 0: no bound"
    )
    kl_coefficient: float = Field(
        0.05, ge=0, description="Coefficient of the KL penalty: the cost of a nat away from the initial model"
    )
    kl_target: float | None = Field(
        None, gt=0, description="Mean KL of a reply, in nats, that the coefficient is adapted to; default: it is fixed"
    )
    gamma: float = Field(1.0, gt=0, le=1, description="Discount factor a token")
    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="Lambda of GAE. 1: the rewards that followed; 0: the critic's next value"
    )
    normalise_rewards: bool = Field(
        False, description="Whether rewards are shifted and scaled to mean 0 and standard deviation 1 over all replies "
                           "so far, so that kl_coefficient means the same for any reward model")  # fmt: skip
    entropy_bonus: float = Field(
        0.0, ge=0, description="Coefficient of the entropy bonus in the policy loss, for each nat"
    )
    held_out_prompts: int = Field(
        100, ge=0, description="Number of held-out prompts on which heldout/kl_nats is measured at the end"
    )

    @model_validator(mode="after")
    def _samplers_have_whole_weights(self) -> Self:
        if self.lora is not None and self.lora.qlora:
            raise ValueError("lora.qlora: does not fit ppo, whose replies come from the weights as they were stored: "
                             "another policy than the one that learns; expected false")  # fmt: skip
        return self

    def identity(self) -> dict[str, Any]:
        """The reward function counts by its name, and its file by its bytes: the path does not matter."""
        name = None if self.function is None else self.function.rpartition(":")[2]
        return super().identity() | {"function": name}

    @property
    def replies_per_iteration(self) -> int:
        return self.prompts_per_iteration * self.replies_per_prompt


class PpoCluster(WorkerOptions):
    """Each worker is an actor that generates replies and learns from them."""

    micro_batch_rows: int = Field(32, ge=1, description="Replies of one backward pass: fewer take less memory")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Type of the weights in training, with float32 master weights; auto: the type that replies "
        "are generated in, which is the model's, so that learner and sampler agree"
    )  # fmt: skip
    kv_cache_bytes: int | None = Field(
        None, ge=2**24, description="Memory of an actor's KV cache, in bytes; default: 64 rows, at most 4 GiB; on a "
                                    "GPU 256 rows, at most 40% of what is free")  # fmt: skip

    save_every: int | None = Field(
        None, ge=1, description="Iterations between two checkpoints: what a lost actor costs at most. Default: so many "
                                "that checkpoints take 2% of the time, ten minutes at most")  # fmt: skip
    start_s: float = Field(900, gt=0, description="Seconds until all actors must have started")
    answer_s: float = Field(
        600, gt=0, description="Seconds within which an actor must return from any call, or give a sign of life in it"
    )
    restarts: int = Field(
        3, ge=0, description="Number of times in a row that lost actors are replaced without a further checkpoint"
    )


def files(options: PpoOptions) -> list[Path]:
    """The user's code that changes the result."""
    if options.function is None:
        return []
    from pipelines.rollout.rewards.function import location

    return [location(options.function)[0]]
