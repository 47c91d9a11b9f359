"""Runs of micro.yaml in a separate process, which tests observe, kill and start again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from cluster import reaper

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 1200  # only ends a test that hangs: on a busy machine a start of Ray takes minutes


def start(store: Path, *flags: str) -> subprocess.Popen[str]:
    """Starts a run of micro.yaml with this store."""
    command = [sys.executable, "-m", "tests.driver", "micro", str(store), *flags]
    log = log_file(store).open("a")
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)


def log_file(store: Path) -> Path:
    """Where a run with this store logs."""
    return store.parent / f"{store.name}.log"


def finish(process: subprocess.Popen[str], store: Path) -> dict[str, Any]:
    """Waits for a run and returns its record."""
    out, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, log_file(store).read_text()[-6000:]
    return json.loads(out.splitlines()[-1])


def wait_until(
    condition: Callable[[], object],
    process: subprocess.Popen[Any] | None = None,
    *,
    within_s: float = TIMEOUT_S,
    log: Path | None = None,
) -> None:
    """Polls until the condition holds. Fails when the process, if there is one, ends before.

    log: what the failure shows, instead of the process's output."""
    end_s = time.monotonic() + within_s
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate() if log is None else log.read_text()[-6000:])
        assert time.monotonic() < end_s, "the condition did not come true"
        time.sleep(0.02)


def session_marks(pid: int) -> set[str]:
    """The marks (cluster/reaper.py) of the local Rays that a process and its children have started."""
    values = set()
    for child in psutil.Process(pid).children(recursive=True):
        try:
            values.add(child.environ().get(reaper.VARIABLE, ""))
        except psutil.Error:  # it has ended meanwhile
            continue
    return values - {""}


def session_pids(marks: Iterable[str]) -> list[int]:
    """The living processes of these Rays."""
    return [pid for mark in marks for pid in reaper.marked(mark)]


def replicas(pid: int, deployment: str = "") -> list[int]:
    """The processes of a server's replicas. pid: of the server; deployment: the beginning of a deployment's name."""
    title = f":rayse:{deployment}"
    found = []
    for child in session_pids(session_marks(pid)):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            found += [child] if title in " ".join(psutil.Process(child).cmdline()) else []
    return found


def kill_worker(process: subprocess.Popen[str], title: str) -> int:
    """kill -9 of the first Ray worker of a run whose title starts with `title`. Returns its pid."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                name = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if name.startswith(title):
                os.kill(child.pid, signal.SIGKILL)
                return child.pid
        time.sleep(0.01)
    raise AssertionError(f"no process of the run is called {title}…")


def kill_driver(process: subprocess.Popen[str], within_s: float = 30) -> None:
    """kill -9 of the driver. Fails unless all its descendants end by themselves within this time."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=within_s)
    assert not alive, f"{within_s} s after the driver's death these still live: {alive}"


def artifacts(store: Path) -> dict[str, Path]:
    """The artifacts of a store by the stage that made them, but for evaluations; no stage made two."""
    folders = [path.parent for path in store.glob("artifacts/*/*/manifest.json") if "evaluation" not in path.parts]
    by_name = {json.loads((path / "manifest.json").read_text())["name"]: path for path in folders}
    assert len(by_name) == len(folders), "a stage made two artifacts"
    return by_name


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of an artifact but its manifest (which holds times)."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
