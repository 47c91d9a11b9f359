"""Fixture: a real Ray head that cannot import our code.

The head runs in a separate virtual environment that holds only a path to the installed packages, without Rayse. It is
started in another folder, with token authentication and its dashboard on loopback.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster import reaper, token
from cluster.session import temporary_folder
from serve.hosting.front import free_port
from tests.runs import TIMEOUT_S, wait_until

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Head:
    """A Ray head, and the environment in which other nodes of its cluster are started.

    python: the interpreter of the environment; mark: identifies the processes (cluster/reaper.py); variables: further
    ones of the environment of nodes."""

    python: Path
    folder: Path
    address: str
    dashboard: str
    mark: str
    variables: dict[str, str] = field(default_factory=dict)
    temporary: Path = field(default_factory=temporary_folder)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str, prefix: Sequence[str] = (), mark: str = "") -> None:
        """Runs `ray start --block …` in a subprocess and waits until its log says that it has started."""
        command = [*prefix, str(self.python), "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=2"]
        command += ["--object-store-memory=100000000", "--dashboard-agent-listen-port=0", "--metrics-export-port=0"]
        command += ["--runtime-env-agent-port=0", "--dashboard-agent-grpc-port=0", "--disable-usage-stats"]
        kept = ("PATH", "HOME", "LANG", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment["PATH"] = f"{self.python.parent}:{environment['PATH']}"
        environment |= {"RAY_AUTH_MODE": "token", reaper.VARIABLE: mark or self.mark, **self.variables}
        log = self.folder / f"log-{len(self.processes)}"
        with log.open("wb") as out:
            process = subprocess.Popen([*command, *arguments], cwd=self.folder, env=environment, stdout=out, stderr=out)
        self.processes.append(process)
        try:
            wait_until(lambda: b"Ray runtime started" in log.read_bytes(), process)
        except AssertionError as error:
            raise AssertionError(log.read_text()) from error

    @contextlib.contextmanager
    def another_node(self, prefix: Sequence[str] = ()) -> Iterator[None]:
        """A second node on this machine. prefix: a command that starts it, for example in another mount namespace."""
        mark = uuid.uuid4().hex
        try:
            self.start(f"--address={self.address}", prefix=prefix, mark=mark)
            yield
        finally:
            assert not reaper.kill_all(mark, seconds=60)
            self.processes.pop().wait(timeout=60)

    def stop(self) -> None:
        """Ends all processes of the head."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        assert not reaper.kill_all(self.mark, seconds=60)
        for process in self.processes:
            process.wait(timeout=60)
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture(scope="package")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head that has all installed packages but not Rayse."""
    with running_head(tmp_path_factory.mktemp("head")) as head:
        yield head


@contextlib.contextmanager
def running_head(folder: Path, variables: dict[str, str] | None = None) -> Iterator[Head]:
    """Starts a head, and ends it. variables: of the environment of all nodes."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    (site / "packages.pth").write_text(
        sysconfig.get_path("purelib")
    )  # the .pth files in there, Rayse's among them, are not read
    import ray

    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    token.ensure(folder)
    dashboard = free_port()
    head = Head(python, folder, address, f"http://127.0.0.1:{dashboard}", uuid.uuid4().hex, variables or {})
    try:
        host, port = address.split(":")
        head.start("--head", f"--port={port}", f"--node-ip-address={host}", f"--temp-dir={head.temporary}",
                   "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
                   f"--ray-client-server-port={free_port()}")  # fmt: skip
        yield head
    finally:
        head.stop()


def run_driver(
    code: str, *, check: bool = True, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a subprocess, with our packages on its path, outside of the repository."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd="/",
        env=environment,
        text=True,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=check,
    )
