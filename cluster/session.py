"""Session: the connection to Ray. Starts a local Ray and ends it, joins a cluster, or is inside one of its jobs.

    Session().start()             no address, not in a job: a Ray of our own, on loopback, gone with this process
    Session("head:6379").start()  joins; also "auto" (a Ray on this machine) and ray://host:10001
    inside a Ray job              joins the cluster that runs the job, with the code the job came with

Nothing of Ray is imported before start(), so that a run which makes nothing costs nothing. A local Ray prints nothing:
its logs are files, and `describe()` says where. Left out on purpose: the dashboard (`ray start` has it), usage
statistics, and Ray's metrics.
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

from cluster import nodes, reaper, route, token
from cluster.errors import ClusterError
from cluster.nodes import Node
from cluster.resources import cores

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's job agent sets it, and RAY_ADDRESS, for the entry point of a job
LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: the node is 127.0.0.1 and every port on loopback
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",  # nobody scrapes a local Ray: 1 port and some CPU less
    "RAY_enable_open_telemetry": "0",
    "RAY_worker_niceness": "0",  # Ray's own is 15: on a laptop whatever else runs, Ray's agents too, would go before
    "RAY_enable_worker_prestart": "0",  # idle workers of 60 MB each; ours have an environment of their own anyway
    "RAY_prestart_worker_first_driver": "0",
}

_log_place = "the session's folder under Ray's temporary folder on each node"
_tell: Callable[[str], Any] = print


def log_place() -> str:
    """Where the logs of Ray and of the workers are, for messages."""
    return _log_place


def tell(text: str) -> None:
    """A line for whoever watches the run, where no stage is at hand: goes to the `say` of the session."""
    _tell(text)


class Session:
    """A connection to Ray, made at the first start().

    address: None (a local Ray, or the cluster of the job we are in), "auto", host:port of a head, or ray://host:port.
    cpus: logical CPUs of a local Ray. They are labels, not cores: at least 4 by default, because two workers beside a
        pipeline of Ray Data would wait for ever on a machine of two cores. Speed is a matter of workers and threads.
    object_store_bytes: most memory for objects shared between the workers of a local Ray; used only as it fills.
    logs: folder that keeps the logs of a local Ray, one folder a session; without it they go when the session ends.
    shared: folder that all nodes must share; looked at once, when the session starts.
    packages: folders of our packages, sent to the nodes of a cluster that is joined. In a job they came with the job.
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
        say: Callable[[str], Any] = print,
    ):
        self.address = address
        self.cpus = cpus or max(4, cores())
        self.object_store_bytes = object_store_bytes or default_object_store_bytes()
        self.logs = logs
        self.packages = tuple(packages)
        self.shared = shared
        self.say = say
        self.start_s = 0.0
        self._connected = False
        self._borrowed = False
        self._folder: Path | None = None
        self._reaper: subprocess.Popen[bytes] | None = None

    @property
    def started(self) -> bool:
        return self._connected

    @property
    def local(self) -> bool:
        """Whether Ray is, or will be, one of our own on this machine."""
        return self._where() == "local"

    def _where(self) -> str:
        return self.address or os.environ.get("RAY_ADDRESS") or "local"

    def __enter__(self) -> Session:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> Session:
        """Connects, if that has not been done. Ray's daemons end with the thread that calls this: use the main one.

        Without an address, a Ray to which this process is connected already is used, and left as it was found.
        Raises ClusterError where Ray cannot be started or reached, or a node does not share the folder it must.
        """
        global _tell
        if self._connected:
            return self
        _tell = self.say
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
        self.say(self.describe())
        return self

    def _connect(self) -> None:
        if self.address is None and "ray" in sys.modules and sys.modules["ray"].is_initialized():
            self._borrowed = True
        elif self.local:
            self._start_local()
        else:
            self._join(self._where())

    def stop(self) -> None:
        """Ends a local Ray with all its processes, or leaves the cluster that was joined. May be called twice."""
        connected, self._connected = self._connected, False
        try:
            if (connected or self._folder) and not self._borrowed:
                import ray

                ray.shutdown()
        finally:
            self._bury()
            self._borrowed = False

    def _bury(self) -> None:
        """Lets the reaper end what is left of a local Ray, and waits for it."""
        undertaker, self._reaper, self._folder = self._reaper, None, None
        if undertaker and undertaker.stdin:
            undertaker.stdin.close()
            undertaker.wait(timeout=30)

    # ---- a Ray of our own ---------------------------------------------------------------------------------------

    def _start_local(self) -> None:
        """Twice if need be: Ray gives its agents 15 s to start, which a very busy machine can overrun."""
        for attempt in (1, 2):
            try:
                return self._start_local_once()
            except Exception as error:
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
                self.stop()
                if attempt == 2:
                    raise ClusterError(
                        f"this machine: Ray did not start ({reason}); expected a local Ray of {self.cpus} logical "
                        f"CPUs. Logs: {log_place()}. Look for a full disk or memory ({tempfile.gettempdir()}, "
                        f"/dev/shm), or join a running cluster with --address"
                    ) from error
                self.say(f"Ray did not start ({reason}); trying once more")

    def _start_local_once(self) -> None:
        import ray
        from ray._private import ray_constants

        mark = uuid.uuid4().hex
        self._folder = folder = temporary_folder()
        self._reaper = self._start_reaper(mark, folder)
        token.ensure(folder)
        was, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False  # for a Ray imported earlier
        try:
            environment = {**LOCAL_ENVIRONMENT, reaper.VARIABLE: mark, "PYTHONPATH": _python_path()}
            with _environment(environment), _signal_handlers_unchanged():
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
            ray_constants.ENABLE_RAY_CLUSTER = was

    def _start_reaper(self, mark: str, folder: Path) -> subprocess.Popen[bytes] | None:
        """The program that ends this Ray when we are killed. Where there is no /proc, Ray's own means must do."""
        global _log_place
        kept = ""  # where the logs go when the session ends; until then it is a link to where Ray writes them
        if self.logs:
            self.logs.mkdir(parents=True, exist_ok=True)
            link = self.logs.absolute() / f"ray-{datetime.now():%Y%m%dT%H%M%S}-{os.getpid()}-{mark[:4]}"
            link.symlink_to(folder / "session_latest" / "logs")
            kept = str(link)
        _log_place = kept or f"{folder}/session_latest/logs while the session lives"
        if not Path("/proc/self/environ").exists():
            return None
        return subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, mark, str(os.getpid()), str(folder), kept],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a signal for our whole group, Ctrl-C or kill -9, must not reach it
        )

    # ---- somebody else's Ray ------------------------------------------------------------------------------------

    def _join(self, address: str) -> None:
        global _log_place
        check_route(address)
        with _environment({"RAY_NUM_REDIS_GET_RETRIES": "5"}):  # 20 s is long to hear that a token is wrong
            import ray
        token.send()
        options: dict[str, Any] = {}
        if self.packages and IN_JOB not in os.environ:  # a job's packages came with it; naming them twice is an error
            options["runtime_env"] = {
                "py_modules": [str(folder) for folder in self.packages],
                "excludes": ["__pycache__", "*.pyc"],
            }
        try:
            with _signal_handlers_unchanged():
                _silence()
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:  # Ray raises nearly every kind here
            raise ClusterError(f"{address}: {route.why_not(error)}") from error
        from ray._private import worker

        node = worker._global_node  # none behind ray://
        _log_place = f"{node.get_logs_dir_path()} on the node" if node else "/tmp/ray/session_latest/logs on the node"

    # ---- facts --------------------------------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        """The nodes that answer now. Starts Ray if that has not been done."""
        self.start()
        return nodes.alive()

    def check_shared(self, folder: Path) -> None:
        """Raises ClusterError, naming the node, where a node of the cluster does not share this folder."""
        self.start()
        nodes.check_shared(folder)

    def describe(self) -> str:
        """One line: which Ray this is, what it has, where its logs are."""
        if not self._connected:
            return f"Ray ({self._where()}): not started"
        import ray

        found = nodes.alive()
        kind = "local" if self.local else f"at {self._where()}"
        cpus, gpus = sum(node.cpus for node in found), sum(node.gpus for node in found)
        return (
            f"Ray {ray.__version__}, {kind}, in {self.start_s:.1f} s: "
            f"{len(found)} node{'' if len(found) == 1 else 's'}, {cpus:g} logical CPUs, "
            f"{gpus:g} GPU{'' if gpus == 1 else 's'}; logs: {log_place()}"
        )


