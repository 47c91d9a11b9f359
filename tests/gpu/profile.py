"""Where the time of a training step goes: kernels of the GPU, calls of its driver, and functions of the host."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from pipelines.learning.engine import Engine
from pipelines.learning.model import NextTokenLearner, compile_layers
from tests.gpu.machine import Machine
from tests.gpu.speed import ADAMW, batches, new_model

LONGEST = 16  # entries of a list


def measurements(machine: Machine) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Two sizes, with compiled layers."""
    for size in ("350m", "1b"):
        yield f"profile of a step of {size}", partial(profiled, machine, size)


def profiled(machine: Machine, size: str) -> dict[str, Any]:
    """Milliseconds of one step on four micro-batches; the host's functions were measured in another one."""
    parts = batches(machine, size, 4)
    model = new_model(machine, size)
    compile_layers(model)
    with closing(Engine(NextTokenLearner(model).train(), [], ADAMW)) as engine:

        def step() -> None:
            for number, batch in enumerate(parts, 1):
                engine.backward(batch, scale=1e-5, last=number == len(parts))
            engine.step(1.0)
            machine.wait()

        step()
        figures = {"step_ms": round(1e3 * machine.seconds(step, rounds=3, warm_up=1), 1)}
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if machine.on_gpu else [])]
        with profile(activities=activities) as seen:
            step()
        host = cProfile.Profile()
        host.runcall(step)
    events = seen.key_averages()
    kernels = {e.key: e.self_device_time_total for e in events if e.device_type == DeviceType.CUDA}
    calls = {f"{e.key} x {e.count}": e.self_cpu_time_total for e in events}
    stats: Any = pstats.Stats(host)
    functions = {f"{file.rpartition('/')[2]}:{name} x {value[0]}": 1e6 * value[2]
                 for (file, _, name), value in stats.stats.items()}  # fmt: skip
    return figures | {
        "kernels_ms": round(sum(kernels.values()) / 1e3, 1),
        "kernels": longest(kernels),
        "calls": longest(calls),
        "host_functions": longest(functions),
    }


def longest(microseconds: dict[str, float]) -> dict[str, float]:
    """The entries that take most, in milliseconds."""
    names = sorted(microseconds, key=lambda name: -microseconds[name])[:LONGEST]
    return {name[:100]: round(microseconds[name] / 1e3, 2) for name in names}
