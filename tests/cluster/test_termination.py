"""cluster/termination.py: SIGTERM ends a run as Ctrl-C does, without a C++ stack; the same command resumes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster import jobs, reaper
from cluster.termination import INTERRUPTED
from pipelines.store.artifacts import Store
from pipelines.store.runs import latest, resolve
from tests.cluster import counting_stages, loops
from tests.cluster.conftest import ROOT, TIMEOUT_S, Head, run_driver
from tests.cluster.test_workers import counted
from tests.runs import session_marks, wait_until

MESSAGE = "interrupted; finished stages are kept, and the same command resumes\n"


@dataclass
class Counting:
    """The recipe of counting_stages.py, its store, and the command that runs it."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "recipe.yaml").write_text(counting_stages.RECIPE)
        self.store = Store(self.folder / "store")
        self.command = [sys.executable, "-m", "tests.cluster.counting_stages", "run", str(self.folder / "recipe.yaml"),
                        "--store", str(self.store.root)]  # fmt: skip

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def is_at_the_gate(self) -> bool:
        """Whether the workers wait before step 6, and the checkpoint of step 4 is registered."""
        return any(loops.registered(folder)[-1:] == [4] for folder in self.store.root.glob("drafts/*/training"))

    def resume(self) -> int:
        """Runs the command to its end. Returns the step of the checkpoint from which it resumed."""
        (self.store.root / "open").touch()
        done = subprocess.run(self.command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        artifact = resolve(self.store, "count")
        assert float((artifact.path / "total.txt").read_text()) == counted(10)
        return int(artifact.facts["count/resumed_step"])


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    return Counting(tmp_path)


def terminate(process: subprocess.Popen[str]) -> str:
    """Sends SIGTERM, checks that the process ends with the message alone and leaves no process behind.

    Returns its stderr."""
    (mark,) = session_marks(process.pid)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (INTERRUPTED, ""), err
    assert err.endswith(MESSAGE), err
    assert not any(trace in err for trace in ("***", "SIGTERM received", "Traceback", "  @  ")), err
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert reaper.marked(mark) == []
    return err


@pytest.mark.slow
def test_sigterm_in_the_middle_of_a_stage_ends_the_run_and_the_same_command_resumes_it(counting: Counting) -> None:
    process = counting.start()
    wait_until(counting.is_at_the_gate, process)
    terminate(process)
    assert latest(counting.store).outcome == "interrupted"
    assert not list(counting.store.root.glob("leases/*.json"))
    assert counting.resume() == 4


@pytest.mark.parametrize("num_processes", [1, 4])
def test_sigterm_while_ray_starts_ends_the_run(counting: Counting, num_processes: int) -> None:
    """Inside ray.init, which would set signal handlers: at its first process, and when most of its daemons run."""
    process = counting.start()
    wait_until(lambda: sum(len(reaper.marked(mark)) for mark in session_marks(process.pid)) >= num_processes, process)
    terminate(process)


@pytest.mark.slow
def test_a_stopped_job_says_how_to_resume(head: Head, counting: Counting) -> None:
    command = ["python", *counting.command[1:]]
    job_id = jobs.submit(head.dashboard, command, env={"PYTHONPATH": str(ROOT)})
    wait_until(lambda: counting.is_at_the_gate() or jobs.status(head.dashboard, job_id).done)
    assert jobs.stop_job(head.dashboard, job_id)
    log: list[str] = []
    job = jobs.follow(head.dashboard, job_id, log.append)
    assert (job.status, job.exit_code) == ("STOPPED", INTERRUPTED), "".join(log)
    assert "".join(log).endswith(MESSAGE), "".join(log)
    assert "***" not in "".join(log)
    assert latest(counting.store).outcome == "interrupted"
    assert counting.resume() == 4


CLEANUP = """
import sys, time
from cluster import termination
termination.REPEAT_S = {repeat_s}
with termination.sigterm_interrupts():
    try:
        print("working", flush=True)
        time.sleep(600)
    except termination.Terminated:
        print("cleaning up", flush=True)
        sys.stdin.readline()
        print("clean", flush=True)
"""


def interrupted_twice(repeat_s: float) -> subprocess.Popen[str]:
    """A program that has received two SIGTERMs; its cleanup lasts until it reads a line."""
    program = subprocess.Popen(
        [sys.executable, "-c", CLEANUP.format(repeat_s=repeat_s)], cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdout
    assert program.stdout.readline() == "working\n"
    program.send_signal(signal.SIGTERM)
    assert program.stdout.readline() == "cleaning up\n"
    program.send_signal(signal.SIGTERM)
    return program


def test_a_second_sigterm_ends_the_process_at_once() -> None:
    program = interrupted_twice(repeat_s=0.0)
    program.wait(timeout=30)
    assert program.stderr and "without cleaning up; the same command resumes" in program.stderr.read()
    assert program.returncode == INTERRUPTED


def test_a_sigterm_to_the_process_and_to_its_group_counts_once() -> None:
    program = interrupted_twice(repeat_s=3600.0)
    out, err = program.communicate("\n", timeout=30)
    assert (program.returncode, out, err) == (0, "clean\n", "")


DROPPED = """
import os, signal, time
from cluster import termination

class Destructor:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)  # Python runs the handler in here, and what it raises is dropped

def broad():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)
    except BaseException:
        return

try:
    with termination.sigterm_interrupts():
        {drop}()
        time.sleep(600)
except termination.Terminated:
    print("ended")
"""


@pytest.mark.parametrize("drop", ["Destructor", "broad"])
def test_a_sigterm_whose_exception_a_library_drops_ends_the_program_all_the_same(drop: str) -> None:
    program = run_driver(DROPPED.format(drop=drop), check=False)
    assert (program.returncode, program.stdout, program.stderr) == (0, "ended\n", "")


TRANSLATED = """
import os, signal, time
from cluster import termination

termination.CHECK_S = 0.05

def translate():  # as Ray does
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
    except KeyboardInterrupt:
        pass
    raise KeyboardInterrupt

try:
    with termination.sigterm_interrupts():
        try:
            translate()
        finally:
            try:
                raise OSError("in the cleanup")
            except OSError:
                time.sleep(1)
            print("clean")
except termination.Terminated:
    print("interrupted again")
except KeyboardInterrupt:
    print("ended")
"""


def test_a_cleanup_is_not_interrupted_although_another_exception_took_the_first_ones_place() -> None:
    assert run_driver(TRANSLATED).stdout == "clean\nended\n"
