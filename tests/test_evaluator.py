"""The evaluator's process: when it is started, when it is replaced, and which error its death raises.

Their order starts few engines: a test ends what the next one starts anew, and the last one leaves a model of another
shape, with which test_evaluate.py, next in the same process, begins.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cluster.errors import ClusterError, MemberLost
from cluster.gang import Gang
from cluster.resources import Resources
from cluster.session import Session
from pipelines.evaluator import EngineSettings, Evaluator, _by_tokens, idle_bytes
from pipelines.inference import probe
from tests import tiny_models
from tests.runs import wait_until
from tests.tiny_models import CONTEXT, Tiny

SETTINGS = EngineSettings(threads=1, max_tokens=CONTEXT, answer_s=120)


def test_no_process_is_started_before_a_model_is_loaded() -> None:
    session = Session()
    evaluator = Evaluator(session)
    evaluator.rest()
    evaluator.close()
    assert not session.started
    with pytest.raises(ValueError, match="no model is loaded"):
        evaluator.logprobs([[1, 2]])


FAILING = """
import os, signal, sys, threading
from pathlib import Path
from types import SimpleNamespace
from cluster.errors import ClusterError
from pipelines import evaluator

def engine(folder, settings, number):
    if number == 1 and sys.argv[1] == "fails":
        raise ClusterError("engine 2 has no room")
    if number == 1:
        os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait()  # starts, and starts

evaluator._engine = engine
evaluator.Resources.check = lambda *args, **kwargs: None
try:
    settings = evaluator.EngineSettings(threads=1, max_tokens=16, engines=3)
    evaluator.Evaluator(SimpleNamespace(start=lambda: None)).load(Path("model"), settings)
except (ClusterError, KeyboardInterrupt) as error:
    print(repr(error))
"""


@pytest.mark.parametrize(
    ("event", "error"),
    [("fails", "ClusterError('engine 2 has no room')"), ("is broken off with Ctrl-C", "KeyboardInterrupt()")],
)
def test_a_start_that_fails_or_is_broken_off_waits_for_no_engine(event: str, error: str) -> None:
    command = [sys.executable, "-c", FAILING, event]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == f"{error}\n"


class Plain:
    """What an evaluator asks of an engine, without a model."""

    def describe(self) -> dict[str, Any]:
        times = {"import_s": 0.0, "engine_s": 0.0}
        return {"pid": os.getpid(), "device": "cpu", "dtype": "float32", "gap_nats": None, **times}


def test_engines_are_added_to_those_that_are_up_and_fewer_are_others(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def engine(folder: Path, settings: EngineSettings, number: int) -> Gang:
        return Gang(Plain, 1, resources=Resources(cpus_per_worker=0), name=f"{folder.name} {number}")

    monkeypatch.setattr("pipelines.evaluator._engine", engine)
    evaluator, notes = Evaluator(session), list[str]()

    def pids(engines: int) -> list[int]:
        evaluator.load(tmp_path / "model", replace(SETTINGS, engines=engines), notes.append)
        with evaluator.running("describe") as gangs:
            assert [gang.name for gang in gangs] == [f"model {number}" for number in range(engines)]
            return [gang.call("describe", deadline_s=60)[0]["pid"] for gang in gangs]

    try:
        (first,) = pids(1)
        three = pids(3)
        assert three[0] == first and len({*three}) == 3 and pids(3) == three
        assert "3 engines" in notes[-1] and len(notes) == 2
        assert pids(1) != [first], "one is not chosen of several"
    finally:
        evaluator.close()


def test_how_many_engines_share_a_gpu() -> None:
    number = {(gpus, engines): replace(SETTINGS, gpus=gpus, engines=engines).engines_per_gpu
              for gpus, engines in ((0, 4), (1, 4), (0.5, 1), (0.5, 4), (0.3, 4), (0.3, 2))}  # fmt: skip
    half = replace(SETTINGS, gpus=0.5, engines=2)
    assert half.covers(half) and not half.covers(replace(half, engines=1)), "which took more memory"
    assert number == {(0, 4): 1, (1, 4): 1, (0.5, 1): 1, (0.5, 4): 2, (0.3, 4): 3, (0.3, 2): 2}


def test_a_resting_evaluator_of_a_gpu_or_of_much_memory_ends_and_starts_again(
    evaluator: Evaluator, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the process lives, Ray keeps the GPU from a stage that wants it. On a CPU a small process stays."""
    evaluator.load(tiny.first, SETTINGS)
    pid = evaluator.describe()["pid"]
    evaluator.rest()
    assert evaluator.describe()["pid"] == pid
    before = evaluator.logprobs([[1, 2, 7]])
    comparison, seconds = evaluator.compare()
    assert comparison.memory_bytes > 2**28 and seconds > 0 and comparison.planned_s > 0
    evaluator.count_anew()
    comparison, seconds = evaluator.compare()
    assert (comparison.planned_s, seconds) == (0.0, 0.0), "what was done before is not counted"
    monkeypatch.setattr("pipelines.evaluator.idle_bytes", lambda: 2**40)
    evaluator.rest()
    assert evaluator.settings == SETTINGS
    monkeypatch.setattr("pipelines.evaluator.idle_bytes", lambda: 2**20)
    evaluator.rest()
    wait_until(lambda: not psutil.pid_exists(pid))
    assert evaluator.settings is None
    monkeypatch.setattr("pipelines.evaluator.idle_bytes", lambda: 2**40)
    evaluator.load(tiny.first, SETTINGS)
    assert np.array_equal(evaluator.logprobs([[1, 2, 7]]), before)
    pid = evaluator.describe()["pid"]
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "_settings", replace(SETTINGS, gpus=0.5))
        evaluator.rest()
    wait_until(lambda: not psutil.pid_exists(pid))


