"""Session: the connection to Ray. Starts and stops a local Ray, joins a cluster, or uses that of the job it is in.

    Session().start()             no address, not in a job: a local Ray on loopback, which ends with this process
    Session("head:6379").start()  joins a cluster; also "auto" (a Ray on this machine) and ray://host:10001
    inside a Ray job              joins the cluster that runs the job, with the code that came with the job

Ray is not imported before start(), so that a run without work to do starts at once. A local Ray prints no output: its
logs are files, and `describe()` says where. Left out on purpose: the dashboard (`ray start` has it), usage statistics,
Ray's metrics, and daemons without use here (daemons.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster import daemons, nodes, reaper, route, token
from cluster.errors import ClusterError
from cluster.nodes import Node
from cluster.resources import cores

EXCLUDED = ["__pycache__", "*.pyc"]  # of the packages that are sent to a cluster
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's job agent sets it, and RAY_ADDRESS, for the entry point of a job
LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: the node is 127.0.0.1 and every port on loopback
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",  # a local Ray is not scraped: saves a port and some CPU
    "RAY_enable_open_telemetry": "0",
    "RAY_worker_niceness": "0",  # default 15: all else on a laptop, Ray's agents too, would take precedence
    "RAY_enable_worker_prestart": "0",  # idle workers of 60 MB each, unused: ours need other environments
    "RAY_prestart_worker_first_driver": "0",
}

_log_location = "the session's folder under Ray's temporary folder on each node"
_on_message: Callable[[str], Any] = print


def log_location() -> str:
    """Where the logs of Ray and of the workers are, for messages."""
    return _log_location


def notify(text: str) -> None:
    """Passes a line for the user to the session's `on_message`, for code that has no stage's progress at hand."""
    _on_message(text)


class Session:
    """A connection to Ray, made at the first start().

    address: None (a local Ray, or the cluster of the job this runs in), "auto", host:port of a head, ray://host:port.
    cpus: logical CPUs of a local Ray. They are labels, not cores: at least 4 by default, because two workers beside a
        pipeline of Ray Data would wait forever on a machine of two cores. Workers and threads decide the speed.
    object_store_bytes: largest size of a local Ray's object store; memory is used only as it fills.
    logs: folder that keeps the logs of a local Ray, a folder for each session; None deletes them with the session.
    shared: folder that all nodes must share; checked once, when the session starts.
    packages: folders of our packages, sent to the nodes of a cluster that is joined. A job's came with the job.
    on_message: receives lines for the user.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus: int | None = None,
        object_store_bytes: int | None = None,
        logs: Path | None = None,
        packages: Sequence[Path] = (),
        shared: Path | None = None,
        on_message: Callable[[str], Any] = print,
    ):
        self.address = address
        self.cpus = cpus or max(4, cores())
        self.object_store_bytes = object_store_bytes or default_object_store_bytes()
        self.logs = logs
        self.packages = tuple(packages)
        self.shared = shared
        self.on_message = on_message
        self.start_s = 0.0
        self._connected = False
        self._borrowed = False
        self._folder: Path | None = None
        self._reaper: subprocess.Popen[bytes] | None = None

    @property
    def started(self) -> bool:
        """Whether this session is connected to Ray."""
        return self._connected

    @property
    def local(self) -> bool:
        """Whether Ray is, or will be, a local one that this session starts."""
        return self._target() == "local"

    def _target(self) -> str:
        """The address to join, or "local"."""
        return self.address or os.environ.get("RAY_ADDRESS") or "local"

    def __enter__(self) -> Session:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> Session:
        """Connects, unless already connected. Ray's daemons end with the calling thread: call it in the main one.

        Without an address, a Ray to which this process is connected already is used, and left running by stop().
        Raises ClusterError if Ray cannot be started or reached, or if a node does not share the required folder.
        """
        global _on_message
        if self._connected:
            return self
        _on_message = self.on_message
        nodes.forget()
        begin = time.monotonic()
        try:
            self._connect()
            self._connected = True
            self.start_s = time.monotonic() - begin
            if self.shared is not None:
                self.check_shared(self.shared)
        except BaseException:
            self.stop()
            raise
        self.on_message(self.describe())
        return self

    def _connect(self) -> None:
        if self.address is None and "ray" in sys.modules and sys.modules["ray"].is_initialized():
            self._borrowed = True
        elif self.local:
            self._start_local()
        else:
            self._join(self._target())

    def stop(self) -> None:
        """Stops a local Ray with all its processes, or leaves the cluster that was joined. May be called twice."""
        connected, self._connected = self._connected, False
        try:
            if (connected or self._folder) and not self._borrowed:
                import ray

                ray.shutdown()
        finally:
            self._finish_reaper()
            self._borrowed = False

    def _finish_reaper(self) -> None:
        """Lets the reaper kill what is left of a local Ray, and waits for it."""
        process, self._reaper, self._folder = self._reaper, None, None
        if process and process.stdin:
            process.stdin.close()
            process.wait(timeout=30)

    # ---- a local Ray --------------------------------------------------------------------------------------------

    def _start_local(self) -> None:
        """Starts Ray, twice if necessary: Ray gives its agents 15 s to start, too little on a very busy machine."""
        for attempt in (1, 2):
            try:
                return self._start_local_once()
            except Exception as error:
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
                self.stop()
                if attempt == 2:
                    raise ClusterError(
                        f"this machine: Ray did not start ({reason}); expected a local Ray of {self.cpus} logical "
                        f"CPUs. Logs: {log_location()}. Look for a full disk or memory ({tempfile.gettempdir()}, "
                        f"/dev/shm), or join a running cluster with --address"
                    ) from error
                self.on_message(f"Ray did not start ({reason}); trying once more")

    def _start_local_once(self) -> None:
        import ray
        from ray._private import ray_constants

        mark = uuid.uuid4().hex
        self._folder = folder = temporary_folder()
        self._reaper = self._start_reaper(mark, folder)
        token.ensure(folder)
        before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False  # if imported earlier
        try:
            environment = {**LOCAL_ENVIRONMENT, reaper.VARIABLE: mark, "PYTHONPATH": _python_path()}
            with _environment(environment), _signal_handlers_unchanged(), daemons.unused_left_out():
                _silence()
                ray.init(
                    address="local",
                    num_cpus=self.cpus,
                    include_dashboard=False,
                    object_store_memory=self.object_store_bytes,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(folder),
                )
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before

    def _start_reaper(self, mark: str, folder: Path) -> subprocess.Popen[bytes] | None:
        """Starts the program that kills this Ray if this process dies; returns None where there is no /proc."""
        global _log_location
        kept = ""  # path of the logs after the session's end; until then it is a link to where Ray writes them
        if self.logs:
            self.logs.mkdir(parents=True, exist_ok=True)
            link = self.logs.absolute() / f"ray-{datetime.now():%Y%m%dT%H%M%S}-{os.getpid()}-{mark[:4]}"
            link.symlink_to(folder / "session_latest" / "logs")
            kept = str(link)
        _log_location = kept or f"{folder}/session_latest/logs while the session lives"
        if not Path("/proc/self/environ").exists():
            return None
        return subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, mark, str(os.getpid()), str(folder), kept],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a signal for the whole process group, Ctrl-C or kill -9, must not reach it
        )

    # ---- a cluster that is joined -------------------------------------------------------------------------------

    def _join(self, address: str) -> None:
        global _log_location
        check_route(address)
        with _environment({"RAY_NUM_REDIS_GET_RETRIES": "5"}):  # by default it takes 20 s to refuse a wrong token
            import ray
        token.send()
        options: dict[str, Any] = {}
        if self.packages and IN_JOB not in os.environ:  # a job's packages came with it; naming them twice is an error
            options["runtime_env"] = {
                "py_modules": [str(folder) for folder in self.packages],
                "excludes": EXCLUDED,
            }
        try:
            with _signal_handlers_unchanged():
                _silence()
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:  # Ray raises nearly every kind here
            raise ClusterError(f"{address}: {route.explain(error)}") from error
        from ray._private import worker

        node = worker._global_node  # none behind ray://
        _log_location = (
            f"{node.get_logs_dir_path()} on the node" if node else "/tmp/ray/session_latest/logs on the node"
        )

    # ---- facts --------------------------------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        """The nodes that are alive now. Starts Ray if necessary."""
        self.start()
        return nodes.alive()

    def free_gpus(self, enough: int, *, wait_s: float) -> int:
        """Whole GPUs that nothing holds now, after a wait for so many. Starts Ray if necessary."""
        self.start()
        return nodes.free_gpus(enough, wait_s=wait_s)

    def check_shared(self, folder: Path) -> None:
        """Raises ClusterError, naming the node, if a node of the cluster does not share this folder."""
        self.start()
        nodes.check_shared(folder)

    def describe(self) -> str:
        """One line: Ray's version, address, resources and the location of its logs."""
        if not self._connected:
            return f"Ray ({self._target()}): not started"
        import ray

        present = nodes.alive()
        kind = "local" if self.local else f"at {self._target()}"
        cpus, gpus = sum(node.cpus for node in present), sum(node.gpus for node in present)
        return (
            f"Ray {ray.__version__}, {kind}, in {self.start_s:.1f} s: "
            f"{len(present)} node{'' if len(present) == 1 else 's'}, {cpus:g} logical CPUs, "
            f"{gpus:g} GPU{'' if gpus == 1 else 's'}; logs: {log_location()}"
        )


