"""A plain Worker, and functions run in processes that share a gloo group: training without Ray."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from pipelines.inference import hardware
from pipelines.learning import loop


class Killed(Exception):
    """Simulates the end of a process: what follows is not saved."""


class PlainWorker:
    """A rank of a torch process group. Checkpoints are folders; the newest is complete once all ranks have copied."""

    device = "cpu"

    def __init__(self, folder: Path, *, die_after: int | None = None):
        self.rank, self.world, self.local_rank = dist.get_rank(), dist.get_world_size(), dist.get_rank()
        self.folder = folder
        self.die_after = die_after
        self.reported: list[tuple[int, dict[str, float]]] = []
        self.saved: list[int] = []

    def resume(self) -> Path | None:
        done = sorted(self.folder.glob("*/complete"))
        return done[-1].parent if done else None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        place = self.folder / f"{step:06d}"
        place.mkdir(parents=True, exist_ok=True)
        write(place)
        dist.barrier()
        if self.rank == 0:
            (place / "complete").touch()
        dist.barrier()
        self.saved.append(step)
        if self.die_after is not None and step >= self.die_after:
            raise Killed

    def wait_until_written(self) -> None:
        """Nothing is written beside."""

    def progress(self, step: int, figures: dict[str, float]) -> None:
        self.reported.append((step, figures))


# Imported once, by a process that all others are forked from: they take 6 s of a core to import.
PRELOADED = ["pipelines.learning.loop", "pipelines.learning.adapters", "pipelines.learning.pairs"]


def in_processes(
    function: Callable[..., None], world: int, folder: Path, *args: Any, method: str = "forkserver"
) -> None:
    """Runs function(folder, *args) in `world` processes of one thread each, in one group; raises what one raised.

    method: how they start; "spawn": with nothing imported, and with this process's environment variables."""
    group = folder / f"group-{world}"
    multiprocessing.set_forkserver_preload(PRELOADED)
    arguments = (world, group, function, folder, *args)
    torch.multiprocessing.start_processes(_process, arguments, nprocs=world, start_method=method)


def _process(rank: int, world: int, group: Path, function: Callable[..., None], folder: Path, *args: Any) -> None:
    gc.freeze()  # DeepSpeed collects garbage in each engine, over and over through all that was imported: 1 s at ZeRO 3
    torch.set_num_threads(1)
    # Half a second of measuring before each of hundreds of runs; what is measured is tested in test_throughput.py.
    loop.peak_flops_per_s = partial(hardware.peak_flops_per_s, seconds=0.02)
    loop.copy_bytes_per_s = partial(hardware.copy_bytes_per_s, tries=1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    dist.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=world)
    function(folder, *args)
    dist.barrier()
    dist.destroy_process_group()
    # DeepSpeed keeps its process groups, so gloo's threads live on. One that lets go of a tensor while the interpreter
    # is being taken down aborts the process (pytorch issue 190489). All is done and on disk: leave without that.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def anonymous_bytes() -> int:
    """Resident anonymous memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) * 1024
