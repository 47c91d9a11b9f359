"""The machine that is measured: its figures, packed rows for it, and steps on them, timed."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from pipelines.inference.hardware import peak_flops_per_s
from pipelines.learning.batch import PackedBatch, batch_from_packed
from pipelines.learning.engine import Engine
from pipelines.learning.model import num_parameters, shape_of
from pipelines.learning.throughput import training_flops


@dataclass
class Machine:
    """device: "cuda:0", or "cpu" in a dry run. folder: for files, removed at the end."""

    device: str
    folder: Path
    _peaks: dict[torch.dtype, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type that models are trained in."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    def peak_flops_per_s(self, dtype: torch.dtype) -> float:
        if dtype not in self._peaks:
            self._peaks[dtype] = peak_flops_per_s(self.device, dtype, seconds=3.0 if self.on_gpu else 0.2)
        return self._peaks[dtype]

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def allocated(self) -> int:
        """Bytes of tensors on the GPU; 0 in a dry run."""
        return torch.cuda.memory_allocated() if self.on_gpu else 0

    def peak(self, function: Callable[[], object]) -> int:
        """The most bytes of tensors that were on the GPU while the function ran; 0 in a dry run."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated() if self.on_gpu else 0

    def seconds(self, function: Callable[[], object], *, rounds: int, warm_up: int = 2) -> float:
        """Median time of a call."""
        times = []
        for _ in range(warm_up + rounds):
            self.wait()
            start = time.perf_counter()
            function()
            self.wait()
            times.append(time.perf_counter() - start)
        return median(times[warm_up:])


def describe(machine: Machine) -> dict[str, Any]:
    """Name, versions, and the speed of products and of copies."""
    figures: dict[str, Any] = {
        "card": torch.cuda.get_device_name() if machine.on_gpu else platform.processor() or "CPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "gemm_tflops_bfloat16": round(machine.peak_flops_per_s(torch.bfloat16) / 1e12, 1),
        "gemm_tflops_float32": round(machine.peak_flops_per_s(torch.float32) / 1e12, 1),
    }
    source = torch.ones(2**30 if machine.on_gpu else 2**20, dtype=torch.float32, device=machine.device)
    target = torch.empty_like(source)
    figures["copy_gb_per_s"] = round(2 * source.nbytes / machine.seconds(lambda: target.copy_(source), rounds=5) / 1e9)
    if machine.on_gpu:
        figures["memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    return figures


def packed_rows(num_rows: int, length: int, *, vocabulary: int, mean_document: int, seed: int = 0) -> PackedBatch:
    """Rows full of random documents, whose lengths are exponentially distributed."""
    random = np.random.default_rng(seed)
    begins = np.zeros(num_rows * length, bool)
    place = 0
    while place < len(begins):
        begins[place] = True
        place += 2 + int(random.exponential(mean_document))
    begins = begins.reshape(num_rows, length)
    begins[:, 0] = True
    index = np.arange(length)
    positions = index - np.maximum.accumulate(np.where(begins, index, 0), axis=1)
    columns = (random.integers(3, vocabulary, begins.shape), begins.cumsum(axis=1), positions)
    return batch_from_packed(*(torch.from_numpy(column) for column in columns))


def steps(
    machine: Machine, engine: Engine, model: PreTrainedModel, micro_batches: list[PackedBatch], *, rounds: int = 4
) -> dict[str, Any]:
    """Times optimiser steps on these micro-batches. Figures: tokens a second, memory at rest and at its peak, and MFU
    with attention counted in full (PaLM) and not at all."""
    labels = sum(batch.num_labels for batch in micro_batches)
    tokens = sum(batch.tokens_BT.numel() for batch in micro_batches)
    losses: list[float] = []

    def step() -> None:
        parts = [
            engine.backward(batch, scale=1 / labels, last=number == len(micro_batches))
            for number, batch in enumerate(micro_batches, 1)
        ]
        engine.step(1.0)
        losses.append(sum(part.item() for part in parts) / labels)

    step()  # makes the optimiser's state
    at_rest = machine.allocated()
    peak = machine.peak(step)
    step_s = machine.seconds(step, rounds=rounds, warm_up=0)
    length = micro_batches[0].tokens_BT.shape[1]

    def mfu(counted_length: int) -> float:
        operations = training_flops(shape_of(model), counted_length).total(tokens, labels)
        return round(operations / step_s / machine.peak_flops_per_s(machine.dtype), 4)

    return {
        "parameters": num_parameters(model),
        "tokens_per_s": round(tokens / step_s),
        "step_s": round(step_s, 4),
        "mfu": mfu(length),
        "mfu_products_alone": mfu(0),
        "rest_gib": round(at_rest / 2**30, 3),
        "peak_gib": round(peak / 2**30, 3),
        "loss_first": round(losses[0], 4),
        "loss_last": round(losses[-1], 4),
    }
