"""Loops for run_workers, plain functions of an importable module as in a stage."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from cluster import checkpoints
from cluster.workers import Worker


class Mistake(Exception):
    """A user's error: one string argument, from a module that the driver can import."""


def report(worker: Worker, config: dict[str, Any]) -> dict[str, Any]:
    """Returns what a worker sees of its environment, and the sum over all ranks of rank + 1."""
    import torch

    total = torch.tensor([worker.rank + 1.0])
    torch.distributed.all_reduce(total)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS", "EXTRA")
    return {
        "sum": total.item(),
        "rank": worker.rank,
        "world": worker.world,
        "device": worker.device,
        "resumed": worker.resume() is not None,
        "threads": torch.get_num_threads(),
        "environment": {name: os.environ.get(name) for name in names},
        "deepspeed": "deepspeed" in sys.modules,
        "listens": sorted({c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN}),
    }


def count(worker: Worker, config: dict[str, Any]) -> dict[str, Any]:
    """Sums the steps to config["steps"], each rank contributing its part, with a checkpoint every 2 steps.

    Each rank's checkpoint is a file of its own: the step and the total. kill: {rank: step} dies there, once for each
    `marks` folder. gate: {step: path} waits before that step until the file exists.
    """
    import torch

    start, total = 0, 0.0
    folder = worker.resume()
    if folder:
        files = sorted(folder.glob("rank-*"))
        start, total = int(files[0].read_text().split()[0]), float(files[0].read_text().split()[1])
    resumed = {"step": start, "files": sorted(file.name for file in folder.glob("rank-*"))} if folder else None
    for step in range(start + 1, config["steps"] + 1):
        wait_for_gate(config, step)
        part = torch.tensor([1.0 / worker.world])
        torch.distributed.all_reduce(part)
        total += part.item() * step
        worker.progress(step, {"total": total})
        if step % 2 == 0:
            worker.save(step, partial(write_total, worker.rank, step, total))
        kill_if_configured(worker, config, step)
        time.sleep(config.get("pause_s", 0.0))
    return {"total": total, "resumed": resumed, "world": worker.world}


def write_total(rank: int, step: int, total: float, folder: Path) -> None:
    (folder / f"rank-{rank}").write_text(f"{step} {total}")


def save_slowly(worker: Worker, config: dict[str, Any]) -> list[str]:
    """Saves three checkpoints, the second of which is written once this rank goes on; returns what happened.

    fill: rank whose disk is full at the second one."""
    events, gate = list[str](), Path(f"{config['gate']}-{worker.rank}")

    def write(step: int, folder: Path) -> None:
        if step == 2:
            if config.get("fill") == worker.rank:
                raise OSError(errno.ENOSPC, "No space left on device")
            while not gate.exists():
                time.sleep(0.02)
        (folder / f"rank-{worker.rank}").write_text(str(step))
        events.append(f"{step} written into {folder.parent.name}")

    for step in (1, 2):
        worker.save(step, partial(write, step))
        events.append(f"{step} goes on")
        while step == 1 and len(events) < 2:
            time.sleep(0.02)
    gate.touch()
    worker.save(3, partial(write, 3))
    return sorted(events[:2]) + events[2:4]


def report_and_save(worker: Worker, config: dict[str, Any]) -> dict[str, Any]:
    """What `report` and `save_slowly` return."""
    return {"report": report(worker, config), "saved": save_slowly(worker, config)}


def wait_for_gate(config: dict[str, Any], step: int) -> None:
    """Waits until a file exists, so that a test can act while the loop stands at a known step."""
    gate = config.get("gate", {}).get(step)
    while gate is not None and not Path(gate).exists():
        time.sleep(0.02)


def kill_if_configured(worker: Worker, config: dict[str, Any], step: int) -> None:
    """Kills this worker with SIGKILL at the step config["kill"][rank]: once, or in every attempt if config["always"].

    Once means: not before Ray Train has registered a checkpoint, from which the next attempt can resume."""
    if config.get("kill", {}).get(worker.rank) != step:
        return
    mark = Path(config["marks"]) / f"killed-{worker.rank}-{step}"
    if not mark.exists() or config.get("always"):
        mark.touch()
        while not config.get("always") and not registered(worker.folder):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)


def fail(worker: Worker, config: dict[str, Any]) -> None:
    """Raises in the last rank while the others wait for it in a collective operation."""
    import torch

    if worker.rank == worker.world - 1:
        raise Mistake("corpus.jsonl, line 3: not JSON")
    torch.distributed.barrier()


def registered(folder: Path) -> list[int]:
    """Steps of the checkpoints in a run's folder that Ray Train has registered: an attempt resumes from the last."""
    file = folder / checkpoints.COPY
    if not file.exists():
        return []
    return sorted(result["metrics"]["step"] for result in json.loads(file.read_text())["checkpoint_results"])


class Unpicklable(Exception):
    """Cannot be unpickled: its constructor takes two arguments."""

    def __init__(self, left: str, right: str):
        super().__init__(left)


def fail_unpicklable(worker: Worker, config: dict[str, Any]) -> None:
    """Raises an exception that cannot reach the driver."""
    raise Unpicklable("left", "right")
