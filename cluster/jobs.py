"""A recipe as a Ray job: submit, follow, stop, list. For a cluster of which this machine need not be a part.

    submit ── our packages, the resolved recipe, a command ──► head ── runs the command there, Session joins by itself
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
from cluster.termination import INTERRUPTED

LEFT_OUT = ["__pycache__", "*.pyc"]  # of the packages that travel with a job
QUIET_S = 20.0  # without a line for so long, the job is asked whether it still runs
PATIENCE_S = 300.0  # how long a broken connection is tried again
STOP_S = 30  # from a stopped job's SIGTERM to its SIGKILL, as for a pod; Ray's default is 3


@dataclass(frozen=True)
class Job:
    """A job as the cluster knows it. status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; times in s since 1970."""

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
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def exit_code(self) -> int:
        """What a command that waited for the job should end with: the job's own code; 130 if stopped, 3 if lost."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return INTERRUPTED
        code = self.driver_exit_code
        return code if code is not None and (0 < code < 128 or code == INTERRUPTED) else 3  # others: killed by a signal


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

    command: program and arguments, quoted here. packages: folders that the job and its workers import.
    files: name -> text, in the folder the command is run in. metadata is shown by `list_jobs`; put no secrets there.
    """
    with tempfile.TemporaryDirectory(prefix="rayse-job-") as folder:
        for name, text in (files or {}).items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), **(env or {})}
        environment: dict[str, Any] = {"working_dir": folder, "excludes": LEFT_OUT, "env_vars": variables}
        if packages:
            environment["py_modules"] = [str(package.absolute()) for package in packages]
        with _client(address) as client:
            return client.submit_job(
                entrypoint=shlex.join(command), runtime_env=environment, metadata=dict(metadata or {})
            )


def status(address: str, job_id: str) -> Job:
    with _client(address) as client:
        return _job(client.get_job_info(job_id))


def list_jobs(address: str) -> list[Job]:
    """All submitted jobs the cluster remembers, oldest first; drivers that connected otherwise are not among them."""
    with _client(address) as client:
        found = [_job(details) for details in client.list_jobs() if details.submission_id]
    return sorted(found, key=lambda job: job.started or 0.0)


def stop_job(address: str, job_id: str) -> bool:
    """Asks a job to end. False if it had ended. What it made stays; submitted again it goes on from there."""
    with _client(address) as client:
        return client.stop_job(job_id)


def follow(address: str, job_id: str, write: Callable[[str], Any]) -> Job:
    """Hands on the job's log as it grows, from its start, and returns the job when it has ended.

    A connection that breaks is made again, for up to 5 minutes, and nothing is written twice. Ctrl-C leaves the job
    running.
    """
    written = _Written(write)
    lost_since: float | None = None
    while True:
        try:
            with _client(address) as client:
                asyncio.run(_tail(client, job_id, written))
                job = _job(client.get_job_info(job_id))
        except ClusterError:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > PATIENCE_S:
                raise
        else:
            lost_since = None
            if job.done:
                return job
        time.sleep(1.0)


class _Written:
    """Passes on what is new of a text that each connection tells from its beginning."""

    def __init__(self, write: Callable[[str], Any]):
        self._write = write
        self._length = 0
        self._heard = 0

    def start_again(self) -> None:
        self._heard = 0

    def hear(self, text: str) -> None:
        new = text[max(0, self._length - self._heard) :]
        self._heard += len(text)
        if new:
            self._length += len(new)
            self._write(new)


async def _tail(client: Any, job_id: str, written: _Written) -> None:
    """One connection: until the log ends, or breaks, or the job turns out to be over."""
    written.start_again()
    lines = client.tail_job_logs(job_id)
    following: asyncio.Future[str] | None = None
    while True:
        following = following or asyncio.ensure_future(anext(lines))
        ready, _ = await asyncio.wait([following], timeout=QUIET_S)
        if not ready:
            details = await asyncio.to_thread(client.get_job_info, job_id)
            if _job(details).done:
                following.cancel()
                return
            continue
        try:
            text = following.result()
        except StopAsyncIteration:
            return
        written.hear(text)
        following = None


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
    """Ray's job client, with its errors in our words."""
    url = _url(address)
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    route.check(address, parts.hostname or "", port, "Is it the dashboard's address (http://HEAD:8265), tunnelled?")
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    token.send()
    for chatter in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(chatter).setLevel(logging.ERROR)
    try:
        with _address_is(url):
            client = JobSubmissionClient(url)
        yield client
    except AuthenticationError as error:
        raise ClusterError(f"{address}: {route.why_not(error)}") from error
    except (requests.RequestException, aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise ClusterError(f"{address}: the connection to the cluster broke ({error}); is the head up?") from error
    except RuntimeError as error:  # what Ray raises for every answer that is not 200
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
def _address_is(url: str) -> Iterator[None]:
    """Ray lets RAY_API_SERVER_ADDRESS and RAY_ADDRESS win over the address it is given; here the user's word wins."""
    before = {name: os.environ.pop(name, None) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")}
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    try:
        yield
    finally:
        del os.environ["RAY_API_SERVER_ADDRESS"]
        os.environ.update({name: value for name, value in before.items() if value is not None})
