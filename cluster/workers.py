"""run_workers: runs a function on N Ray Train workers, with checkpoints, restarts and progress.

The only module that imports ray.train.

    driver ── run_workers ──► controller (Ray Train) ──► rank 0 … rank N-1: loop(worker, config)
                 ▲                                          │ save():     storage/name/checkpoint_*/ (all ranks' files)
                 └── on_progress ◄── progress.jsonl ◄───────┘ progress(): rank 0 only

With the same storage and name a run resumes from the last complete checkpoint, whatever was killed, on any number of
workers. A worker that dies is a failure of the machine: the group is restarted, up to max_failures times. An exception
of the loop is raised in the driver at once, because it would be raised again.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import ray.train.collective
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from cluster import checkpoints, nodes, progress
from cluster.errors import ClusterError, portable
from cluster.loading import loading
from cluster.orphans import free_orphans
from cluster.progress import Tail, read_progress
from cluster.rendezvous import group_environment, lost_peer, reserve_port
from cluster.resources import Resources
from cluster.session import log_location, notify

__all__ = ["Worker", "read_progress", "run_workers"]

Loop = Callable[["Worker", dict[str, Any]], Any]

START_S = 900.0  # an autoscaler needs minutes; what can never fit is refused
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # how soon the end of a worker is noticed; 2 s by default
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
    modules: Sequence[str] = (),
    on_message: Callable[[str], Any] | None = None,
) -> Any:
    """Runs loop(worker, config) on each worker and returns the value of rank 0 (picklable, no tensors).

    loop: a function of an importable module; it and config are pickled. storage: a folder that all nodes share.
    env: variables set before a worker imports anything. modules: imports of the loop, made faster before it starts.
    on_message: receives a line about each restart.
    Raises ClusterError, naming rank, node and logs, if workers were lost more than max_failures times without a
    checkpoint between; an exception of the loop as it was raised.
    """
    folder = storage.absolute() / name
    folder.mkdir(parents=True, exist_ok=True)
    _set_environment()
    pickled = cloudpickle.dumps((loop, config))  # unpickling imports modules: _run does so without garbage collection
    payload = {"loop": pickled, "modules": tuple(modules), "threads": resources.threads, "folder": str(folder)}
    variables = {**resources.environment, **(env or {})}
    num_failures, last_checkpoint = 0, ""
    with Tail(folder / progress.FILE, on_progress):
        while True:
            resources.check(f"workers of {name}", wait_s=START_S, on_message=on_message or notify)
            checkpoints.repair(folder)
            outcome = _attempt(payload, resources, folder, variables)
            if not isinstance(outcome, _Lost):
                return outcome
            newest = checkpoints.newest(folder)
            num_failures = num_failures + 1 if newest == last_checkpoint else 1
            last_checkpoint = newest
            if num_failures > max_failures:
                break
            if on_message:
                restart = f"starting again from the last checkpoint ({num_failures} of {max_failures})"
                on_message(f"{outcome.text}; {restart}")
    raise ClusterError(
        f"workers of {name}: {outcome.text}, the last of {num_failures} times without a checkpoint between; expected "
        f"them to live until the end. Logs: {log_location()}. Look there, and for a lack of memory on that node; "
        f"run again to resume from the last checkpoint"
    )


def _set_environment() -> None:
    """Sets the environment variables that configure Ray Train."""
    settings = dict(TRAIN_ENVIRONMENT)
    if [node.address for node in nodes.alive()] == ["127.0.0.1"]:
        settings["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # saves a process: a local machine is not preempted
    for variable, value in settings.items():
        os.environ.setdefault(variable, value)


# ---- driver -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lost:
    """Workers were lost. text: which ones, where and why."""

    text: str


FREE_S = 2.0  # within which Ray notices that a controller is dead
UNUSED_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")  # each starts a process: 1.5 s of CPU


class _SharedGpuView(Backend):
    """Makes the GPUs of a node visible to all its workers, as NCCL requires. TorchTrainer would make the process group
    too, which _join_group does, but import torch in the driver and in the controller as well, 1.3 s of CPU each."""

    share_cuda_visible_devices = True


class _SharedGpuViewConfig(BackendConfig):
    """Selects _SharedGpuView."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _SharedGpuView


class _Trainer(DataParallelTrainer):
    """Ray Train without callbacks that are not used here; if Ray renames one, its process is started again.

    Ctrl-C is left to the caller: Ray's handler would stay in place after fit() and end the program with code 0.
    """

    controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        self.controller = controller

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in UNUSED_CALLBACKS]


class _CopyCheckpointList(ray.train.UserCallback):
    """Runs in the controller. Ray Train calls it after it has written its list of checkpoints."""

    def __init__(self, folder: str):
        self.folder = folder

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        checkpoints.copy_list(Path(self.folder))


def _attempt(payload: dict[str, Any], resources: Resources, folder: Path, variables: dict[str, str]) -> Any:
    """Runs the group once. Returns rank 0's value, or _Lost. Raises the exceptions of the loop."""
    trainer = _Trainer(
        _run,
        train_loop_config=payload,
        backend_config=_SharedGpuViewConfig(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=resources.bundle or {"CPU": 0},
        ),
        run_config=ray.train.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[_CopyCheckpointList(str(folder))],
            worker_runtime_env={"env_vars": variables},
        ),
    )
    try:
        return trainer.fit().return_value
    except ray.train.WorkerGroupError as error:
        return _classify(error)
    except ray.train.ControllerError as error:
        if type(error.controller_failure).__name__ != "WorkerGroupStartupFailedError":
            reason = _last_line(error)
            raise ClusterError(
                f"workers of {folder.name}: Ray Train failed ({reason}). Logs: {log_location()}"
            ) from error
        return _Lost(f"a worker died while it started ({_last_line(error)})")
    except RayActorError as error:
        free_orphans(wait_s=FREE_S)
        if "creation task" in str(error):  # its constructor raised, and would again
            reason = _last_line(error)
            raise ClusterError(f"workers of {folder.name} did not start: {reason}. Logs: {log_location()}") from error
        return _Lost(f"Ray Train's controller died ({_last_line(error)})")
    except BaseException:  # Ctrl-C: end the workers before the callers clean up
        _abort(trainer.controller)
        free_orphans(wait_s=FREE_S)
        raise
    finally:
        if trainer.controller is not None:  # else it lives on for a while, with 150 MB
            ray.kill(trainer.controller)


