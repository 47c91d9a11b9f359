"""What a stage asks for, as Ray wants to hear it, and whether the cluster can ever give it.

    Resources(workers=2, cpus_per_worker=1, threads=1) ─► bundles [{"CPU": 1}, {"CPU": 1}] ─► workers.py, gang.py

CPU and GPU alike: only the numbers differ. Logical CPUs are labels; threads are what a worker really uses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.errors import ClusterError
from cluster.nodes import Node, NodeType, alive, lost, possible

POLL_S = 0.5
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """CPU cores that this process may use; where the system does not say, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Resources:
    """workers: processes, one rank each. cpus_per_worker, gpus_per_worker: Ray's logical units, fractions allowed.

    threads: of each worker's own arithmetic (OpenMP, torch). memory_bytes: of each worker, for scheduling only.
    """

    workers: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    threads: int = 1
    memory_bytes: int | None = None

    @property
    def bundle(self) -> dict[str, float]:
        """What one worker takes, without zeros; {} when it takes nothing that is counted."""
        asked = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker, "memory": self.memory_bytes or 0}
        return {name: amount for name, amount in asked.items() if amount}

    @property
    def bundles(self) -> list[dict[str, float]]:
        return [self.bundle] * self.workers

    @property
    def environment(self) -> dict[str, str]:
        """Variables that hold a worker to its threads; they count only if set before its libraries are imported."""
        return {name: str(self.threads) for name in THREAD_VARIABLES}

    def check(self, what: str, *, wait_s: float = 0.0, say: Callable[[str], Any] = lambda text: None) -> None:
        """Raises ClusterError if the cluster can never give this, with the nodes it has and those it may add.

        Without this Ray waits for ever. What is only taken at the moment is no error: it is waited for. Nor is, for
        `wait_s`, what is only missing because nodes were lost since we connected: they may come back.
        """
        end, told = time.monotonic() + wait_s, False
        while True:
            found, addable = alive(), possible()
            if addable is None or self.room(found, addable) >= self.workers:  # None: limits that cannot be known
                return
            gone = lost(found)
            if self.room(found + gone, addable) < self.workers or time.monotonic() >= end:
                break
            if not told:
                say(f"{what}: waits up to {wait_s:.0f} s for {_nodes_text(gone)} that was lost, or others in its place")
                told = True
            time.sleep(POLL_S)
        raise ClusterError(
            f"{what}: asks for {self.workers} x {_text(self.bundle)}; the cluster has {_nodes_text(found)}"
            f"{_types_text(addable)}, room for {self.room(found, addable)}"
            f"{f', and lost {_nodes_text(gone)}' if gone else ''}. "
            f"Ask for less in the recipe's cluster section (workers, cpus_per_worker, gpus_per_worker) or add nodes"
        )

    def room(self, found: list[Node], addable: list[NodeType]) -> int:
        """How many workers fit, if nothing else ran, on these nodes and those that may be added."""
        here = sum(self._fit(node.resources) for node in found)
        return here + sum(self._fit(kind.resources) * kind.most for kind in addable)

    def _fit(self, resources: dict[str, float]) -> int:
        counts = [int(resources.get(name, 0) / amount + 1e-9) for name, amount in self.bundle.items()]
        return min(counts, default=self.workers)


def _text(bundle: dict[str, float]) -> str:
    units = {name: f"{amount:g} {name}" for name, amount in bundle.items()}
    if "memory" in units:
        units["memory"] = f"{bundle['memory'] / 1e9:.1f} GB memory"
    return "{" + ", ".join(units.values()) + "}"


def _nodes_text(found: list[Node]) -> str:
    sizes = [f"{node.host}: {_text({k: v for k, v in node.resources.items() if v})}" for node in found[:8]]
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return f"{len(found)} node{'s' if len(found) != 1 else ''} ({'; '.join(sizes)}{more})"


def _types_text(addable: list[NodeType]) -> str:
    if not addable:
        return ""
    return " and may add " + ", ".join(f"{kind.most} x {kind.name} {_text(kind.resources)}" for kind in addable)
