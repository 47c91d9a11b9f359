"""run_workers: one function on N Ray Train workers, with checkpoints, restarts and progress.

The only door to ray.train.

    driver ── run_workers ──► controller (Ray Train) ──► rank 0 … rank N-1: loop(worker, config)
                 ▲                                          │ save():     storage/name/checkpoint_*/ (all ranks' files)
                 └── on_progress ◄── progress.jsonl ◄───────┘ progress(): rank 0 only

The same storage and name go on from the last complete checkpoint, whatever was killed and with any number of workers.
A worker that dies is a failure of the machine: the group starts again, up to max_failures times. An exception of the
loop is a result: it comes back as it was raised, at once, because it would be raised again.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import ray.train.collective
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from cluster import checkpoints, nodes, progress
from cluster.errors import ClusterError, disk_full, travelling
from cluster.orphans import free_orphans
from cluster.progress import Tail, read_progress
from cluster.rendezvous import group_environment, lost_peer, reserve_port
from cluster.resources import Resources
from cluster.session import log_place, tell

__all__ = ["Worker", "read_progress", "run_workers"]

Loop = Callable[["Worker", dict[str, Any]], Any]

START_S = 900.0  # an autoscaler needs minutes; what can never fit is refused
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # how soon an end or a death is seen; 2 s by default
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{START_S:.0f}",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a path in a config means the same here and in a worker
}


def run_workers(
    loop: Loop,
    config: dict[str, Any],
    *,
    resources: Resources,
    storage: Path,
    name: str,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    max_failures: int = 3,
    env: dict[str, str] | None = None,
    say: Callable[[str], Any] | None = None,
) -> Any:
    """Runs loop(worker, config) on each worker and returns what rank 0 returned (what pickles, but no tensors).

    loop: a function of an importable module; it and config travel by pickle. storage: a folder that all nodes share.
    env: variables set before a worker imports anything. say: told of each restart.
    Raises ClusterError when workers were lost more than max_failures times without a checkpoint between, naming rank,
    node and logs; an exception of the loop as itself.
    """
    place = storage.absolute() / name
    place.mkdir(parents=True, exist_ok=True)
    one_node = _set_environment()
    payload = {"loop": loop, "config": config, "threads": resources.threads, "place": str(place)}
    variables = {**resources.environment, **group_environment(loopback=one_node), **(env or {})}
    failures, reached = 0, ""
    with Tail(place / progress.FILE, on_progress):
        while True:
            resources.check(f"workers of {name}", wait_s=START_S, say=say or tell)
            checkpoints.tidy(place)
            outcome = _attempt(payload, resources, place, variables)
            if not isinstance(outcome, _Lost):
                return outcome
            newest = max((path.name for path in place.glob("checkpoint_*")), default="")
            failures, reached = (failures + 1 if newest == reached else 1), newest
            if failures > max_failures:
                break
            if say:
                say(f"{outcome.text}; starting again from the last checkpoint ({failures} of {max_failures})")
    raise ClusterError(
        f"workers of {name}: {outcome.text}, the last of {failures} times without a checkpoint between; expected them "
        f"to live until the end. Logs: {log_place()}. Look there, and for a lack of memory on that node; run again to "
        f"go on from the last checkpoint"
    )


def _set_environment() -> bool:
    """Ray Train reads its settings from our environment. Returns whether all runs on this machine's loopback."""
    one_node = [node.address for node in nodes.alive()] == ["127.0.0.1"]
    settings = dict(TRAIN_ENVIRONMENT)
    if one_node:
        settings["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # one process less: nobody takes our own machine away
    for variable, value in settings.items():
        os.environ.setdefault(variable, value)
    return one_node


# ---- driver -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lost:
    """Workers were lost. text: which, where and why."""

    text: str


FREE_S = 2.0  # within which Ray knows that a controller is dead
NOT_NEEDED = ("DatasetsCallback", "PlacementGroupCleanerCallback")  # a process each, 1.5 s of CPU at every start


class _OneView(Backend):
    """Workers of a node see each other's GPUs, as NCCL wants. The process group is made in the workers, by _join_group:
    TorchTrainer would import torch in the driver and in the controller as well, 1.3 s of CPU each."""

    share_cuda_visible_devices = True


class _OneViewConfig(BackendConfig):
    @property
    def backend_cls(self) -> type[Backend]:
        return _OneView


class _Trainer(DataParallelTrainer):
    """Ray Train without what is not needed here; if a name changes in Ray the process is back, nothing breaks.

    Ctrl-C is left to the caller: Ray's own handler would stay in place after fit() and end the program with code 0.
    """

    controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        self.controller = controller

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in NOT_NEEDED]


