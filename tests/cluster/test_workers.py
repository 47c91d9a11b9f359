"""cluster/workers.py on real Ray Train: the environment of a loop, and what happens when processes die."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from cluster import reaper
from cluster.errors import ClusterError
from cluster.progress import Figures
from cluster.resources import Resources
from cluster.session import Session
from tests.cluster import loops
from tests.cluster.conftest import ROOT
from tests.runs import wait_until

TWO = Resources(workers=2, threads=1)


Run = Callable[..., Any]


def counted(steps: int) -> float:
    """The total of loops.count."""
    return float(sum(range(1, steps + 1)))


@pytest.fixture
def run(session: Session, tmp_path: Path) -> Run:
    """run_workers with two workers, in the folder `run` of the test's folder."""
    from cluster.workers import Loop, run_workers

    def run(loop: Loop, config: dict[str, Any] | None = None, resources: Resources = TWO, **options: Any) -> Any:
        options = {"storage": tmp_path, "name": "run"} | options
        return run_workers(loop, config or {}, resources=resources, **options)

    return run


@pytest.fixture(scope="module")
def reported(session: Session, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of two workers: the folder of its storage, and rank 0's value of loops.report_and_save."""
    from cluster.workers import run_workers

    folder = tmp_path_factory.mktemp("reported")
    config = {"gate": str(folder / "gate")}
    value = run_workers(
        loops.report_and_save, config, resources=TWO, storage=folder, name="run", env={"EXTRA": "yes"}
    )  # fmt: skip
    return folder, value


def test_workers_form_a_group_with_their_threads_and_environment(reported: tuple[Path, dict[str, Any]]) -> None:
    report = dict(reported[1]["report"])
    assert {address.removeprefix("::ffff:") for address in report.pop("listens")} == {"127.0.0.1"}
    assert report == {
        "sum": 3.0, "rank": 0, "world": 2, "device": "cpu", "resumed": False, "threads": 1, "deepspeed": False,
        "environment": {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1", "EXTRA": "yes"},
    }  # fmt: skip


def test_a_checkpoint_is_written_beside_what_follows_straight_into_the_storage(
    reported: tuple[Path, dict[str, Any]],
) -> None:
    folder, value = reported
    assert value["saved"] == ["1 goes on", "1 written into run", "2 goes on", "2 written into run"]
    saved = sorted((folder / "run").glob("checkpoint_2*"))
    assert [sorted((file.name, file.read_text()) for file in folder.glob("rank-*")) for folder in saved] == [
        [("rank-0", "2"), ("rank-1", "2")], [("rank-0", "3"), ("rank-1", "3")]
    ]  # fmt: skip


def test_a_disk_that_is_full_ends_the_run_with_the_reason(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"run: the disk is full .* the last complete checkpoint is intact"):
        run(loops.save_slowly, {"gate": str(tmp_path / "gate"), "fill": 1})


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_worker_resumes_from_the_last_checkpoint_and_each_step_is_recorded_once(
    run: Run, tmp_path: Path
) -> None:
    from cluster.workers import read_progress

    lines, messages = [], []
    config = {"steps": 9, "kill": {1: 5}, "marks": str(tmp_path), "pause_s": 0.4}
    result = run(loops.count, config, on_progress=lines.append, on_message=messages.append)
    assert result["total"] == counted(9)
    resumed = result["resumed"]["step"]
    assert resumed in (2, 4)  # step 4's checkpoint counts once Ray Train has registered it, 0.25 s later
    assert result["resumed"]["files"] == ["rank-0", "rank-1"]
    assert [line["step"] for line in read_progress(tmp_path, "run")] == list(range(1, 10))
    steps = [figures["step"] for figures in lines]
    assert steps[:4] == [1, 2, 3, 4] and steps[resumed - 9 :] == list(range(resumed + 1, 10))
    assert len(messages) == 1 and "rank 1 on node 127.0.0.1 died" in messages[0] and "(1 of 3)" in messages[0]
    checkpoints = [path for path in (tmp_path / "run").iterdir() if path.name.startswith("checkpoint_2")]
    assert len(checkpoints) == 2

    again = run(loops.count, {"steps": 12}, resources=Resources(workers=1))  # longer, and on one worker
    assert again == {"total": counted(12), "resumed": {"step": 8, "files": ["rank-0", "rank-1"]}, "world": 1}
    assert [line["step"] for line in read_progress(tmp_path, "run")] == list(range(1, 13))


@pytest.mark.chaos
def test_a_worker_that_always_dies_is_a_cluster_error(run: Run, tmp_path: Path) -> None:
    config = {"steps": 3, "kill": {0: 1}, "marks": str(tmp_path), "always": True}
    with pytest.raises(ClusterError, match=r"rank 0 on node 127\.0\.0\.1 died .* the last of 2 times.*Logs: "):
        run(loops.count, config, resources=Resources(workers=1), max_failures=1)


def test_an_exception_of_the_loop_is_raised_as_it_was_at_once(run: Run, tmp_path: Path) -> None:
    messages = []
    with pytest.raises(loops.Mistake, match=r"^corpus\.jsonl, line 3: not JSON") as caught:
        run(loops.fail, on_message=messages.append)
    assert type(caught.value) is loops.Mistake and str(caught.value).endswith("not JSON") and not messages
    assert "raised by rank 1" in caught.value.__notes__[0]


def test_an_exception_that_cannot_be_pickled_is_named_in_a_runtime_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a worker raises; the test before: it reaches the driver."""
    import torch

    from cluster import workers

    monkeypatch.setattr(workers, "Worker", lambda folder: SimpleNamespace(rank=1, folder=folder))
    monkeypatch.setattr(workers, "_join_group", lambda worker: None)
    monkeypatch.setattr(workers.gc, "freeze", lambda: None)  # would keep this process's garbage
    loop = pickle.dumps((loops.fail_unpicklable, {}))
    with pytest.raises(RuntimeError, match="Unpicklable: left") as caught:
        workers._run({"modules": [], "loop": loop, "threads": torch.get_num_threads(), "folder": str(tmp_path)})
    assert "Unpicklable: left" in str(pickle.loads(pickle.dumps(caught.value)))


def test_workers_that_never_fit_are_refused(run: Run) -> None:
    with pytest.raises(ClusterError, match=r"workers of run: asks for 2 x \{1 CPU, 1 GPU\}; the cluster has 1 node"):
        run(loops.report, resources=Resources(workers=2, gpus_per_worker=1))


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_controller_is_a_failure_of_the_machine_and_frees_its_resources(
    run: Run, session: Session, tmp_path: Path
) -> None:
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

    # All logical CPUs, so that the second attempt needs those that the first one held.
    all_cpus = Resources(workers=2, cpus_per_worker=2)
    config = {"steps": 6, "gate": {4: str(gate)}}
    result = run(loops.count, config, resources=all_cpus, on_progress=kill_once, on_message=messages.append)
    assert len(killed) == 1 and result["total"] == counted(6)
    assert len(messages) == 1 and "controller died" in messages[0]


def command_line(pid: int) -> str:
    """The command line of a process, empty if it has ended."""
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
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
    """Runs DRIVER to its gate, sends it a signal there, and waits until it and all its children have ended."""
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


def test_ctrl_c_ends_the_driver_its_workers_and_its_ray(session: Session, tmp_path: Path) -> None:
    driver = stop_driver(tmp_path, signal.SIGINT)
    assert driver.returncode not in (0, None) and driver.stderr and "KeyboardInterrupt" in driver.stderr.read()
    written = (tmp_path / "run" / "progress.jsonl").read_bytes()
    (tmp_path / "open").touch()
    time.sleep(1.5)
    assert (tmp_path / "run" / "progress.jsonl").read_bytes() == written


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_driver_resumes_when_it_is_run_again(run: Run, tmp_path: Path) -> None:
    from cluster.workers import read_progress

    stop_driver(tmp_path, signal.SIGKILL)
    (tmp_path / "open").touch()
    time.sleep(2)  # its workers must not write any more
    assert [line["step"] for line in read_progress(tmp_path, "run")] == list(range(1, 6))
    result = run(loops.count, {"steps": 10})
    assert result["total"] == counted(10) and result["resumed"]["step"] == 4
    assert [line["step"] for line in read_progress(tmp_path, "run")] == list(range(1, 11))
