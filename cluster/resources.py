"""The resources that a stage requests, in Ray's terms, and a check that the cluster can ever provide them.

    Resources(workers=2, cpus_per_worker=1, threads=1) ─► bundles [{"CPU": 1}, {"CPU": 1}] ─► workers.py, gang.py

The same code serves CPUs and GPUs. Logical CPUs are labels; `threads` is what a worker really uses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import ClusterError
from cluster.nodes import Node, NodeType, alive, lost, possible

POLL_S = 0.5
MAX_BUNDLES, MAX_PLACEMENTS = 500, 100_000  # less than a second
# oneDNN keeps 1,024 kernels by default, of 160 KiB each in 16 bits, one for each number of rows; that of the tokens
# that are learnt changes from step to step (docs/planning.md).
KEPT_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """CPU cores that this process may use; those of the machine where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Resources:
    """What a stage requests. workers: number of processes, a rank each.

    cpus_per_worker, gpus_per_worker: Ray's logical units, fractions allowed. threads: of each worker's arithmetic
    (OpenMP, torch). memory_bytes: of each worker, for scheduling only.
    """

    workers: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    threads: int = 1
    memory_bytes: int | None = None

    @property
    def bundle(self) -> dict[str, float]:
        """The resources of one worker, without zeros; {} if it takes none that Ray counts."""
        amounts = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker, "memory": self.memory_bytes or 0}
        return {name: amount for name, amount in amounts.items() if amount}

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The bundle of each worker."""
        return [self.bundle] * self.workers

    @property
    def environment(self) -> dict[str, str]:
        """Variables that limit a worker to its threads, and what it keeps; they must be set before its libraries are
        imported."""
        return {name: str(self.threads) for name in THREAD_VARIABLES} | KEPT_KERNELS

    def check(self, name: str, *, wait_s: float = 0.0, on_message: Callable[[str], Any] = lambda text: None) -> None:
        """Raises ClusterError if the cluster can never provide this, with its nodes and those it may add.

        Without this check Ray waits forever. Resources that are only in use are no error: Ray waits for them. For
        `wait_s`, neither are those that are missing because nodes were lost since we connected: they may come back.
        name: who requests the resources, for messages.
        """
        end, notified = time.monotonic() + wait_s, False
        while True:
            present, addable = alive(), possible()
            if addable is None or self.capacity(present, addable) >= self.workers:  # None: the limits cannot be known
                return
            gone = lost(present)
            if self.capacity(present + gone, addable) < self.workers or time.monotonic() >= end:
                break
            if not notified:
                wait = f"waits up to {wait_s:.0f} s for {_nodes_text(gone)} that was lost, or others in its place"
                on_message(f"{name}: {wait}")
                notified = True
            time.sleep(POLL_S)
        raise ClusterError(
            f"{name}: asks for {self.workers} x {_text(self.bundle)}; the cluster has {_nodes_text(present)}"
            f"{_types_text(addable)}, room for {self.capacity(present, addable)}"
            f"{f', and lost {_nodes_text(gone)}' if gone else ''}. "
            f"Ask for less in the recipe's cluster section (workers, cpus_per_worker, gpus_per_worker) or add nodes"
        )

    def capacity(self, nodes: list[Node], addable: list[NodeType]) -> int:
        """How many workers fit on these nodes and those that may be added, if nothing else ran there."""
        present = sum(self._fit(node.resources) for node in nodes)
        return present + sum(self._fit(type_.resources) * type_.max_nodes for type_ in addable)

    def _fit(self, resources: dict[str, float]) -> int:
        """How many workers fit on a node with these resources."""
        counts = [int(resources.get(name, 0) / amount + 1e-9) for name, amount in self.bundle.items()]
        return min(counts, default=self.workers)


def check_together(name: str, requests: Sequence[Resources]) -> None:
    """Raises ClusterError if the cluster can never provide all of these at once, each of which it can provide alone.

    name: who requests them, for messages."""
    present, addable = alive(), possible()
    if addable is None:  # the limits cannot be known
        return
    rooms = [node.resources for node in present]
    rooms += [type_.resources for type_ in addable for _ in range(type_.max_nodes)]
    bundles = [bundle for request in requests for bundle in request.bundles]
    if not fit_together(bundles, rooms):
        wanted = ", ".join(f"{request.workers} x {_text(request.bundle)}" for request in requests)
        raise ClusterError(f"{name}: together ask for {wanted}; the cluster has {_nodes_text(present)}"
                           f"{_types_text(addable)}, which has no room for all of them at once. Ask for less, or add "
                           f"nodes")  # fmt: skip


def fit_together(bundles: Sequence[dict[str, float]], rooms: Sequence[dict[str, float]]) -> bool:
    """Whether each of the bundles has a place in one of the rooms, beside the others; True, too, where there
    are more than MAX_BUNDLES, or it takes more than MAX_PLACEMENTS to find out.

    >>> fit_together([{"CPU": 3}, {"CPU": 3}, {"CPU": 2}], [{"CPU": 4}, {"CPU": 4}])
    False
    """
    ordered = sorted(bundles, key=lambda bundle: (bundle.get("GPU", 0), bundle.get("CPU", 0)), reverse=True)
    tried = 0

    def place(number: int, free: list[dict[str, float]]) -> bool:
        nonlocal tried
        if number == len(ordered) or tried >= MAX_PLACEMENTS:
            return True
        bundle, seen = ordered[number], list[dict[str, float]]()
        for index, room in enumerate(free):
            tried += 1
            if room in seen or any(room.get(name, 0) + 1e-9 < amount for name, amount in bundle.items()):
                continue
            seen.append(room)  # of alike rooms one will do
            left = {name: amount - bundle.get(name, 0) for name, amount in room.items()}
            if place(number + 1, [*free[:index], left, *free[index + 1 :]]):
                return True
        return False

    names = {name for bundle in bundles for name in bundle}  # no two nodes have as many bytes of memory
    return len(ordered) > MAX_BUNDLES or place(0, [{name: room.get(name, 0) for name in names} for room in rooms])


def _text(bundle: dict[str, float]) -> str:
    units = {name: f"{amount:g} {name}" for name, amount in bundle.items()}
    if "memory" in units:
        units["memory"] = f"{bundle['memory'] / 1e9:.1f} GB memory"
    return "{" + ", ".join(units.values()) + "}"


def _nodes_text(nodes: list[Node]) -> str:
    sizes = [f"{node.host}: {_text({k: v for k, v in node.resources.items() if v})}" for node in nodes[:8]]
    more = f" and {len(nodes) - 8} more" if len(nodes) > 8 else ""
    return f"{len(nodes)} node{'s' if len(nodes) != 1 else ''} ({'; '.join(sizes)}{more})"


def _types_text(addable: list[NodeType]) -> str:
    if not addable:
        return ""
    return " and may add " + ", ".join(
        f"{type_.max_nodes} x {type_.name} {_text(type_.resources)}" for type_ in addable
    )
