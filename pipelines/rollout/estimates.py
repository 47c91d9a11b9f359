"""What PPO takes by formula: memory of a rank, and the time of an iteration.

policy that learns ──learning.estimates──► bytes ──+ critic, reference, reward model, sampler, KV cache──► of a rank
replies ──generate, annotate, learn──► seconds
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

from pipelines.inference import engine_size
from pipelines.inference.estimates import Comparison, Engine, EngineWork, Speed, engine_bytes, engine_seconds
from pipelines.learning import estimates
from pipelines.learning.estimates import TrainingWork
from pipelines.learning.memory import Setting, state_bytes
from pipelines.learning.shapes import ModelShape
from pipelines.learning.throughput import training_flops
from pipelines.rollout.footprint import Rollouts

if TYPE_CHECKING:
    from pipelines.inference.hardware import PeakMemory


def compare(
    policy: ModelShape, critic: ModelShape | None, setting: Setting, rollouts: Rollouts, memory: PeakMemory
) -> Comparison:
    """The most memory that this rank held, and what is planned for it and for an iteration. Measures this rank's
    speed, for which other ranks should be idle or do the same."""
    from pipelines.inference.hardware import measured_speed
    from pipelines.learning.precision import DTYPES

    memory_bytes = memory.bytes()  # before the products below, whose matrices are not the rank's
    speed = measured_speed(setting.device, DTYPES[setting.dtype], world=setting.world)
    return Comparison(
        memory_bytes,
        sum(process_bytes(policy, critic, setting, rollouts).values()),
        iteration_seconds(policy, critic, setting, rollouts, speed),
    )


def process_bytes(
    policy: ModelShape, critic: ModelShape | None, setting: Setting, rollouts: Rollouts
) -> dict[str, int]:
    """Bytes of a rank's process by part. critic: where it is a model that learns.

    On a GPU the sampler sleeps while the policy learns, so that it takes the place of activations."""
    parts = estimates.process_bytes(policy, setting)
    weights = setting.item_bytes * policy.parameters
    frozen = weights // (setting.world if setting.zero_stage == 3 else 1)
    if critic is not None:
        parts["critic"] = sum(state_bytes(critic, setting).values())
    if rollouts.has_reference:
        parts["reference"] = frozen
    if rollouts.has_reward_model:
        parts["reward model"] = frozen
    of_sampler = engine_bytes(_sampler(policy, setting, rollouts), scored=False)
    if setting.device == "cuda":
        in_turn = parts["activations"] + parts["working"] + parts["embedding gradient"]
        return parts | {"sampler beyond activations": max(0, sum(of_sampler.values()) - in_turn)}
    of_sampler["process"] -= estimates.PROCESS_BYTES  # which is in parts already
    cache = of_sampler.pop("KV cache")
    return parts | {"sampler": sum(of_sampler.values()), "KV cache": cache}


def _sampler(policy: ModelShape, setting: Setting, rollouts: Rollouts) -> Engine:
    """A rank's engine."""
    on_cpu, config, parameters = setting.device == "cpu", policy.config, policy.parameters
    size = engine_size.size_of(on_cpu=on_cpu)
    rows = size.num_rows if on_cpu else min(size.num_rows, -(-rollouts.replies // setting.world))
    cache = min(rows * engine_size.row_bytes(config, rollouts.max_tokens, setting.dtype), size.max_kv_bytes)
    return Engine(
        config, parameters, setting.item_bytes * parameters, setting.dtype, rollouts.max_tokens,
        rollouts.kv_cache_bytes or cache, on_cpu,
    )  # fmt: skip


def iteration_seconds(
    policy: ModelShape, critic: ModelShape | None, setting: Setting, rollouts: Rollouts, speed: Speed
) -> float:
    """Seconds of an iteration. speed: of all ranks together."""
    tokens = rollouts.replies * rollouts.tokens
    steps = rollouts.epochs * rollouts.minibatches
    micro_batches = ceil(rollouts.replies * rollouts.tokens / rollouts.minibatches / setting.world / setting.tokens)
    learning_s = 0.0
    for model in [policy] if critic is None else [policy, critic]:
        learnt = rollouts.epochs * tokens
        flops = training_flops(model, rollouts.tokens).total(learnt, learnt)
        work = TrainingWork(flops, learnt, rollouts.tokens, steps, micro_batches)
        learning_s += estimates.seconds(model, setting, speed, work)
    # The reference's log-probabilities, those of the policy where the sampler's are not exact, the score, and values.
    passes = 1 + (setting.item_bytes < 4) + rollouts.has_reward_model + (critic is not None)
    annotating_s = passes * estimates.forward_seconds(policy, setting, speed, tokens, rollouts.tokens)
    return annotating_s + learning_s + _generating_seconds(policy, setting, rollouts, speed)


def _generating_seconds(policy: ModelShape, setting: Setting, rollouts: Rollouts, speed: Speed) -> float:
    """Each rank generates its share of the replies, as many at once as its engine takes."""
    engine = _sampler(policy, setting, rollouts)
    replies = -(-rollouts.replies // setting.world)
    turns = -(-replies // engine_size.size_of(on_cpu=engine.on_cpu).num_rows)
    work = EngineWork(
        rows=replies,
        row_tokens=replies * (rollouts.tokens - rollouts.reply_tokens),
        reply_tokens=replies * rollouts.reply_tokens,
        steps=turns * rollouts.reply_tokens,
        drawn_tokens=replies * rollouts.reply_tokens,
    )
    of_rank = replace(
        speed,
        flops_per_s=speed.flops_per_s / setting.world,
        bytes_per_s=speed.bytes_per_s / setting.world,
        read_bytes_per_s=speed.read_bytes_per_s / setting.world,
    )
    return engine_seconds(engine, work, of_rank)
