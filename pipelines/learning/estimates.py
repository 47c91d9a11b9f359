"""What training takes by formula, and what it took: `rayse plan` prints the first, every run their difference.

model, Setting ──memory.rank_bytes──► bytes of a rank ┐
operations, Speed ──► seconds ───────────────────────┴──÷ measured──► plan/memory_error, plan/time_error
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipelines.inference.estimates import Speed, forward_flops
from pipelines.inference.process_memory import CONTEXT_BYTES
from pipelines.learning.memory import Setting, layer_bytes, rank_bytes
from pipelines.learning.shapes import ModelShape
from pipelines.learning.throughput import attention_flops, layers_forward_flops, muon_flops

# Of CPUs: products run at so much of the rate of large ones, and all other operations move bytes, at the rate of
# copies, so many times: those that layers keep for the backward pass, the logits, the trained weights in the optimizer,
# and what ranks send each other. Each operation takes the host a small one's time (Speed) besides; how many there are
# in a layer and in the rest of a micro-batch, in a trained tensor's step, and in DeepSpeed's and the loop's.
# docs/planning.md has what they were chosen on.
CPU_EFFICIENCY = 0.8
MOVES_OF_KEPT_BY_CPU, MOVES_OF_LOGITS, MOVES_OF_TRAINED, MOVES_OF_SENT = 15.0, 15.0, 12.0, 20.0
LAYER_OPERATIONS, BATCH_OPERATIONS, TENSOR_OPERATIONS, STEP_OPERATIONS = 150.0, 100.0, 30.0, 4000.0
GPU_EFFICIENCY = 0.55  # of the rate of large products, by forward passes alone on a GPU: a guess
# Of a GPU, from the kernels of a step of 350m and of 1b on an H200 (docs/planning.md): products run at the rate of
# large ones, attention that counts in full (throughput.py) at 0.68 of it, and all other kernels move each byte that is
# kept for the backward pass so many times.
ATTENTION_EFFICIENCY, MOVES_OF_KEPT = 0.68, 12.5
# That the host takes to start a layer's kernels, forward and backward, from steps of 350m on an H200's host: compiled;
# not compiled; at ZeRO 3.
COMPILED_LAYER_S, PLAIN_LAYER_S, ZERO_3_LAYER_S = 0.006, 0.0072, 0.0142
# On a CPU: torch, transformers and DeepSpeed 340 MiB, Ray Train 30; PEFT.
PROCESS_BYTES, ADAPTER_BYTES = 370 * 2**20, 50 * 2**20
# On a CPU, what glibc's malloc keeps of blocks that were freed, times what lives at once. Without it (with
# MALLOC_MMAP_THRESHOLD_) training takes as much memory as it needs, and a quarter more time.
KEPT_OF_ACTIVATIONS, KEPT_OF_LOGITS, KEPT_OF_RECOMPUTED = 0.8, 3.5, 5.3
# Of a reward model at least, whose batches of pairs all have other sizes: times what lives at once, up to a limit.
KEPT_OF_PAIRS, KEPT_PAIRS_BYTES = 4.0, 96 * 2**20
# Beside frozen float32 weights where layers are recomputed, times what all layers would keep: docs/planning.md.
KEPT_WITH_ADAPTERS = 1.6


@dataclass(frozen=True)
class TrainingWork:
    """What all workers do. flops: of forward and backward (throughput.py), nothing twice; tokens: in rows of `length`
    tokens; steps: of the optimizer; micro_batches: of a rank in each."""

    flops: float
    tokens: float
    length: float
    steps: float
    micro_batches: float = 1.0


def process_bytes(model: ModelShape, setting: Setting) -> dict[str, int]:
    """Bytes of a rank's process by part: what training holds, and the process itself."""
    parts = rank_bytes(model, setting)
    if setting.device == "cuda":
        return parts | {"process": CONTEXT_BYTES}
    of_working = KEPT_OF_RECOMPUTED if setting.recompute == "full" else KEPT_OF_LOGITS
    kept = round(KEPT_OF_ACTIVATIONS * parts["activations"] + of_working * parts["working"])
    if model.head is None:
        kept = max(kept, round(min(KEPT_OF_PAIRS * parts["activations"], KEPT_PAIRS_BYTES)))
    if model.has_frozen and setting.dtype == "float32" and setting.recompute == "full":
        layers = model.config["num_hidden_layers"]
        kept = round(KEPT_WITH_ADAPTERS * setting.tokens * layers * layer_bytes(model, setting))
    return parts | {"freed, but kept": kept, "process": PROCESS_BYTES + ADAPTER_BYTES * model.has_frozen}