def _abort(controller: Any) -> None:
    """Ends the workers and the controller."""
    if controller is not None:
        with contextlib.suppress(RayActorError, GetTimeoutError):
            ray.get(controller.abort.remote(), timeout=10)
        ray.kill(controller)


def _classify(error: ray.train.WorkerGroupError) -> _Lost:
    """Returns _Lost if a worker died, and raises the exception of the loop otherwise.

    When a worker dies the others fail too, on a closed connection, so their exceptions count only without a death.
    """
    failures = dict(sorted(error.worker_failures.items()))
    deaths = {rank: failure for rank, failure in failures.items() if _is_death(failure)}
    if deaths:
        rank, death = next(iter(deaths.items()))
        return _Lost(f"rank {rank} on node {_node_of(death)} died ({_reason(death)})")
    for rank, exception in failures.items():
        if not lost_peer(exception):
            exception.add_note(f"raised by rank {rank}; logs: {log_location()}\n{error}")
            raise exception
    rank, exception = next(iter(failures.items()))
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
    """Runs in each worker: prepares the process, then calls the loop."""
    with loading():
        import torch

        for module in payload["modules"]:
            importlib.import_module(module)
        loop, config = pickle.loads(payload["loop"])
    gc.freeze()  # DeepSpeed collects garbage for each engine it makes: not through all that was imported
    torch.set_num_threads(payload["threads"])
    worker = Worker(Path(payload["folder"]))
    if worker.rank == 0:
        progress.cut(worker.folder / progress.FILE, worker.resumed_step)
    _join_group(worker)
    try:
        value = loop(worker, config)
    except Exception as error:
        raise portable(error, worker.folder) from None
    torch.distributed.destroy_process_group()
    return value if worker.rank == 0 else None


def _join_group(worker: Worker) -> None:
    """Makes torch's process group, NCCL on GPUs and gloo on CPUs, and sets torchrun's variables.

    The store of the rendezvous listens on the node's address only: on a local Ray that is loopback.
    """
    import torch
    from torch.distributed import TCPStore

    timeout = timedelta(minutes=30)
    store, endpoint = None, None
    address = ray.util.get_node_ip_address()
    os.environ.update(group_environment(address))
    if worker.rank == 0:
        listener = reserve_port(address)
        listener.listen()
        endpoint = (address, listener.getsockname()[1])
        store = TCPStore(
            *endpoint, worker.world, True, timeout, wait_for_workers=False, master_listen_fd=listener.detach()
        )
    address, port = cast(tuple[str, int], ray.train.collective.broadcast_from_rank_zero(endpoint))
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


class Worker:
    """A loop's view of its group. folder: the run's; device: "cpu" or "cuda:<index>"; resumed_step: -1 at the start."""

    def __init__(self, folder: Path):
        context = ray.train.get_context()
        self.folder = folder
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        self.local_rank: int = context.get_local_rank()
        self.device = _device()
        self._written = threading.Event()
        self._written.set()
        self._checkpoint = ray.train.get_checkpoint()
        self.resumed_step: int = self._checkpoint.get_metadata()["step"] if self._checkpoint else -1

    def resume(self) -> Path | None:
        """The folder of the last complete checkpoint, with the files of all ranks; None at the start."""
        return Path(self._checkpoint.path) if self._checkpoint else None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Saves a checkpoint, beside what follows. All ranks call it together; each one's `write` writes its files,
        with names that no other rank has, into the folder it gets, which is on the storage already.

        The checkpoint is complete once every rank has written; the last two are kept."""
        self.wait_until_written()
        self._written.clear()
        ray.train.report(
            {"step": step},
            checkpoint=ray.train.Checkpoint.from_directory(self.folder),  # of no use, but required
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=False,
            checkpoint_upload_fn=partial(self._write, step, write),
        )

    def wait_until_written(self) -> None:
        """Waits until this rank's last `write` has ended."""
        self._written.wait()

    def _write(self, step: int, write: Callable[[Path], None], _: Any, name: str) -> ray.train.Checkpoint:
        """Runs in a thread of Ray Train's."""
        try:
            folder = self.folder / name
            folder.mkdir(exist_ok=True)
            write(folder)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            if self.rank == 0:
                checkpoint.set_metadata({"step": step})
        except Exception as error:
            raise portable(error, self.folder) from None
        finally:
            self._written.set()
        return checkpoint

    def progress(self, step: int, figures: dict[str, float]) -> None:
        """Reports figures of a step, for the curve and the display. Only rank 0's are used; cheap, and no barrier."""
        if self.rank == 0:
            progress.append(self.folder / progress.FILE, step, figures)


def _device() -> str:
    """The worker's GPU, as an index into those visible to its node's workers, or the CPU."""
    if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        return "cpu"
    from ray.train.torch import get_device

    return str(get_device())