def default_object_store_bytes() -> int:
    """15% of the machine's memory, 200 MB to 8 GB, and not more than half of what is free in shared memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = min(max(int(memory * 0.15), 200_000_000), 8_000_000_000)
    with contextlib.suppress(FileNotFoundError):
        shared = os.statvfs("/dev/shm")
        free = shared.f_bavail * shared.f_frsize
        if free > 400_000_000:  # with less Ray falls back to files under the temporary folder
            wanted = min(wanted, free // 2)
    return wanted


def temporary_folder() -> Path:
    """A private folder with a short name: Ray adds 64 characters for its sockets, whose paths end at 107 bytes."""
    parent = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="rayse-", dir=parent if len(parent) <= 25 else "/tmp"))


def check_route(address: str) -> None:
    """Raises ClusterError unless something listens at host:port or ray://host:port; "auto" is for Ray to find."""
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
    """Where our packages are, before what was there: workers import them from any working folder, installed or not."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))


def _silence() -> None:
    """Ray prints what befalls workers to the driver's standard output even with log_to_driver=False, where it would
    spoil `--json`. It is in Ray's logs as well."""
    from ray._private import worker

    worker.print_to_stdstream = lambda data, ignore_prefix=False: logging.getLogger("ray").debug(data)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Sets variables for what is started inside; the user's settings of Ray win; all is as before afterwards."""
    before = {name: os.environ.get(name) for name in values}
    ours = (reaper.VARIABLE, "PYTHONPATH")
    os.environ.update({name: value for name, value in values.items() if name in ours or before[name] is None})
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
    """Keeps ray.init from setting signal handlers in this process: SIGTERM stays what the program made of it.

    Ray's Python handlers call sys.exit, and its native one, set last, prints a C++ stack and ends the process. Workers
    keep theirs, for the stacks of their crashes in Ray's logs; a crash of this process is left to faulthandler."""
    from ray._private import ray_constants, utils

    native, set_handler = ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER, utils.set_sigterm_handler
    ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True
    utils.set_sigterm_handler = lambda sigterm_handler: None
    try:
        yield
    finally:
        ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER, utils.set_sigterm_handler = native, set_handler