class _KeepCopy(ray.train.UserCallback):
    """Runs in the controller. Ray Train calls it after it has written its list of checkpoints."""

    def __init__(self, place: str):
        self.place = place

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        checkpoints.keep_copy(Path(self.place))


def _attempt(payload: dict[str, Any], resources: Resources, place: Path, variables: dict[str, str]) -> Any:
    """One life of the group: rank 0's value, or _Lost. Raises what the loop raised."""
    trainer = _Trainer(
        _run,
        train_loop_config=payload,
        backend_config=_OneViewConfig(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=resources.bundle or {"CPU": 0},
        ),
        run_config=ray.train.RunConfig(
            name=place.name,
            storage_path=str(place.parent),
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[_KeepCopy(str(place))],
            worker_runtime_env={"env_vars": variables},
        ),
    )
    try:
        return trainer.fit().return_value
    except ray.train.WorkerGroupError as error:
        return _judge(error)
    except ray.train.ControllerError as error:
        if type(error.controller_failure).__name__ != "WorkerGroupStartupFailedError":
            reason = _last_line(error)
            raise ClusterError(f"workers of {place.name}: Ray Train failed ({reason}). Logs: {log_place()}") from error
        return _Lost(f"a worker died while it started ({_last_line(error)})")
    except RayActorError as error:
        free_orphans(wait_s=FREE_S)
        if "creation task" in str(error):  # its constructor raised, and would again
            reason = _last_line(error)
            raise ClusterError(f"workers of {place.name} did not start: {reason}. Logs: {log_place()}") from error
        return _Lost(f"Ray Train's controller died ({_last_line(error)})")
    except BaseException:  # Ctrl-C: end the workers before anybody else cleans up
        _abort(trainer.controller)
        free_orphans(wait_s=FREE_S)
        raise
    finally:
        if trainer.controller is not None:  # or it takes its time to go, with 150 MB
            ray.kill(trainer.controller)


def _abort(controller: Any) -> None:
    if controller is not None:
        with contextlib.suppress(RayActorError, GetTimeoutError):
            ray.get(controller.abort.remote(), timeout=10)
        ray.kill(controller)


def _judge(error: ray.train.WorkerGroupError) -> _Lost:
    """Tells a lost worker from an exception of the loop, and raises the latter.

    When one worker dies the others fail too, on a closed connection: only what fails without a death is the loop's own.
    """
    failures = dict(sorted(error.worker_failures.items()))
    own = {rank: e for rank, e in failures.items() if not _is_death(e)}
    if len(own) < len(failures):
        rank, death = next((rank, e) for rank, e in failures.items() if rank not in own)
        return _Lost(f"rank {rank} on node {_node_of(death)} died ({_reason(death)})")
    for rank, exception in own.items():
        if not lost_peer(exception):
            exception.add_note(f"raised by rank {rank}; logs: {log_place()}\n{error}")
            raise exception
    rank, exception = next(iter(own.items()))
    return _Lost(f"rank {rank} lost another worker ({_last_line(exception)})")


def _is_death(error: BaseException) -> bool:
    return isinstance(error, RayActorError) or type(error).__name__.startswith("WorkerHealthCheck")


def _node_of(error: BaseException) -> str:
    address = re.search(r"\bip: (\S+)", str(error))
    return address.group(1) if address else "unknown"


