"""What training takes by formula, and what it took: `rayse plan` prints the first, every run their difference.

model, Setting ──memory.rank_bytes──► bytes of a rank ┐
operations, Speed ──► seconds ───────────────────────┴──÷ measured──► plan/memory_error, plan/time_error
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.inference.process_memory import CONTEXT_BYTES
from pipelines.learning.memory import Setting, layer_bytes, rank_bytes
from pipelines.learning.shapes import ModelShape
from pipelines.learning.throughput import attention_flops, layers_forward_flops

CPU_EFFICIENCY = 0.65  # of the rate of products: the median of what was measured: docs/planning.md
# Of an optimizer step on CPUs, beside its products: DeepSpeed, and ranks that wait for each other. Of a model of 2M in
# steps of half a second on two cores that were not idle; of one in which nothing waits it is half of that.
CPU_STEP_S = 0.17
GPU_EFFICIENCY = 0.55  # the same for forward passes alone: a guess
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
class Speed:
    """What all workers' devices do together, measured or from data sheets. flops_per_s: in products of large matrices;
    bytes_per_s: in copies within a GPU's memory, both ways; 0 on CPUs, whose time does not need it."""

    flops_per_s: float
    bytes_per_s: float = 0.0


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


def seconds(
    model: ModelShape, setting: Setting, speed: Speed, *, flops: float, tokens: float, length: float, steps: float = 0
) -> float:
    """Seconds of training steps by all workers. flops: of forward and backward (throughput.py), nothing twice; tokens:
    in rows of `length` tokens; steps: of the optimizer.

    On a GPU whichever takes longer, its kernels or the host that starts them."""
    layers = layers_forward_flops(model)
    attention = attention_flops(model, length)
    again = {"none": 0.0, "attention": attention, "full": layers + attention}[setting.recompute]
    if setting.device == "cpu":
        return (flops + tokens * again) / (speed.flops_per_s * CPU_EFFICIENCY) + CPU_STEP_S * steps
    again_of_passes = 1.0 if setting.recompute == "none" else 4 / 3  # a backward pass takes as long as two
    products = flops - 3 * tokens * attention + (tokens * layers if setting.recompute == "full" else 0)
    attended = 3 * again_of_passes * tokens * attention
    num_layers = model.config["num_hidden_layers"]
    moved = MOVES_OF_KEPT * tokens * num_layers * layer_bytes(model, setting)
    moved *= 4 / 3 if setting.recompute == "full" else 1
    device_s = (products + attended / ATTENTION_EFFICIENCY) / speed.flops_per_s + moved / speed.bytes_per_s
    micro_batches = tokens / setting.tokens / setting.world
    layer_s = COMPILED_LAYER_S if setting.compiled else ZERO_3_LAYER_S if setting.zero_stage == 3 else PLAIN_LAYER_S
    return max(device_s, micro_batches * num_layers * layer_s * again_of_passes)


def forward_seconds(flops: float, speed: Speed, device: str) -> float:
    """Seconds of forward passes alone."""
    return flops / (speed.flops_per_s * (GPU_EFFICIENCY if device.startswith("cuda") else CPU_EFFICIENCY))
