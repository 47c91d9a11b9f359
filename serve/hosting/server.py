"""A server in a process of its own, for whoever needs one while doing something else: tests, trials, `rayse chat`.

    with start(Settings(model=folder, port=0)) as server:
        requests.post(f"{server.url}/v1/chat/completions", …)

The process has a Ray of its own, so it disturbs no run, and ends when it is told to or when its parent dies, however
that comes: the kernel closes the pipe that it watches.
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

START_S = 900.0  # for a large model from a slow disk; a small one takes half a minute
STOP_S = 60.0
GIVE_UP_S = 20.0
ROOT = Path(__file__).parents[2]


@dataclass
class Server:
    """A server that answers. ready_s: from its start to its first replies; log: what its process printed."""

    url: str
    ready_s: float
    log: Path
    process: subprocess.Popen[str]

    def close(self) -> None:
        """Takes it down and waits for it. May be called twice."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise ClusterError(f"the server did not stop within {STOP_S:g} s and was killed. Log: {self.log}") from None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def start(settings: Settings, *, start_s: float = START_S) -> Server:
    """Starts a server and returns once it answers. port 0 finds a free one.

    Raises UserError and ClusterError as `app.host` does, and ClusterError after start_s."""
    settings = settings.check()
    folder = settings.logs or Path(tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    handle, log = tempfile.mkstemp(prefix="serve-", suffix=".log", dir=folder)
    apart = (IN_JOB, "RAY_ADDRESS", "RAY_SERVE_HAPROXY_BINARY_PATH")  # of the parent's Ray, or of another server
    environment = {name: value for name, value in os.environ.items() if name not in apart}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    with os.fdopen(handle, "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve.hosting.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C in a terminal is its parent's to hear
        )
    assert process.stdin and process.stdout
    process.stdin.write(settings.model_dump_json() + "\n")  # through a pipe: a key must not show in `ps`
    process.stdin.flush()
    clock = threading.Timer(start_s, process.kill)
    clock.start()
    try:
        told = _told(process)
    except BaseException:
        _give_up(process)
        raise
    finally:
        clock.cancel()
    if "url" in told:
        return Server(told["url"], told["ready_s"], Path(log), process)
    process.wait()
    if told.get("kind") == "user":
        raise UserError(told["error"])
    why = told.get("error") or f"its process ended ({process.returncode}) within {start_s:g} s of its start"
    raise ClusterError(f"{why}. Log: {log}")


def _give_up(process: subprocess.Popen[str]) -> None:
    """Ends a start that nobody waits for any more, and all that it started."""
    process.terminate()
    try:
        process.wait(GIVE_UP_S)
    except subprocess.TimeoutExpired:
        pass
    finally:  # it took too long, or Ctrl-C came again: the reaper of its Ray ends what it leaves
        process.kill()
        process.wait()


def _told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the child says of its start; nothing where it ended without a word."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    return {}


def main() -> None:
    """The child: settings from standard input, one line of JSON to standard output, until standard input ends."""
    from serve.hosting.app import host

    settings = Settings.model_validate_json(sys.stdin.readline())
    stop, ready = threading.Event(), threading.Event()

    def watch() -> None:
        sys.stdin.read()
        stop.set()
        if not ready.is_set():  # a parent that dies while it waits: nobody needs the rest of the start
            os.kill(os.getpid(), signal.SIGTERM)

    def tell(**told: Any) -> None:
        print(json.dumps(told), file=out, flush=True)

    def answers(url: str, ready_s: float) -> None:
        ready.set()
        tell(url=url, ready_s=ready_s)

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to the log
    threading.Thread(target=watch, daemon=True).start()
    try:
        host(settings, stop=stop, ready=answers, say=print)
    except UserError as error:
        tell(kind="user", error=str(error))
        sys.exit(2)
    except ClusterError as error:
        tell(kind="cluster", error=str(error))
        sys.exit(3)


if __name__ == "__main__":
    main()
