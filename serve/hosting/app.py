"""From settings to a Ray Serve application that answers requests.

    host(settings)   in this process: connects to Ray, deploys, waits until replies come, serves until it is stopped
                     (server.py starts it in a separate process)

ray.serve.llm with direct streaming: the front (front.py) hands each request to a replica's HTTP server, where the
gateway (serve/gateway/) stands around vLLM's application. Without an address a server starts a separate Ray, and
touches no other; with one it adds its application to a cluster (joined.py), and removes it at the end.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster.errors import ClusterError
from cluster.session import Session, log_location
from cluster.termination import sigterm_interrupts
from pipelines.errors import UserError
from pipelines.store.aliases import DamagedRecord
from pipelines.store.artifacts import Store
from pipelines.store.provenance import folder_of
from serve.hosting import front, joined, room, serve_private
from serve.hosting.canary import Watch
from serve.hosting.deployment import UNALIASED, application, hosted
from serve.hosting.ending import end
from serve.hosting.promotion import Promoted, figures_of
from serve.hosting.readiness import wait_until_steady
from serve.settings import SHARED, Settings

ERROR_LINE = re.compile(r"[\w.]*(?:Error|Exception)\b")
UNSERVED = (UserError, ClusterError, OSError, ValueError)
"""Errors of what is to take over, such as files that are damaged (pydantic's and json's are ValueErrors)."""
Log = Callable[[str], object]
"""Takes a line for whoever started the server."""
Record = Callable[[str, dict[str, Any]], object]
"""Keeps a decision: what was done (canary_stopped, canary_passed, not_started), and its evidence."""
RollBack = Callable[[dict[str, Any]], bool]
"""Moves an alias back, from the evidence against the artifact that it names; returns whether it did."""


def host(
    settings: Settings,
    *,
    stop: threading.Event | None = None,
    on_ready: Callable[[str, float], object] = lambda url, ready_s: None,
    log: Log = lambda text: None,
    follow: Callable[[], Settings | None] = lambda: None,
    record: Record = lambda action, evidence: None,
    roll_back: RollBack = lambda evidence: False,
) -> None:
    """Serves until `stop` is set, or Ctrl-C or SIGTERM comes. Calls on_ready(url, seconds since the start) once ready.

    Requests in flight get limits.longest_drain_s to end. follow: called every second; other settings of the same
    address that it returns take over without a failed request. record: keeps the decision on a canary, with its
    evidence. roll_back: moves the alias back of what does worse than the version before it.

    Raises UserError for unsafe or impossible settings, ClusterError where the port is taken or the model does not
    start, KeyboardInterrupt where it is stopped before it was ready."""
    start = time.monotonic()
    settings = settings.check()
    was_ready = False

    def report_ready(url: str) -> None:
        nonlocal was_ready
        was_ready = True
        on_ready(url, time.monotonic() - start)

    folder: Path | None = None
    try:
        if settings.address is None:
            settings = settings.model_copy(update={"port": front.claim_port(settings.host, settings.port)})
            folder = Path(tempfile.mkdtemp(prefix="rayse-", dir="/tmp"))  # a short path, as those of sockets must be
            os.environ.update(front.environment(folder, settings))
        with sigterm_interrupts(), _session(settings, log):
            _serve(settings, stop or threading.Event(), report_ready, log, follow, record, roll_back)
    except KeyboardInterrupt:
        if not was_ready:
            raise
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _session(settings: Settings, log: Log) -> Session:
    """The connection to Ray: a separate one on this machine, or the cluster, to which our packages are sent."""
    if settings.address is None:
        return Session("local", cpus=_num_cpus(settings), logs=settings.logs, on_message=log)
    packages = [folder_of(package) for package in ("cluster", "pipelines", "serve")]
    store = Store(settings.store) if settings.store else None
    shared = store.root if store and store.remote is None else None
    return Session(settings.address, packages=packages, shared=shared, on_message=log)


def _num_cpus(settings: Settings) -> int | None:
    """Logical CPUs of a Ray on this machine: enough for all replicas, twice while another version takes over."""
    num_replicas = sum(model.replicas.max * max(1, model.gpus) for model in hosted(settings))
    return 2 * num_replicas + 1 if num_replicas > 1 else None


def url_of(settings: Settings) -> str:
    """URL of the server for clients on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _serve(
    settings: Settings,
    stop: threading.Event,
    on_ready: Callable[[str], object],
    log: Log,
    follow: Callable[[], Settings | None],
    record: Record,
    roll_back: RollBack,
) -> None:
    import ray.serve

    _silence_ray_serve()
    room.check_gpus(settings)
    if settings.address is None:
        serve_private.start("127.0.0.1", settings.port)
    else:
        joined.enter(settings)
    try:
        deploy(settings)
        if settings.address is None:
            wait_until_steady(url_of(settings), settings.key, log_location())
            on_ready(url_of(settings))
        else:
            on_ready(joined.wait_until_steady_there(settings, log_location()))
        _watch(settings, stop, log, follow, record, roll_back)
    finally:
        if ray.is_initialized():
            try:
                end(settings, log)
            finally:  # a second Ctrl-C
                joined.end_key_counter(settings)


