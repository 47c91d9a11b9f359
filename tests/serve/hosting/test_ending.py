"""A server ends at once where it has no request in flight, whatever its replicas do. Real servers, with the default
time of 300 s for requests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.store.artifacts import Store
from tests.cluster.conftest import ROOT
from tests.runs import replicas
from tests.serve.hosting.running import put_model
from tests.tiny_models import Tiny

pytestmark = pytest.mark.slow


@contextmanager
def serving(tiny: Tiny, folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """`rayse serve` that may not be ready yet, with its log."""
    store = Store(folder / "store").create()
    model = put_model(store, "aaaa", tiny.first)
    command = [sys.executable, "-m", "pipelines", "serve", model.fingerprint, "--store", str(store.root), "--port", "0",
               "--json"]  # fmt: skip
    log = folder / "serve.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=stderr,
                                   env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()


def stop_replica(process: subprocess.Popen[str]) -> None:
    """Stops the replica, which answers nothing from then on."""
    deadline = time.monotonic() + 300
    while not (found := replicas(process.pid, "Replica")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.kill(found[0], signal.SIGSTOP)


def test_ctrl_c_ends_a_server_whose_model_still_loads(tiny: Tiny, tmp_path: Path) -> None:
    with serving(tiny, tmp_path) as (process, log):
        stop_replica(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, log.read_text()


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_a_server_whose_replica_hangs_and_a_second_one_at_once(
    tiny: Tiny, tmp_path: Path, times: int
) -> None:
    with serving(tiny, tmp_path) as (process, log):
        assert process.stdout and process.stdout.readline(), log.read_text()
        stop_replica(process)
        process.send_signal(signal.SIGINT)
        if times == 2:
            deadline = time.monotonic() + 25
            while "once more ends the server at once" not in log.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
        process.wait(20 if times == 2 else 100)
        assert ("has answered nothing for 30 s" in log.read_text()) == (times == 1)
