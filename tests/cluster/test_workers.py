"""run_workers on real Ray Train: what a loop finds, and what comes back when processes die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster import reaper
from cluster.errors import ClusterError
from cluster.progress import Figures
from cluster.resources import Resources
from cluster.session import Session
from tests.cluster import loops
from tests.cluster.conftest import ROOT, wait_until

TWO = Resources(workers=2, threads=1)


def counted(steps: int) -> float:
    return float(sum(range(1, steps + 1)))


@pytest.fixture
def run(session: Session, tmp_path: Path):
    from cluster.workers import run_workers

    def run(loop, config=None, resources=TWO, **options):
        options = {"storage": tmp_path, "name": "run"} | options
        return run_workers(loop, config or {}, resources=resources, **options)

    return run


def test_workers_form_a_group_with_their_threads_and_environment(run):
    found = run(loops.report, env={"EXTRA": "yes"})
    assert {address.removeprefix("::ffff:") for address in found.pop("listens")} == {"127.0.0.1"}
    assert found == {
        "sum": 3.0, "rank": 0, "world": 2, "device": "cpu", "resumed": False, "threads": 1, "deepspeed": False,
        "environment": {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1", "EXTRA": "yes"},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_worker_goes_on_from_the_last_checkpoint_and_no_step_is_shown_twice(run, tmp_path: Path):
    from cluster.workers import read_progress

    shown, said = [], []
    config = {"steps": 9, "kill": {1: 5}, "marks": str(tmp_path), "pause_s": 0.4}
    found = run(loops.count, config, on_progress=shown.append, on_message=said.append)
    assert found["total"] == counted(9)
    resumed = found["resumed"]["step"]
    assert resumed in (2, 4)  # step 4's checkpoint counts once Ray Train has seen it, a quarter of a second later
    assert found["resumed"]["files"] == ["rank-0", "rank-1"]
    assert [line["step"] for line in read_progress(tmp_path, "run")] == list(range(1, 10))
    steps = [figures["step"] for figures in shown]
    assert steps[:4] == [1, 2, 3, 4] and steps[resumed - 9 :] == list(range(resumed + 1, 10))
    assert len(said) == 1 and "rank 1 on node 127.0.0.1 died" in said[0] and "(1 of 3)" in said[0]
    checkpoints = [path for path in (tmp_path / "run").iterdir() if path.name.startswith("checkpoint_2")]
    assert len(checkpoints) == 2

    again = run(loops.count, {"steps": 12}, resources=Resources(workers=1))  # longer, and on one worker
    assert again == {"total": counted(12), "resumed": {"step": 8, "files": ["rank-0", "rank-1"]}, "world": 1}
    assert [line["step"] for line in read_progress(tmp_path, "run")] == list(range(1, 13))


@pytest.mark.chaos
def test_a_worker_that_always_dies_is_a_cluster_error(run, tmp_path: Path):
    config = {"steps": 3, "kill": {0: 1}, "marks": str(tmp_path), "always": True}
    with pytest.raises(ClusterError, match=r"rank 0 on node 127\.0\.0\.1 died .* the last of 2 times.*Logs: "):
        run(loops.count, config, resources=Resources(workers=1), max_failures=1)


def test_an_exception_of_the_loop_comes_back_as_itself_at_once(run, tmp_path: Path):
    said = []
    with pytest.raises(loops.Mistake, match=r"^corpus\.jsonl, line 3: not JSON") as caught:
        run(loops.fail, on_message=said.append)
    assert type(caught.value) is loops.Mistake and str(caught.value).endswith("not JSON") and not said
    assert "raised by rank 1" in caught.value.__notes__[0]


def test_an_exception_that_does_not_travel_still_tells_what_it_was(run):
    with pytest.raises(RuntimeError, match="Odd: left"):
        run(loops.fail_oddly, resources=Resources(workers=1))


def test_workers_that_never_fit_are_refused(run):
    with pytest.raises(ClusterError, match=r"workers of run: asks for 2 x \{1 CPU, 1 GPU\}; the cluster has 1 node"):
        run(loops.report, resources=Resources(workers=2, gpus_per_worker=1))


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_controller_is_a_failure_of_the_machine_and_holds_nothing_back(run, session: Session, tmp_path: Path):
    import ray

    mark = ray.get(ray.remote(num_cpus=0)(os.getenv).remote(reaper.VARIABLE))
    assert mark
    killed, messages = [], []
    gate = tmp_path / "open"

    def kill_once(figures: Figures) -> None:
        if figures["step"] != 3 or killed:
            return
        killed.extend(pid for pid in reaper.marked(mark) if "ray::TrainController.run" in command_line(pid))
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        gate.touch()  # the first attempt cannot be over before

    # All the logical CPUs there are, so that what the first attempt held must be free again for the second.
    everything = Resources(workers=2, cpus_per_worker=2)
    config = {"steps": 6, "gate": {4: str(gate)}}
    result = run(loops.count, config, resources=everything, on_progress=kill_once, on_message=messages.append)
    assert len(killed) == 1 and result["total"] == counted(6)
    assert len(messages) == 1 and "controller died" in messages[0]


def command_line(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:  # it ended meanwhile
        return ""


DRIVER = """
import sys
from pathlib import Path
from cluster.resources import Resources
from cluster.session import Session
from tests.cluster import loops
with Session(on_message=lambda text: None):
    from cluster.workers import run_workers
    run_workers(loops.count, {"steps": 10, "gate": {6: sys.argv[1] + "/open"}}, resources=Resources(workers=2),
                storage=Path(sys.argv[1]), name="run", on_progress=lambda figures: print(figures["step"], flush=True))
"""


def stop_driver(tmp_path: Path, sign: signal.Signals) -> subprocess.Popen[str]:
    """Runs DRIVER to its gate, sends it a signal there, and waits for its end and that of all it started."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        cwd="/", env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert driver.stdout
    while driver.stdout.readline().strip() != "5":
        assert driver.poll() is None
    wait_until(lambda: loops.registered(tmp_path / "run")[-1:] == [4], driver)
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(sign)
    driver.wait(timeout=120)
    assert psutil.wait_procs(children, timeout=60)[1] == []
    return driver


def test_ctrl_c_ends_the_driver_its_workers_and_its_ray(session: Session, tmp_path: Path):
    driver = stop_driver(tmp_path, signal.SIGINT)
    assert driver.returncode not in (0, None) and driver.stderr and "KeyboardInterrupt" in driver.stderr.read()
    written = (tmp_path / "run" / "progress.jsonl").read_bytes()
    (tmp_path / "open").touch()
    time.sleep(1.5)
    assert (tmp_path / "run" / "progress.jsonl").read_bytes() == written


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_driver_goes_on_when_it_is_run_again(run, tmp_path: Path):
    from cluster.workers import read_progress

    stop_driver(tmp_path, signal.SIGKILL)
    (tmp_path / "open").touch()
    time.sleep(2)  # its workers must not write any more
    assert [line["step"] for line in read_progress(tmp_path, "run")] == list(range(1, 6))
    result = run(loops.count, {"steps": 10})
    assert result["total"] == counted(10) and result["resumed"]["step"] == 4
    assert [line["step"] for line in read_progress(tmp_path, "run")] == list(range(1, 11))
