"""The nodes of the cluster, the node types that an autoscaler may add, and a check that all nodes share a folder."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # `ray up` leaves its configuration here, on the head

POLL_S = 0.2

_seen: dict[str, Node] = {}  # by address: nodes that were alive at any time since this process connected to Ray


@dataclass(frozen=True)
class Node:
    """A node of the cluster. cpus and gpus are Ray's logical ones: labels for scheduling, not measured."""

    id: str
    host: str
    address: str
    cpus: float
    gpus: float
    memory_bytes: int
    accelerator: str | None = None  # as Ray names it, for example "H100"

    @property
    def resources(self) -> dict[str, float]:
        """The node's resources by Ray's names."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes}


@dataclass(frozen=True)
class NodeType:
    """A type of node that an autoscaler may add, and the largest number of them."""

    name: str
    resources: dict[str, float]
    max_nodes: int


def alive() -> list[Node]:
    """The nodes that are alive now, the head first as Ray lists them. Ray must have been started."""
    import ray

    present = [_node(entry) for entry in ray.nodes() if entry["Alive"]]
    _seen.update({node.address: node for node in present})
    return present


def free_gpus(enough: int, *, wait_s: float) -> int:
    """Whole GPUs that nothing holds now. Waits for so many for a moment: Ray learns late of what has ended."""
    import ray

    end = time.monotonic() + wait_s
    while True:
        free = int(ray.available_resources().get("GPU", 0))
        if free >= enough or time.monotonic() >= end:
            return free
        time.sleep(POLL_S)


def lost(present: list[Node]) -> list[Node]:
    """The nodes that were alive before and are not among `present`. They, or replacements, may still join."""
    addresses = {node.address for node in present}
    return [node for address, node in _seen.items() if address not in addresses]


def forget() -> None:
    """Clears the record of nodes seen: this process connects to another Ray."""
    _seen.clear()


def _node(entry: dict[str, Any]) -> Node:
    """A node from an entry of ray.nodes()."""
    resources = entry["Resources"]
    accelerators = [name.split(":", 1)[1] for name in resources if name.startswith("accelerator_type:")]
    return Node(
        id=entry["NodeID"],
        host=entry["NodeManagerHostname"],
        address=entry["NodeManagerAddress"],
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_bytes=int(resources.get("memory", 0)),
        accelerator=accelerators[0] if accelerators else None,
    )


def possible() -> list[NodeType] | None:
    """The node types an autoscaler may add: [] without an autoscaler, None if its limits cannot be known.

    A cluster of `ray up` has its configuration on the head, where a job's driver runs. KubeRay does not tell its pods
    the limits, so there a request has to be made and waited for.
    """
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    path = BOOTSTRAP.expanduser()
    if not path.is_file():
        return []
    import yaml

    config = yaml.safe_load(path.read_text())
    head = config.get("head_node_type")
    return [
        NodeType(name, entry["resources"], entry.get("max_workers", config.get("max_workers", 2)))
        for name, entry in config.get("available_node_types", {}).items()
        if name != head and entry.get("resources")
    ]


def check_shared(folder: Path, *, deadline_s: float = 60.0) -> None:
    """Raises ClusterError, naming the node, unless every node sees this machine's files in `folder` and vice versa."""
    nodes = alive()
    if len(nodes) == 1 and _is_this_node(nodes[0]):
        return
    try:
        _check_shared(nodes, folder, deadline_s)
    except ClusterError:
        remaining = alive()
        if len(remaining) == len(nodes):
            raise
        _check_shared(remaining, folder, deadline_s)  # a node was lost meanwhile: that is no fault of the folder


def _check_shared(nodes: list[Node], folder: Path, deadline_s: float) -> None:
    token = uuid.uuid4().hex
    token_file = folder / f".shared-{token}"
    token_file.write_text(token)
    try:
        for node, problem in _probe(nodes, folder, token, deadline_s):
            if problem:
                raise ClusterError(
                    f"{folder}: node {node.host} ({node.address}) {problem}; expected a folder that all "
                    f"{len(nodes)} nodes and this machine share. Mount one (NFS, EFS, Lustre) at the same path on "
                    f"every node; for a store of objects set RAYSE_SCRATCH to it, else name it with --store"
                )
    finally:
        for leftover in folder.glob(f".shared-{token}*"):
            leftover.unlink(missing_ok=True)


def _is_this_node(node: Node) -> bool:
    """Whether this process runs on that node; behind ray:// it runs on none."""
    import ray
    from ray.util.client import ray as client

    return not client.is_connected() and ray.get_runtime_context().get_node_id() == node.id


def _probe(nodes: list[Node], folder: Path, token: str, deadline_s: float) -> list[tuple[Node, str | None]]:
    """Lets every node read our token and write its own, then reads theirs. Returns each node's problem, or None."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(_read_and_write)
    calls = []
    for node in nodes:
        on_node = NodeAffinitySchedulingStrategy(node.id, soft=False)
        calls.append(task.options(scheduling_strategy=on_node).remote(str(folder), token, node.id))
    ray.wait(calls, num_returns=len(calls), timeout=deadline_s)
    problems = []
    for node, call in zip(nodes, calls, strict=True):
        try:
            problem = ray.get(call, timeout=0)
        except GetTimeoutError:
            problem = f"did not answer within {deadline_s:.0f} s"
        except RayError as error:
            problem = f"failed ({' '.join(str(error).split())[:200]})"
        if problem is None and not _appears(folder / f".shared-{token}-{node.id}", node.id):
            problem = "wrote a file there that this machine does not see"
        problems.append((node, problem))
    return problems


def _read_and_write(folder: str, token: str, name: str) -> str | None:
    """Runs on a node. Returns what is wrong with the folder there, or None."""
    if not os.path.isdir(folder):
        return "does not have it"
    if not _appears(Path(folder) / f".shared-{token}", token):
        return "does not see a file that this machine wrote there"
    try:
        (Path(folder) / f".shared-{token}-{name}").write_text(name)
    except OSError as error:
        return f"cannot write there ({error.strerror})"
    return None


def _appears(path: Path, text: str, seconds: float = 10.0) -> bool:
    """Whether the file exists with this text; network file systems may show it some seconds late."""
    end = time.monotonic() + seconds
    while not (path.is_file() and path.read_text() == text):
        if time.monotonic() > end:
            return False
        os.listdir(path.parent)  # makes an NFS client query the server again
        time.sleep(0.2)
    return True
