"""Runs of micro.yaml as a user's: a process that can be watched, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 600


def start(store: Path, *flags: str) -> subprocess.Popen[str]:
    """Starts a run of micro.yaml on a store."""
    command = [sys.executable, "-m", "tests.driver", "micro", str(store), *flags]
    log = (store.parent / f"{store.name}.log").open("a")
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)


def finish(process: subprocess.Popen[str], store: Path) -> dict:
    """Waits for a run and returns its record."""
    out, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, (store.parent / f"{store.name}.log").read_text()[-6000:]
    return json.loads(out.splitlines()[-1])


def wait_for(what: Callable[[], object], process: subprocess.Popen[str], store: Path) -> None:
    """Polls until `what()` is true, while the run lives."""
    deadline = time.monotonic() + TIMEOUT_S
    while not what():
        assert process.poll() is None, (store.parent / f"{store.name}.log").read_text()[-6000:]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def kill_worker(process: subprocess.Popen[str], title: str) -> int:
    """kill -9 of one Ray worker of a run while it works, found by the start of its title among its descendants."""
    deadline = time.monotonic() + 60
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
    """kill -9 of the driver; everything it started must go by itself."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=within_s)
    assert not alive, f"{within_s} s after the driver's death these still live: {alive}"


def artifacts(store: Path) -> dict[str, Path]:
    """The artifacts of a store by the stage that made them, but for evaluations; no stage made two."""
    found = [path.parent for path in store.glob("artifacts/*/*/manifest.json") if "evaluation" not in path.parts]
    named = {json.loads((path / "manifest.json").read_text())["name"]: path for path in found}
    assert len(named) == len(found), "a stage made two artifacts"
    return named


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of an artifact but its manifest (which holds times)."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