def test_what_an_idle_engine_may_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """2 GiB on a laptop, a twentieth of a large machine; a container is as large as its limit."""
    monkeypatch.setattr("pipelines.evaluator.CGROUP_LIMIT", tmp_path / "memory.max")
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**22}  # 16 GiB
    monkeypatch.setattr("os.sysconf", lambda name: pages[name])
    assert idle_bytes() == 2 * 2**30
    pages["SC_PHYS_PAGES"] = 2**25
    assert idle_bytes() == pytest.approx(0.05 * 128 * 2**30)
    (tmp_path / "memory.max").write_text("max\n")
    assert idle_bytes() == pytest.approx(0.05 * 128 * 2**30)
    (tmp_path / "memory.max").write_text(f"{16 * 2**30}\n")
    assert idle_bytes() == 2 * 2**30


def test_a_comparison_that_fails_loses_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(Session())
    monkeypatch.setattr(evaluator, "_settings", SETTINGS)

    def lost(*_: object, **__: object) -> None:
        raise MemberLost("gang evaluator: no answer to compare within 120 s")

    monkeypatch.setattr(evaluator, "_call", lost)
    notes: list[str] = []
    comparison, seconds = evaluator.compare(notes.append)
    assert comparison.errors(seconds) == {}
    assert notes == [
        "what the evaluator took is not compared with the plan: gang evaluator: no answer to compare within 120 s"
    ]


def test_batches_keep_the_order_of_rows_and_the_token_limit() -> None:
    rows = [[1] * length for length in (3, 3, 3, 9, 1, 1)]
    assert [[len(row) for row in batch] for batch in _by_tokens(rows, 6)] == [[3, 3], [3], [9], [1, 1]]


def test_logprobs_of_many_batches_are_in_order_and_report_progress(evaluator: Evaluator, tiny: Tiny) -> None:
    evaluator.load(tiny.first, SETTINGS)
    rows = [[1, 2 + number % 600, 7] for number in range(11_000)]
    progress: list[tuple[int, int]] = []
    logprobs = evaluator.logprobs(rows, lambda done, total: progress.append((done, total)))
    assert len(progress) == 2 and progress[-1] == (11_000, 11_000)
    for number in (0, 5_000, 10_999):
        expected = tiny_models.reference_logprobs(tiny.first, [rows[number]])[0]
        assert logprobs[number] == pytest.approx(expected, abs=1e-4)


def test_load_replaces_a_process_that_died_while_idle(evaluator: Evaluator, tiny: Tiny) -> None:
    evaluator.load(tiny.first, SETTINGS)
    pid = evaluator.describe()["pid"]
    os.kill(pid, signal.SIGKILL)  # as if it died while another stage runs
    notes: list[str] = []
    evaluator.load(tiny.first, SETTINGS, notes.append)  # the same folder: a living process would keep its weights
    assert evaluator.describe()["pid"] != pid
    assert "process is replaced" in notes[0] and "died" in notes[0] and "evaluator up" in notes[1]
    (logprobs,) = evaluator.logprobs([[1, 2, 3]])
    assert logprobs == pytest.approx(tiny_models.reference_logprobs(tiny.first, [[1, 2, 3]])[0], abs=1e-4)


def test_killed_process_raises_a_cluster_error_that_names_it(evaluator: Evaluator, tiny: Tiny) -> None:
    evaluator.load(tiny.first, SETTINGS)
    os.kill(evaluator.describe()["pid"], signal.SIGKILL)
    with pytest.raises(ClusterError, match=r"gang evaluator: rank 0 on .* died in logprobs"):
        evaluator.logprobs([[1, 2, 3]])
    with pytest.raises(ValueError, match="no model is loaded"):
        evaluator.logprobs([[1, 2, 3]])


def test_process_is_kept_for_the_same_shape_and_replaced_for_another(
    evaluator: Evaluator, tiny: Tiny, tmp_path: Path
) -> None:
    notes: list[str] = []
    evaluator.load(tiny.first, SETTINGS)
    pid = evaluator.describe()["pid"]
    evaluator.load(tiny.second, SETTINGS, notes.append)
    assert evaluator.describe()["pid"] == pid and "pushed" in notes[0]
    evaluator.load(tiny.second, SETTINGS, notes.append)
    assert len(notes) == 1  # loaded already: no message, no work
    other = tmp_path / "other"
    shutil.copytree(tiny.other, other)
    probe.write(other, probe.by_transformers(tiny.other))
    evaluator.load(other, SETTINGS, notes.append)
    about = evaluator.describe()
    assert about["pid"] != pid and not psutil.pid_exists(pid)
    assert "another shape" in notes[1] and "evaluator up" in notes[2]
    assert about["gap_nats"] < 1e-4  # a new engine is checked too, where the model has a probe
    (row,) = tiny_models.rows(1, CONTEXT)
    (logprobs,) = evaluator.logprobs([row])
    assert float(np.abs(logprobs - tiny_models.reference_logprobs(tiny.other, [row])[0]).max()) < 1e-4


@pytest.mark.slow
def test_new_engine_that_disagrees_with_the_learners_probe_is_refused(
    evaluator: Evaluator, tiny: Tiny, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(tiny.other, wrong)
    probe.write(wrong, probe.Probe([1, 2, 3], [-1.0, -1.0]))
    evaluator.close()
    with pytest.raises(ClusterError, match=r"does not compute what its learner did: the probe of .* nats off"):
        evaluator.load(wrong, SETTINGS)
