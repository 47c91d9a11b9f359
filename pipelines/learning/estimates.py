"""What training takes by formula, and what it took: `rayse plan` prints the first, every run their difference.

model, Setting ──memory.rank_bytes──► bytes of a rank ┐
FLOPs ÷ (rate of products × efficiency) ──► seconds ──┴──÷ measured──► plan/memory_error, plan/time_error
"""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import torch
from transformers import PreTrainedModel

from pipelines.learning.memory import Setting, rank_bytes
from pipelines.learning.model import Recompute

GPU_EFFICIENCY = 0.55  # of the rate of products: 0.62 at 1.1B, 0.43 with LoRA beside 7.3B and everything recomputed
CPU_EFFICIENCY = 0.6
CONTEXT_BYTES = 600 * 2**20  # of a process on a GPU: CUDA's context and kernels
PROCESS_BYTES = 550 * 2**20  # of a process on a CPU: torch, transformers and DeepSpeed


def process_bytes(model: PreTrainedModel, setting: Setting) -> dict[str, int]:
    """Bytes of a rank's process by part: what training holds, and the process itself."""
    own = CONTEXT_BYTES if setting.device == "cuda" else PROCESS_BYTES
    return {**rank_bytes(model, setting), "process": own}


def seconds(flops: float, flops_per_s: float, device: str, recompute: Recompute) -> float:
    """Seconds of training steps. flops: of forward and backward; flops_per_s: of large products, by all workers."""
    again = 4 / 3 if recompute == "full" else 1.0  # a second forward pass
    efficiency = GPU_EFFICIENCY if device.startswith("cuda") else CPU_EFFICIENCY
    return again * flops / (flops_per_s * efficiency)


class PeakMemory:
    """The most memory that this process holds from now on: on a GPU the tensors' there, with CONTEXT_BYTES; on a CPU
    its anonymous memory. Pages of files do not count, since all processes share them and they can be dropped."""

    def __init__(self, device: str):
        self._device = device
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
            return
        with contextlib.suppress(OSError):  # where it is forbidden, as in some containers, loading the model counts too
            Path("/proc/self/clear_refs").write_text("5")  # starts the high-water mark anew: proc(5)

    def bytes(self) -> int:
        """The peak so far."""
        if self._device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self._device) + CONTEXT_BYTES
        status = Path("/proc/self/status")
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
        if "VmHWM" not in fields:  # not Linux
            return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return 1024 * (int(fields["VmHWM"].split()[0]) - int(fields["RssFile"].split()[0]))
