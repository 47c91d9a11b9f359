"""What PPO takes by formula, against counts by hand for a small Llama."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import LlamaConfig

from pipelines.inference.engine_size import CPU as CPU_SIZE
from pipelines.inference.engine_size import WORKSPACE_BYTES
from pipelines.inference.estimates import STEP_S, forward_flops
from pipelines.learning.estimates import CPU_STEP_S, Speed
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
    def seconds(rollouts: Rollouts, critic: ModelShape | None = None) -> float:
        return iteration_seconds(policy, critic, CPU, rollouts, Speed(PEAK))

    whole = seconds(ROLLOUTS)
    tokens = 16 * LENGTH
    fastest = tokens * forward(policy) * (1 + 3 + 2 * 3) / PEAK  # generated, three times annotated, learnt twice
    scheduling = STEP_S * -(-8 // CPU_SIZE.num_rows) * ROLLOUTS.reply_tokens  # 8 replies a rank, all at once
    assert fastest < whole - scheduling - 2 * CPU_STEP_S < 3 * fastest
    without_score = whole - seconds(replace(ROLLOUTS, has_reward_model=False))
    learnt_once = whole - seconds(replace(ROLLOUTS, epochs=1)) - CPU_STEP_S
    assert learnt_once == pytest.approx(3 * without_score)
    assert seconds(ROLLOUTS, policy) - whole == pytest.approx(2 * (learnt_once + CPU_STEP_S))  # the critic learns twice