def _reason(error: BaseException) -> str:
    detail = re.search(r"Worker exit detail: (.+?)(?: Some common causes|$)", str(error), re.MULTILINE)
    return " ".join((detail.group(1) if detail else _last_line(error)).split())[:300]


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


# ---- worker -------------------------------------------------------------------------------------------------------


def _run(payload: dict[str, Any]) -> Any:
    """What Ray Train calls in each worker."""
    import torch

    torch.set_num_threads(payload["threads"])
    worker = Worker(Path(payload["place"]))
    if worker.rank == 0:
        progress.cut(worker.place / progress.FILE, worker.resumed_step)
    _join_group(worker)
    try:
        value = payload["loop"](worker, payload["config"])
    except Exception as error:
        raise _told(error, worker.place) from None
    torch.distributed.destroy_process_group()
    return value if worker.rank == 0 else None


def _join_group(worker: Worker) -> None:
    """Makes torch's process group, NCCL on GPUs and gloo on CPUs, with torchrun's variables set.

    The store it meets in listens on the node's address only: on a local Ray that is loopback.
    """
    import torch
    from torch.distributed import TCPStore

    timeout = timedelta(minutes=30)
    store, here = None, None
    if worker.rank == 0:
        address = ray.util.get_node_ip_address()
        listening = reserve_port(address)
        listening.listen()
        here = (address, listening.getsockname()[1])
        listener = listening.detach()
        store = TCPStore(*here, worker.world, True, timeout, wait_for_workers=False, master_listen_fd=listener)
    address, port = cast(tuple[str, int], ray.train.collective.broadcast_from_rank_zero(here))
    store = store or TCPStore(address, port, worker.world, False, timeout)
    _set_variables(worker, address, port)
    device = torch.device(worker.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(
        backend, store=store, rank=worker.rank, world_size=worker.world, timeout=timeout
    )


def _set_variables(worker: Worker, address: str, port: int) -> None:
    context = ray.train.get_context()
    os.environ.update(
        RANK=str(worker.rank),
        WORLD_SIZE=str(worker.world),
        LOCAL_RANK=str(worker.local_rank),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()),
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
    )


def _told(error: Exception, place: Path) -> Exception:
    """The exception as the driver should see it: a full disk is the machine's failure, and it must pickle (or else Ray
    would call the worker dead)."""
    if disk_full(error):
        return ClusterError(
            f"{place}: the disk is full ({str(error)[:200]}); the last complete checkpoint is intact. "
            f"Make room and run again"
        )
    return travelling(error)


class Worker:
    """What a loop knows of the group it is in. rank, world, local_rank; device: "cpu" or "cuda:<index>"."""

    def __init__(self, place: Path):
        context = ray.train.get_context()
        self.place = place
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        self.local_rank: int = context.get_local_rank()
        self.device = _device()
        self._checkpoint = ray.train.get_checkpoint()
        self.resumed_step: int = self._checkpoint.get_metadata()["step"] if self._checkpoint else -1

    def resume(self) -> Path | None:
        """The folder of the last complete checkpoint, with the files of all ranks that made it; None at the start."""
        return Path(self._checkpoint.path) if self._checkpoint else None

    def save(self, step: int, folder: Path) -> None:
        """Adds a checkpoint. All ranks call it together, each with a folder of its own files (distinct names).

        It counts once every rank's files are copied; the last two are kept.
        """
        checkpoint = ray.train.Checkpoint.from_directory(str(folder))
        if self.rank == 0:
            checkpoint.set_metadata({"step": step})
        ray.train.report({"step": step}, checkpoint=checkpoint)

    def progress(self, step: int, figures: dict[str, float]) -> None:
        """Figures of a step, for the curve and for who watches. Rank 0's count; cheap, and no barrier."""
        if self.rank == 0:
            progress.append(self.place / progress.FILE, step, figures)


def _device() -> str:
    """The worker's own GPU, as an index into those its node's workers see, or the CPU."""
    if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        return "cpu"
    from ray.train.torch import get_device

    return str(get_device())