def default_object_store_bytes() -> int:
    """15% of the machine's memory, 200 MB to 8 GB, and not more than half of the free shared memory."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    store_bytes = min(max(int(memory_bytes * 0.15), 200_000_000), 8_000_000_000)
    with contextlib.suppress(FileNotFoundError):
        shared = os.statvfs("/dev/shm")
        free_bytes = shared.f_bavail * shared.f_frsize
        if free_bytes > 400_000_000:  # with less Ray falls back to files under the temporary folder
            store_bytes = min(store_bytes, free_bytes // 2)
    return store_bytes


def temporary_folder() -> Path:
    """A private folder with a short path: Ray appends 64 characters for its sockets, whose paths hold 107 bytes."""
    parent = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="rayse-", dir=parent if len(parent) <= 25 else "/tmp"))


def check_route(address: str) -> None:
    """Raises ClusterError unless something listens at host:port or ray://host:port; "auto" is resolved by Ray."""
    if address == "auto":
        return
    scheme, _, rest = address.rpartition("://")
    host, _, port = rest.rpartition(":")
    if scheme not in ("", "ray") or not host or not port.isdigit():
        raise ClusterError(
            f"--address {address}: not the address of a Ray head. Expected host:6379, ray://host:10001 or auto; "
            f"a dashboard's address (http://host:8265) is for `rayse submit`"
        )
    route.check(address, host, int(port), "From outside the cluster use `rayse submit --address http://HEAD:8265`")


