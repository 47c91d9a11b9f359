"""What training takes by formula, and what it took: `rayse plan` prints the first, every run their difference.

model, Setting ──memory.rank_bytes──► bytes of a rank ┐
FLOPs ÷ (rate of products × efficiency) ──► seconds ──┴──÷ measured──► plan/memory_error, plan/time_error
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import PreTrainedModel

from pipelines.inference.hardware import CONTEXT_BYTES
from pipelines.learning.memory import Setting, layer_bytes, rank_bytes
from pipelines.learning.model import Recompute

GPU_EFFICIENCY = 0.55  # of the rate of products: 0.62 at 1.1B, 0.43 with LoRA beside 7.3B and everything recomputed
CPU_EFFICIENCY = 0.65  # the median of what was measured: docs/planning.md
PROCESS_BYTES, ADAPTER_BYTES = 340 * 2**20, 50 * 2**20  # on a CPU: torch, transformers and DeepSpeed; PEFT
# On a CPU, what glibc's malloc keeps of blocks that were freed, times what lives at once. Without it (with
# MALLOC_MMAP_THRESHOLD_) training takes as much memory as it needs, and a quarter more time.
KEPT_OF_ACTIVATIONS, KEPT_OF_WORKING = 0.8, 5.3
# Beside frozen float32 weights, times what all layers would keep, recomputed or not: docs/planning.md.
KEPT_WITH_ADAPTERS = 1.6


def process_bytes(model: PreTrainedModel, setting: Setting) -> dict[str, int]:
    """Bytes of a rank's process by part: what training holds, and the process itself."""
    parts = rank_bytes(model, setting)
    if setting.device == "cuda":
        return parts | {"process": CONTEXT_BYTES}
    has_adapters = not all(parameter.requires_grad for parameter in model.parameters())
    kept = round(KEPT_OF_ACTIVATIONS * parts["activations"] + KEPT_OF_WORKING * parts["working"])
    if has_adapters and setting.dtype == torch.float32:
        layers = cast(Any, model.config).num_hidden_layers
        kept = round(KEPT_WITH_ADAPTERS * setting.tokens * layers * layer_bytes(model, setting))
    return parts | {"freed, but kept": kept, "process": PROCESS_BYTES + ADAPTER_BYTES * has_adapters}


def seconds(flops: float, flops_per_s: float, device: str, recompute: Recompute) -> float:
    """Seconds of training steps. flops: of forward and backward; flops_per_s: of large products, by all workers."""
    again = 4 / 3 if recompute == "full" else 1.0  # a second forward pass
    efficiency = GPU_EFFICIENCY if device.startswith("cuda") else CPU_EFFICIENCY
    return again * flops / (flops_per_s * efficiency)