def deploy(settings: Settings) -> None:
    """Deploys the application, beside the one of the same name until it is ready. Raises ClusterError."""
    import ray.serve

    runtime_env = joined.sent_packages() if settings.address is not None else None
    try:
        ray.serve.run(application(settings, runtime_env), name=settings.app, route_prefix=settings.route)
    except RuntimeError as error:
        raise ClusterError(f"{settings.model}: vLLM does not serve this model here ({_failure(settings.app)}). Logs: "
                           f"{log_location()}") from error  # fmt: skip
    except TimeoutError as error:
        raise ClusterError(f"the front of Ray Serve does not start ({error}). Logs: {log_location()}") from error


def _watch(
    settings: Settings,
    stop: threading.Event,
    log: Log,
    follow: Callable[[], Settings | None],
    record: Record,
    roll_back: RollBack,
) -> None:
    """Serves until `stop` is set: moves to the settings that `follow` returns, and watches them and canaries."""
    watch, problem, record = Watch(settings), "", _logging(record, log)
    promoted: list[Promoted] = []  # by take-over, as long as one of its models is watched
    waiting: room.Waiting | None = None
    while not stop.wait(1.0):
        _check_ray()
        _decide(watch, log, record)
        for each in promoted:
            _take_back(each, log, roll_back)
        try:
            following = follow()
        except UNSERVED as error:  # what was promoted cannot be loaded
            if isinstance(error, UserError) and not isinstance(error, DamagedRecord):
                waiting = None  # aliases name something else by now, which is not tried again
            if str(error) != problem:  # it may be tried again each second
                problem = str(error)
                log(f"what is served stays: {problem}")
            continue
        problem = ""
        if following is not None:
            waiting = room.Waiting(following.model_copy(update={"port": settings.port}))
        if waiting is None or waiting.must_wait(watch.settings, log):
            continue
        following, waiting = watch.with_stopped(waiting.settings), None
        changes = changed(watch.settings, following)
        if not changes:
            log("an alias names the same weights now, with the same settings: nothing changes")
            watch.settings = following  # what its aliases name is known from then on
            continue
        figures = figures_of(watch.settings, log)
        if _take_over(watch.settings, following, changes, log, record):
            promoted = [each for each in promoted if each.goes_on(following)]
            promoted.append(Promoted(watch.settings, figures, following))
            watch = Watch(following)


def _decide(watch: Watch, log: Log, record: Record) -> None:
    """Carries out the decisions on canaries."""
    try:
        for action, evidence in watch.decisions():
            log(f"{action}: {evidence['reason']}")
            record(action, evidence)
            if action == "canary_stopped":
                deploy(watch.settings)  # for routers that start later: those that run have been told
    except Exception as error:  # a router that is replaced, a store that is full: the server goes on
        log(f"canary: {type(error).__name__}: {error}")