def seconds(model: ModelShape, setting: Setting, speed: Speed, work: TrainingWork) -> float:
    """Seconds of training steps. speed: of all workers together.

    On a GPU whichever takes longer, its kernels or the host that starts them; a CPU does one after the other."""
    if setting.device == "cpu":
        return _cpu_seconds(model, setting, speed, work)
    tokens, layers, attention = work.tokens, layers_forward_flops(model), attention_flops(model, work.length)
    again_of_passes = 1.0 if setting.recompute == "none" else 4 / 3  # a backward pass takes as long as two
    products = work.flops - 3 * tokens * attention + (tokens * layers if setting.recompute == "full" else 0)
    products += _logits_again_flops(model, setting, work)
    attended = 3 * again_of_passes * tokens * attention
    moved = MOVES_OF_KEPT * _kept_bytes(model, setting, tokens)
    device_s = (products + attended / ATTENTION_EFFICIENCY) / speed.flops_per_s + moved / speed.bytes_per_s
    layer_s = COMPILED_LAYER_S if setting.compiled else ZERO_3_LAYER_S if setting.zero_stage == 3 else PLAIN_LAYER_S
    passes = work.steps * work.micro_batches * again_of_passes
    return max(device_s, passes * model.config["num_hidden_layers"] * layer_s)


def _cpu_seconds(model: ModelShape, setting: Setting, speed: Speed, work: TrainingWork) -> float:
    attention = attention_flops(model, work.length)
    again = {"none": 0.0, "attention": attention, "full": layers_forward_flops(model) + attention}[setting.recompute]
    products = work.flops + work.tokens * again
    products += _logits_again_flops(model, setting, work)
    if setting.muon:
        products += work.steps * muon_flops(model)
    logits = 4 * model.head.shape[0] * work.tokens if model.head is not None else 0.0
    moved = MOVES_OF_KEPT_BY_CPU * _kept_bytes(model, setting, work.tokens) + MOVES_OF_LOGITS * logits
    moved += work.steps * MOVES_OF_TRAINED * 4 * model.trained
    moved += work.steps * MOVES_OF_SENT * setting.world * _sent_bytes(model, setting, work.micro_batches)
    of_batch = LAYER_OPERATIONS * model.config["num_hidden_layers"] + BATCH_OPERATIONS
    of_batch *= 4 / 3 if setting.recompute == "full" else 1
    tensors = sum(weight.trained for weight in model.weights)
    operations = work.steps * (work.micro_batches * of_batch + TENSOR_OPERATIONS * tensors + STEP_OPERATIONS)
    products_s = products / (speed.flops_per_s * CPU_EFFICIENCY)
    return products_s + moved / speed.bytes_per_s + operations * speed.operation_s


def _logits_again_flops(model: ModelShape, setting: Setting, work: TrainingWork) -> float:
    return 2 * model.head.numel * work.tokens if setting.logits_again and model.head is not None else 0.0


def _sent_bytes(model: ModelShape, setting: Setting, micro_batches: float) -> float:
    """Bytes that a rank sends in a step: gradients, summed over ranks in float32, and the new weights; at ZeRO 3 all
    weights for each forward and backward pass instead, and gradients after each."""
    if setting.world == 1:
        return 0.0
    if setting.zero_stage < 3:
        return (4 + setting.item_bytes) * model.trained
    return micro_batches * (2 * setting.item_bytes * model.parameters + 4 * model.trained)


def _kept_bytes(model: ModelShape, setting: Setting, tokens: float) -> float:
    """Bytes that all layers keep of tokens for the backward pass; a third more where each is computed again."""
    again = 4 / 3 if setting.recompute == "full" else 1.0
    return again * tokens * model.config["num_hidden_layers"] * layer_bytes(model, setting)


def forward_seconds(model: ModelShape, setting: Setting, speed: Speed, tokens: float, length: float) -> float:
    """Seconds of a forward pass over tokens in rows of `length`, their log-probabilities among it."""
    flops = forward_flops(model.config, model.parameters, length) * tokens
    if setting.device != "cpu":
        return flops / (speed.flops_per_s * GPU_EFFICIENCY)
    passes = tokens / setting.tokens / setting.world
    moved = MOVES_OF_KEPT_BY_CPU * _kept_bytes(model, replace(setting, recompute="none"), tokens)
    operations = passes * (LAYER_OPERATIONS * model.config["num_hidden_layers"] + BATCH_OPERATIONS)
    beside = moved / speed.bytes_per_s + operations * speed.operation_s  # products, as training takes it
    return flops / (speed.flops_per_s * CPU_EFFICIENCY) + beside / 3
