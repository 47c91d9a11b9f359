"""serve/hosting/engine_process.py without a server: what the process does with its work, and where it gets none.

That a replica's engine runs in it is what every test of a server shows: vLLM is given no other process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.runs import ROOT, wait_until

pytestmark = pytest.mark.slow  # both processes import vLLM

WORKS = """
import os
from serve.hosting.engine_process import EngineProcess

process = EngineProcess(["LlamaForCausalLM"])
with process.given_to_vllm():
    from vllm.v1.engine import utils
    os.environ["LATER"] = "yes"
    made = utils.get_mp_context().Process(target=os.system, kwargs={"command": 'echo "$LATER" > out'}, name="any")
made.start()
made.join()
assert made is process and made.exitcode == 0, made.exitcode
assert utils.get_mp_context().Process is not type(process)
"""
DIES = """
import os, signal
from serve.hosting.engine_process import EngineProcess

print(EngineProcess(["LlamaForCausalLM"]).pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )


def test_the_work_is_done_in_the_environment_of_the_moment_when_it_is_given(tmp_path: Path) -> None:
    assert start(WORKS, tmp_path).wait() == 0
    assert (tmp_path / "out").read_text() == "yes\n"


def test_it_ends_with_a_replica_that_dies_before_it_has_work(tmp_path: Path) -> None:
    with start(DIES, tmp_path) as replica:
        assert replica.stdout
        pid = int(replica.stdout.readline())
        replica.wait()
        wait_until(lambda: not psutil.pid_exists(pid))
