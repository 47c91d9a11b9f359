"""A server in a separate process, for code that needs one while it does something else: tests, trials, `rayse chat`.

    with start(Settings(model=folder, port=0)) as server:
        requests.post(f"{server.url}/v1/chat/completions", …)

The process starts a separate Ray, so it disturbs no run. It ends when it is closed or when its parent dies, however
that happens: the kernel then closes the pipe that it reads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.session import IN_JOB
from pipelines.errors import UserError
from serve.settings import Settings

START_TIMEOUT_S = 900.0  # enough for a large model from a slow disk; a small one takes half a minute
STOP_TIMEOUT_S = 60.0  # beside the time that requests in flight get
TERMINATE_TIMEOUT_S = 20.0
# Variables that point to the parent's Ray, or to the front of another server.
PARENT_VARIABLES = (IN_JOB, "RAY_ADDRESS", "RAY_SERVE_HAPROXY_BINARY_PATH")
ROOT = Path(__file__).parents[2]


@dataclass
class Server:
    """A server that is ready. ready_s: seconds from its start until then; log: file with what its process printed;
    stop_timeout_s: how long its end may take."""

    url: str
    ready_s: float
    log: Path
    process: subprocess.Popen[str]
    stop_timeout_s: float = STOP_TIMEOUT_S

    def close(self) -> None:
        """Stops the server and waits for its end. May be called twice. Raises ClusterError where it must be killed."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(self.stop_timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise ClusterError(
                f"the server did not stop within {self.stop_timeout_s:g} s and was killed. Log: {self.log}"
            ) from None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def start(settings: Settings, *, timeout_s: float = START_TIMEOUT_S) -> Server:
    """Starts a server, and returns once it is ready. port 0 finds a free one.

    Raises UserError and ClusterError as `app.host` does, and ClusterError after timeout_s."""
    settings = settings.check()
    folder = settings.logs or Path(tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    handle, log = tempfile.mkstemp(prefix="serve-", suffix=".log", dir=folder)
    with os.fdopen(handle, "w") as stderr:
        process = _spawn(settings, stderr.fileno())
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        report = _read_report(process)
    except BaseException:
        _abort(process)
        raise
    finally:
        timer.cancel()
    if "url" in report:
        stop_timeout_s = settings.limits.longest_drain_s + STOP_TIMEOUT_S
        return Server(report["url"], report["ready_s"], Path(log), process, stop_timeout_s)
    process.wait()
    if report.get("kind") == "user":
        raise UserError(report["error"])
    problem = report.get("error") or f"its process ended ({process.returncode}) within {timeout_s:g} s of its start"
    raise ClusterError(f"{problem}. Log: {log}")


def _spawn(settings: Settings, stderr: int) -> subprocess.Popen[str]:
    """Starts the process and sends it its settings: through a pipe, because `ps` would show a key among arguments."""
    environment = {name: value for name, value in os.environ.items() if name not in PARENT_VARIABLES}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "serve.hosting.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C in a terminal goes to its parent only, which decides
    )
    assert process.stdin
    process.stdin.write(settings.model_dump_json() + "\n")
    process.stdin.flush()
    return process


def _read_report(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The process's report on its start (url and ready_s, or kind and error); empty where it ended without one."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    return {}


def _abort(process: subprocess.Popen[str]) -> None:
    """Ends a process whose start nobody waits for any more."""
    process.terminate()
    try:
        process.wait(TERMINATE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:  # it took too long, or Ctrl-C came again: its Ray's reaper ends the processes that it leaves
        process.kill()
        process.wait()


def main() -> None:
    """Runs the server's process: settings from standard input, a report as one line of JSON to standard output; serves
    until standard input ends."""
    from serve.hosting.app import host

    settings = Settings.model_validate_json(sys.stdin.readline())
    stop, ready = threading.Event(), threading.Event()

    def stop_with_parent() -> None:
        sys.stdin.read()
        stop.set()
        if not ready.is_set():  # the parent died while it waited: the rest of the start is not needed
            os.kill(os.getpid(), signal.SIGTERM)

    def report(**values: str | float) -> None:
        print(json.dumps(values), file=stdout, flush=True)

    def report_ready(url: str, ready_s: float) -> None:
        ready.set()
        report(url=url, ready_s=ready_s)

    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # everything else that is printed goes to the log
    threading.Thread(target=stop_with_parent, daemon=True).start()
    try:
        host(settings, stop=stop, on_ready=report_ready, log=print)
    except UserError as error:
        report(kind="user", error=str(error))
        sys.exit(2)
    except ClusterError as error:
        report(kind="cluster", error=str(error))
        sys.exit(3)


if __name__ == "__main__":
    main()
