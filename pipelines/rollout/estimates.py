"""What PPO takes by formula: memory of a rank, and the time of an iteration.

policy that learns ──learning.estimates──► bytes ──+ critic, reference, reward model, sampler, KV cache──► of a rank
replies ──generate, annotate, learn──► seconds
"""

from __future__ import annotations

from transformers import PreTrainedModel

from pipelines.inference import engine_size
from pipelines.learning import estimates
from pipelines.learning.memory import Setting, state_bytes
from pipelines.learning.model import num_parameters
from pipelines.learning.throughput import forward_flops, peak_flops_per_s, training_flops
from pipelines.rollout.footprint import Comparison, Rollouts

DECODE_EFFICIENCY = 0.2  # of the rate of large products, while replies are generated: docs/planning.md
SAMPLER_PROCESS_BYTES = 250 * 2**20  # on a CPU: vLLM, beside what training imports


def compare(
    policy: PreTrainedModel, critic: PreTrainedModel | None, setting: Setting, rollouts: Rollouts,
    memory: estimates.PeakMemory,
) -> Comparison:  # fmt: skip
    """Measures the rate of large products here, for which other ranks should be idle or do the same."""
    flops_per_s = setting.world * peak_flops_per_s(setting.device, setting.dtype)
    return Comparison(
        memory.bytes(),
        sum(process_bytes(policy, critic, setting, rollouts).values()),
        iteration_seconds(policy, critic, setting, rollouts, flops_per_s),
    )


def process_bytes(
    policy: PreTrainedModel, critic: PreTrainedModel | None, setting: Setting, rollouts: Rollouts
) -> dict[str, int]:
    """Bytes of a rank's process by part. critic: where it is a model that learns; both may be on the meta device.

    On a GPU the sampler sleeps while the policy learns, so that it takes the place of activations."""
    parts = estimates.process_bytes(policy, setting)
    weights = setting.dtype.itemsize * num_parameters(policy)
    frozen = weights // (setting.world if setting.zero_stage == 3 else 1)
    if critic is not None:
        parts["critic"] = sum(state_bytes(critic, setting).values())
    if rollouts.has_reference:
        parts["reference"] = frozen
    if rollouts.has_reward_model:
        parts["reward model"] = frozen
    cache = rollouts.kv_cache_bytes or _cache_bytes(policy, setting, rollouts)
    if setting.device == "cuda":
        in_turn = parts["activations"] + parts["working"] + parts["embedding gradient"]
        return parts | {"sampler beyond activations": max(0, weights + cache - in_turn)}
    return parts | {"sampler": weights + SAMPLER_PROCESS_BYTES, "KV cache": cache}


def _cache_bytes(policy: PreTrainedModel, setting: Setting, rollouts: Rollouts) -> int:
    size = engine_size.size_of(on_cpu=setting.device == "cpu")
    dtype = "float32" if setting.dtype.itemsize == 4 else "bfloat16"
    rows = size.num_rows if setting.device == "cpu" else min(size.num_rows, -(-rollouts.replies // setting.world))
    return min(rows * engine_size.row_bytes(policy.config.to_dict(), rollouts.max_tokens, dtype), size.max_kv_bytes)


def iteration_seconds(
    policy: PreTrainedModel, critic: PreTrainedModel | None, setting: Setting, rollouts: Rollouts, flops_per_s: float
) -> float:
    """Seconds of an iteration. flops_per_s: of large products, by all ranks together."""
    tokens = rollouts.replies * rollouts.tokens
    forward = forward_flops(policy, rollouts.tokens)
    passes = 2 + rollouts.has_reward_model  # log-probabilities of policy and reference, and the score
    learners = [policy] if critic is None else [policy, critic]
    flops = [training_flops(model, rollouts.tokens) for model in learners]
    learnt = rollouts.epochs * sum(each.per_token + each.per_predicted_token for each in flops)
    learning_s = estimates.seconds(tokens * learnt, flops_per_s, setting.device, setting.recompute)
    annotating_s = estimates.seconds(tokens * passes * forward, flops_per_s, setting.device, "none")
    return tokens * forward / (flops_per_s * DECODE_EFFICIENCY) + annotating_s + learning_s
