"""Ray jobs: submit, follow, stop, list. This machine need not be a node of the cluster.

    submit ── our packages, the resolved recipe, a command ──► head ── runs the command there; Session joins the cluster
    follow ◄── log, then the exit code ──────────────────────────┘

`address` is the dashboard's: http://host:8265. Ray's token travels with every request (cluster/token.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster import route, token
from cluster.errors import ClusterError
from cluster.session import EXCLUDED
from cluster.termination import INTERRUPTED

STATUS_CHECK_S = 20.0  # without a line of the log for so long, the job's status is checked
RECONNECT_S = 300.0  # how long a broken connection is retried
STOP_S = 30  # from a stopped job's SIGTERM to its SIGKILL, as for a pod; Ray's default is 3


@dataclass(frozen=True)
class Job:
    """The cluster's record of a job. status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; times in s since 1970."""

    id: str
    status: str
    entrypoint: str
    message: str
    metadata: dict[str, str]
    driver_exit_code: int | None
    started: float | None
    ended: float | None

    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def exit_code(self) -> int:
        """Exit code of a command that waits for the job: that of the job; 130 if it was stopped, 3 if it was lost."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return INTERRUPTED
        code = self.driver_exit_code
        return code if code is not None and (0 < code < 128 or code == INTERRUPTED) else 3  # else: killed


def submit(
    address: str,
    command: Sequence[str],
    *,
    packages: Sequence[Path] = (),
    files: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Starts a job and returns its id.

    command: program and arguments, unquoted. packages: folders that the job and its workers import.
    files: name -> text, in the job's working folder. metadata: visible to all in `list_jobs`, so without secrets.
    """
    with tempfile.TemporaryDirectory(prefix="rayse-job-") as folder:
        for name, text in (files or {}).items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), **(env or {})}
        environment: dict[str, Any] = {"working_dir": folder, "excludes": EXCLUDED, "env_vars": variables}
        if packages:
            environment["py_modules"] = [str(package.absolute()) for package in packages]
        with _client(address) as client:
            return client.submit_job(
                entrypoint=shlex.join(command), runtime_env=environment, metadata=dict(metadata or {})
            )


def status(address: str, job_id: str) -> Job:
    """The job as it is now. Raises ClusterError if the cluster does not know it."""
    with _client(address) as client:
        return _job(client.get_job_info(job_id))


def list_jobs(address: str) -> list[Job]:
    """All submitted jobs in the cluster's records, oldest first, without drivers that connected otherwise."""
    with _client(address) as client:
        submitted = [_job(details) for details in client.list_jobs() if details.submission_id]
    return sorted(submitted, key=lambda job: job.started or 0.0)


def stop_job(address: str, job_id: str) -> bool:
    """Sends SIGTERM to a job. Returns False if it had already ended. Submitted again, its run resumes."""
    with _client(address) as client:
        return client.stop_job(job_id)


def follow(address: str, job_id: str, write: Callable[[str], Any]) -> Job:
    """Passes the job's log to `write` as it grows, from its start, and returns the job when it has ended.

    A broken connection is retried for up to 5 minutes, and no text is written twice. Ctrl-C leaves the job running.
    """
    log = _Log(write)
    lost_since: float | None = None
    while True:
        try:
            with _client(address) as client:
                asyncio.run(_tail(client, job_id, log))
                job = _job(client.get_job_info(job_id))
        except ClusterError:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > RECONNECT_S:
                raise
        else:
            lost_since = None
            if job.done:
                return job
        time.sleep(1.0)


class _Log:
    """Passes on the new part of a log that each connection sends from its start."""

    def __init__(self, write: Callable[[str], Any]):
        self._write = write
        self._num_written = 0
        self._num_received = 0  # by this connection

    def reconnect(self) -> None:
        """A new connection sends the log from its start."""
        self._num_received = 0

    def receive(self, text: str) -> None:
        """Writes what of the text has not been written before."""
        new = text[max(0, self._num_written - self._num_received) :]
        self._num_received += len(text)
        if new:
            self._num_written += len(new)
            self._write(new)


async def _tail(client: Any, job_id: str, log: _Log) -> None:
    """Follows the log over one connection, until it ends or breaks, or the job has ended."""
    log.reconnect()
    pieces = client.tail_job_logs(job_id)
    piece: asyncio.Future[str] | None = None
    while True:
        piece = piece or asyncio.ensure_future(anext(pieces))
        ready, _ = await asyncio.wait([piece], timeout=STATUS_CHECK_S)
        if not ready:
            details = await asyncio.to_thread(client.get_job_info, job_id)
            if _job(details).done:
                piece.cancel()
                return
            continue
        try:
            text = piece.result()
        except StopAsyncIteration:
            return
        log.receive(text)
        piece = None


def _job(details: Any) -> Job:
    return Job(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        entrypoint=details.entrypoint,
        message=details.message or "",
        metadata=dict(details.metadata or {}),
        driver_exit_code=details.driver_exit_code,
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
    )


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    """Ray's job client; its exceptions become ClusterError."""
    url = _url(address)
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    route.check(address, parts.hostname or "", port, "Is it the dashboard's address (http://HEAD:8265), tunnelled?")
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    token.send()
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with _no_other_address(url):
            client = JobSubmissionClient(url)
        yield client
    except AuthenticationError as error:
        raise ClusterError(f"{address}: {route.explain(error)}") from error
    except (requests.RequestException, aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise ClusterError(f"{address}: the connection to the cluster broke ({error}); is the head up?") from error
    except RuntimeError as error:  # Ray raises it for every status but 200
        text = " ".join(str(error).split())[:500]
        raise ClusterError(
            f"{address}: the cluster refused ({text}); its jobs: rayse jobs --address {address}"
        ) from error


def _url(address: str) -> str:
    scheme, _, rest = address.rpartition("://")
    if scheme not in ("", "http", "https") or not rest:
        raise ClusterError(
            f"--address {address}: jobs are submitted to the dashboard. Expected http://HEAD:8265; "
            f"an address of the cluster itself ({address}) is for `rayse run --address`"
        )
    return address if scheme else f"http://{address}"


@contextlib.contextmanager
def _no_other_address(url: str) -> Iterator[None]:
    """Makes Ray use this address: RAY_API_SERVER_ADDRESS and RAY_ADDRESS would take precedence over its argument."""
    before = {name: os.environ.pop(name, None) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")}
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    try:
        yield
    finally:
        del os.environ["RAY_API_SERVER_ADDRESS"]
        os.environ.update({name: value for name, value in before.items() if value is not None})