def _python_path() -> str:
    """PYTHONPATH with the folder of our packages first: workers import them from any folder, installed or not."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))


def _silence() -> None:
    """Sends to a logger what Ray prints about workers to the driver's stdout, even with log_to_driver=False.

    There it would corrupt the output of `--json`; it is in Ray's logs as well."""
    from ray._private import worker

    worker.print_to_stdstream = lambda data, ignore_prefix=False: logging.getLogger("ray").debug(data)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Sets environment variables inside the block. Variables that the user has set take precedence, but for ours."""
    before = {name: os.environ.get(name) for name in values}
    always = (reaper.VARIABLE, "PYTHONPATH")
    os.environ.update({name: value for name, value in values.items() if name in always or before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _signal_handlers_unchanged() -> Iterator[None]:
    """Keeps ray.init from setting signal handlers in this process, so that those of the program stay in place.

    Ray's Python handlers call sys.exit; its native handler, set last, prints a C++ stack and ends the process. Workers
    keep theirs, which print the stack of a crash to Ray's logs; a crash of this process is reported by faulthandler."""
    from ray._private import ray_constants, utils

    native, set_handler = ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER, utils.set_sigterm_handler
    ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True
    utils.set_sigterm_handler = lambda sigterm_handler: None
    try:
        yield
    finally:
        ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER, utils.set_sigterm_handler = native, set_handler
