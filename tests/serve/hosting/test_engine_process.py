"""serve/hosting/engine_process.py without a server: what the process does with its work, and where it gets none.

That a replica's engine runs in it is checked whenever a server starts: given_to_vllm raises where vLLM starts another.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from serve.hosting import engine_process
from tests.runs import ROOT, wait_until

WORKS = """
import os
from serve.hosting.engine_process import EngineProcess

process = EngineProcess(["LlamaForCausalLM"])
from vllm.v1.engine import utils
before = utils.get_mp_context
with process.given_to_vllm():
    os.environ["LATER"] = "yes"
    work = {"command": '(echo "$LATER"; nice) > out'}
    made = utils.get_mp_context().Process(target=os.system, kwargs=work, name="any")
assert utils.get_mp_context is before
made.start()
made.join()
assert made is process and made.exitcode == 0, made.exitcode
"""
FAILS = """
from serve.hosting.engine_process import EngineProcess

process = EngineProcess(["LlamaForCausalLM"])  # kept until the exit, as a replica does
try:
    with process.given_to_vllm():
        pass
except RuntimeError as error:
    assert "has not taken" in str(error)
    raise SystemExit(3)
"""
DIES = """
import os, signal
from serve.hosting.engine_process import EngineProcess

print(EngineProcess(["LlamaForCausalLM"]).pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
LATE = """
from serve.hosting.engine_process import EngineProcess

process = EngineProcess(["LlamaForCausalLM"])
process.kill()
process.join()
process.start()
assert process.exitcode == -9, process.exitcode
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow  # both processes import vLLM
def test_the_work_is_done_in_the_environment_of_the_moment_when_it_is_given_and_gives_way(tmp_path: Path) -> None:
    assert start(WORKS, tmp_path).wait() == 0
    later, niceness = (tmp_path / "out").read_text().split()
    assert later == "yes"
    assert int(niceness) == min(19, os.nice(0) + engine_process.NICENESS)  # of the thread that does the work


@pytest.mark.slow
def test_a_replica_that_fails_before_it_sends_work_ends(tmp_path: Path) -> None:
    replica = start(FAILS, tmp_path)
    try:
        assert replica.wait(timeout=300) == 3
    finally:
        replica.kill()


@pytest.mark.slow
def test_it_ends_with_a_replica_that_dies_before_it_has_work(tmp_path: Path) -> None:
    with start(DIES, tmp_path) as replica:
        assert replica.stdout
        pid = int(replica.stdout.readline())
        replica.wait()
        wait_until(lambda: has_ended(pid))


def test_work_for_a_process_that_has_died_is_dropped_as_its_exit_code_says_why(tmp_path: Path) -> None:
    assert start(LATE, tmp_path).wait(timeout=300) == 0


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits only for its parent to read its exit code."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_preloaded_libraries_are_those_that_vllm_preloads(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"torch": "/site/torch.libs/libgomp.so.1", "vllm": "/site/vllm/libs/libtcmalloc_minimal.so.4"}
    monkeypatch.setattr(engine_process, "_library", lambda package, patterns: files[package])
    for before, after in (
        ("", f"{files['vllm']}:{files['torch']}"),
        ("/lib/other.so", f"{files['vllm']}:/lib/other.so:{files['torch']}"),
        ("/lib/libiomp5.so", f"{files['vllm']}:/lib/libiomp5.so"),
        ("/lib/libgomp.so.1:/lib/libtcmalloc.so.4", "/lib/libgomp.so.1:/lib/libtcmalloc.so.4"),
    ):
        monkeypatch.setenv("LD_PRELOAD", before)
        assert engine_process._preloaded() == after
