"""What an engine took beside what the formulas say: a figure by the way, which never ends work that is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipelines.inference import engine_size, weights
from pipelines.inference.estimates import Comparison, Engine, EngineWork, engine_bytes, engine_seconds
from pipelines.inference.hardware import PeakMemory, measured_speed


def compare(
    folder: Path,
    config: Mapping[str, Any],
    dtype: str,
    work: EngineWork,
    memory: PeakMemory,
    *,
    max_tokens: int,
    kv_cache_bytes: int,
    on_cpu: bool,
) -> Comparison:
    """The most memory that this process held, and what is planned for it and for work that was done; 0 is planned where
    the config is of a kind that the formulas do not know. Measures this process's speed."""
    memory_bytes = memory.bytes()  # before the products below, whose matrices are not the engine's
    try:  # configs name things in many ways
        weight_bytes = engine_size.weight_bytes(folder, dtype)
        engine = Engine(
            config, weights.num_parameters(folder), weight_bytes, dtype, max_tokens, kv_cache_bytes, on_cpu=on_cpu
        )
        planned_bytes = sum(engine_bytes(engine).values())
        device = "cpu" if on_cpu else "cuda"
        planned_s = engine_seconds(engine, work, measured_speed(device, getattr(torch, dtype)))
    except (AttributeError, KeyError, TypeError, ValueError, torch.OutOfMemoryError):
        return Comparison(memory_bytes, 0, 0.0)
    return Comparison(memory_bytes, planned_bytes, planned_s)