def _take_back(promoted: Promoted, log: Log, roll_back: RollBack) -> None:
    """Has the alias moved back of what took over and does worse; `follow` then has the earlier version."""
    try:
        for evidence in promoted.decisions():
            if roll_back(evidence):
                log(f"{evidence['model']}: version {evidence['version']} is rolled back: {evidence['reason']}")
            else:
                log(f"{evidence['model']}: version {evidence['version']} does worse than the one before it, and is not "
                    f"rolled back: the alias {evidence['alias']} was moved again or back, or promoted with --no-watch: "
                    f"{evidence['reason']}")  # fmt: skip
    except Exception as error:  # of Ray or the store: the server goes on, and tries again
        problem = f"{type(error).__name__}: {error}"
        if problem != promoted.problem:
            log(f"watching what was promoted: {problem}")
        promoted.problem = problem


def _logging(record: Record, log: Log) -> Record:
    """A `record` whose errors, such as of a full store, are lines of the log: the server goes on."""

    def record_or_log(action: str, evidence: dict[str, Any]) -> None:
        try:
            record(action, evidence)
        except Exception as error:
            log(f"{action} is not recorded: {type(error).__name__}: {error}")

    return record_or_log


def _take_over(settings: Settings, following: Settings, changes: Sequence[Change], log: Log, record: Record) -> bool:
    """Deploys other settings beside those that are served, with these changes; returns whether they took over. Where
    they do not start, the earlier ones go on, and the decision is recorded."""
    try:
        room.check_spare(settings, following)
        deploy(following.check())
    except UNSERVED as error:
        for change in changes:
            log(f"{change.name}: version {change.now} does not start, what was served before stays: {error}")
            record("not_started", {"model": change.name, "version": change.now, "serving": change.before,
                                   "settings": change.settings, "reason": str(error)})  # fmt: skip
        if not isinstance(error, UserError):  # which comes before anything is deployed
            deploy(settings)
        return False
    for change in changes:
        before = f", before {change.before}" if change.before != change.now else ""
        others = f", with other settings: {', '.join(change.settings)}" if change.settings else ""
        log(f"{change.name}: serving version {change.now}{before}{others}")
    return True


class Change(NamedTuple):
    """What changes of a model. before, now: its versions, which are equal where the weights stay; settings: names of
    those that differ beside them, such as persona and guard."""

    name: str
    before: str
    now: str
    settings: list[str]


def changed(settings: Settings, following: Settings) -> list[Change]:
    """What differs of each model between two settings of a server; nothing of those that stay as they are."""
    earlier = {(model.name, bool(model.canary)): model for model in settings.models}
    changes: list[Change] = []
    for model in following.models:
        before = earlier.get((model.name, bool(model.canary)))
        differing = {
            name.removesuffix("_folder").removesuffix("_version")  # guard_folder is of the guard
            for name in Settings.model_fields.keys() - {"version", "model", "others", *UNALIASED, *SHARED}
            | {"guard_model"}
            if before is not None and getattr(before, name) != getattr(model, name)
        }
        if before is None or differing or before.version != model.version:
            changes.append(Change(model.name, before.version if before else "", model.version, sorted(differing)))
    return changes


def _silence_ray_serve() -> None:
    """Keeps Ray Serve's log lines out of this process's terminal; its log files have them."""
    logging.getLogger("ray.serve").handlers.clear()
    logging.getLogger("ray.serve").propagate = False


def _failure(app: str) -> str:
    """The last line with an error among Ray Serve's messages on the application."""
    import ray.serve

    status = ray.serve.status().applications.get(app)
    messages = [status.message, *(deployment.message for deployment in status.deployments.values())] if status else []
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if ERROR_LINE.match(line)), "see the logs")


def _check_ray() -> None:
    """Raises ClusterError where Ray itself has ended, so that nothing would answer any more."""
    import ray

    if not ray.is_initialized():
        raise ClusterError(f"Ray ended under the server. Logs: {log_location()}")
