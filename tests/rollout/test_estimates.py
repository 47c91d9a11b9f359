"""What PPO takes by formula, against counts by hand for a small Llama."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import LlamaConfig

from pipelines.inference.engine_size import WORKSPACE_BYTES
from pipelines.inference.estimates import Speed, forward_flops
from pipelines.learning.memory import Setting
from pipelines.learning.model import on_meta, shape_of
from pipelines.learning.shapes import ModelShape
from pipelines.learning.throughput import training_flops
from pipelines.rollout.estimates import iteration_seconds, process_bytes
from pipelines.rollout.footprint import Rollouts

HIDDEN, FEED_FORWARD, LAYERS, VOCABULARY, LENGTH = 64, 128, 2, 500, 96
LAYER = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * FEED_FORWARD + 2 * HIDDEN
PARAMETERS = LAYERS * LAYER + HIDDEN + 2 * VOCABULARY * HIDDEN
GPU = Setting(tokens=8 * LENGTH, device="cuda", dtype="bfloat16", world=2, zero_stage=2)
CPU = replace(GPU, device="cpu", dtype="float32")
ROLLOUTS = Rollouts(
    replies=16, tokens=LENGTH, reply_tokens=LENGTH // 2, max_tokens=LENGTH, epochs=2, has_reference=True,
    has_reward_model=True, kv_cache_bytes=10**6,
)  # fmt: skip
PEAK = 1e12


@pytest.fixture(scope="module")
def policy() -> ModelShape:
    config = LlamaConfig(
        hidden_size=HIDDEN, intermediate_size=FEED_FORWARD, num_hidden_layers=LAYERS, num_attention_heads=4,
        vocab_size=VOCABULARY, tie_word_embeddings=False,
    )  # fmt: skip
    return shape_of(on_meta(config.to_dict()))


def test_operations_of_a_forward_pass(policy: ModelShape) -> None:
    weights = PARAMETERS - VOCABULARY * HIDDEN  # all but the input embedding, which is looked up
    attention = 2 * 2 * LAYERS * HIDDEN * LENGTH  # scores and their sum, over the whole row
    assert forward(policy) == 2 * weights + attention
    training = training_flops(policy, LENGTH)
    assert forward(policy) == (training.per_token + training.per_predicted_token) / 3


def forward(policy: ModelShape) -> float:
    return forward_flops(policy.config, PARAMETERS, LENGTH)


def test_memory_of_frozen_models_and_of_a_critic_that_learns(policy: ModelShape) -> None:
    parts = process_bytes(policy, policy, CPU, ROLLOUTS)
    assert parts["reference"] == parts["reward model"] == 4 * PARAMETERS
    assert parts["sampler"] > 4 * PARAMETERS and parts["KV cache"] == 10**6
    of_policy = ("weights", "gathered", "masters", "gradients", "moments", "buckets")
    assert parts["critic"] == sum(parts[name] for name in of_policy)
    alone = process_bytes(policy, None, CPU, replace(ROLLOUTS, has_reference=False, has_reward_model=False))
    assert not {"critic", "reference", "reward model"} & alone.keys()
    assert process_bytes(policy, None, replace(CPU, zero_stage=3), ROLLOUTS)["reference"] == 4 * PARAMETERS // 2


def test_on_a_gpu_the_sampler_takes_the_place_of_activations(policy: ModelShape) -> None:
    roomy, tight = (process_bytes(policy, None, replace(GPU, tokens=n * LENGTH), ROLLOUTS) for n in (10_000, 1))
    most = 2 * PARAMETERS + 10**6 + WORKSPACE_BYTES
    assert roomy["sampler beyond activations"] == 0 < tight["sampler beyond activations"] < most


def test_time_grows_with_each_pass(policy: ModelShape) -> None:
    """On a host and with a memory that take no time, so that products are left: each counts as often as it is made."""

    def seconds(rollouts: Rollouts, critic: ModelShape | None = None, setting: Setting = CPU) -> float:
        return iteration_seconds(policy, critic, setting, rollouts, Speed(PEAK, bytes_per_s=1e30))

    whole = seconds(ROLLOUTS)
    tokens = 16 * LENGTH
    fastest = tokens * forward(policy) * (1 + 2 + 2 * 3) / PEAK  # generated, twice annotated, learnt twice
    assert fastest < whole < 3 * fastest
    read = whole - seconds(replace(ROLLOUTS, has_reward_model=False))
    assert whole - seconds(replace(ROLLOUTS, epochs=1)) == pytest.approx(3 * read)
    assert seconds(ROLLOUTS, policy) - whole == pytest.approx(7 * read)  # the critic's values, and it learns twice
    in_16_bits = seconds(ROLLOUTS, setting=replace(CPU, dtype="bfloat16")) - whole
    assert in_16_bits == pytest.approx(read)  # the sampler's log-probabilities are not the policy's to the last digit


def test_a_slow_host_takes_longer_for_more_steps(policy: ModelShape) -> None:
    def seconds(rollouts: Rollouts) -> float:
        return iteration_seconds(
            policy, None, CPU, rollouts, Speed(1e30, 1e30, operation_s=1e-5, busy_operation_s=1e-5)
        )

    steps = seconds(replace(ROLLOUTS, minibatches=4)) - seconds(replace(ROLLOUTS, minibatches=2))
    assert steps == pytest.approx(seconds(replace(ROLLOUTS, minibatches=6)) - seconds(replace(ROLLOUTS, minibatches=4)))
    assert 0 < steps < seconds(replace(ROLLOUTS, minibatches=2))  # which has as many steps, and all else besides
