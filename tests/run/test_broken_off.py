"""Runs that are killed, interrupted, refused or fail: finished stages are kept, and the same command resumes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.session import Session
from pipelines.errors import UserError
from pipelines.recipe import reader
from pipelines.run.plan import plan
from pipelines.run.progress import RunLog
from pipelines.run.walk import Walk, explain
from pipelines.store.runs import RunRecord, latest, resolve
from tests import small_disk
from tests.runs import wait_until
from tests.toy_stages import ROOT, STAGES, TABLE, ToyProject

ATTEMPTS = "drafts/*/attempts/*.json"  # what the meter writes each second


@pytest.fixture
def project(tmp_path: Path) -> ToyProject:
    return ToyProject(tmp_path)


def test_a_failing_stage_is_recorded_and_earlier_artifacts_stay(project: ToyProject) -> None:
    with pytest.raises(UserError, match=r"data.jsonl:7: no column 'text'"):
        project.run("tokens.behaviour=user_error")
    record = latest(project.store)
    assert (record.outcome, list(record.stages)) == ("failed", ["corpus", "tokenizer"])
    assert record.problem == "data.jsonl:7: no column 'text'; expected one"
    assert record.ended is not None
    assert all(project.store.find(s.makes, s.fingerprint) for s in record.stages.values())
    assert project.ran() == ["corpus", "tokenizer", "tokens"]
    project.run()
    assert project.ran() == ["tokens", "pretrain", "evaluate"]


def test_a_problem_with_a_file_whose_name_is_not_utf8_is_recorded(project: ToyProject) -> None:
    store = project.store.create()
    record = RunRecord.begin(store, recipe="toy", path=project.file, seed=1)
    record.end(store, "failed", "caf\udce9.txt: the file is empty")
    assert latest(store).problem == "caf\\udce9.txt: the file is empty"


def test_a_bug_keeps_its_error_and_releases_the_draft(project: ToyProject) -> None:
    with pytest.raises(ZeroDivisionError):
        project.run("tokens.behaviour=bug")
    assert latest(project.store).outcome == "failed"
    with pytest.raises(ZeroDivisionError):  # the same process may try again at once: the draft is free
        project.run("tokens.behaviour=bug", wait=False)


def test_killed_attempts_count_and_leave_their_draft(project: ToyProject) -> None:
    process = project.start_and_sleep("tokens")
    records = project.store.root.glob
    wait_until(lambda: any(json.loads(file.read_text())["wall_s"] > 1 for file in records(ATTEMPTS)), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (draft,) = (project.store.root / "drafts").iterdir()
    assert (draft / "blocks" / "half").read_text() == "kept between attempts"
    assert latest(project.store).outcome == "running"  # a killed run cannot update its record

    again = project.start_and_sleep("tokens")
    again.send_signal(signal.SIGKILL)
    again.communicate()
    (draft / "wake_up").touch()
    project.run("tokens.behaviour=sleep", until="tokens")
    artifact = resolve(project.store, "tokens")
    assert artifact.fingerprint == draft.name
    assert artifact.facts["run/attempts"] == 3
    assert float(artifact.facts["run/wall_s"]) > 1
    assert project.ran() == ["corpus", "tokenizer", "tokens", "tokens", "tokens"]


def test_ctrl_c_exits_with_130_and_names_the_remedy(project: ToyProject) -> None:
    process = project.start_and_sleep("pretrain")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.endswith("interrupted; finished stages are kept, and the same command resumes\n")
    assert "Traceback" not in errors
    record = latest(project.store)
    assert (record.outcome, list(record.stages)) == ("interrupted", STAGES[:3])
    assert not list(project.store.root.glob("leases/*.json"))


def test_a_draft_held_by_another_run_is_waited_for_or_refused(project: ToyProject) -> None:
    process = project.start_and_sleep("corpus")
    sleeping = "corpus.behaviour=sleep"
    with pytest.raises(ClusterError, match=f"held by process {process.pid} on .*--no-wait"):
        project.run(sleeping, wait=False)
    with pytest.raises(ClusterError, match=f"held by process {process.pid}"):
        project.run(sleeping, wait=False, force="corpus")  # its draft is not dropped under it either
    assert list(project.store.root.glob("drafts/*/asleep"))

    refused = subprocess.run(
        project.command("run", str(project.file), "--set", sleeping, "--no-wait"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 3
    assert f"error: draft {latest_draft(project)} is held by process {process.pid}" in refused.stderr

    waiting = project.start("--set", sleeping)
    assert waiting.stderr is not None
    assert f"held by process {process.pid}" in waiting.stderr.readline()
    process.send_signal(signal.SIGKILL)  # the waiting run takes over at once
    (draft,) = project.store.root.glob("drafts/*")
    (draft / "asleep").unlink()
    process.communicate()
    wait_until((draft / "asleep").exists, waiting)
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=20)
    assert waiting.returncode == 130


def latest_draft(project: ToyProject) -> str:
    (draft,) = project.store.root.glob("drafts/*")
    return draft.name


def test_an_artifact_that_another_run_made_meanwhile_is_reused(project: ToyProject) -> None:
    """The other run is this process: it makes the corpus after the plan."""
    loaded = reader.load(project.file, TABLE)
    walk = Walk(loaded, project.store.create(), Session(), RunLog(project.output))
    outdated = plan(loaded, project.store)
    project.run(until="corpus")
    project.ran()
    artifact = walk._make(outdated[0])
    assert project.ran() == []
    assert artifact.fingerprint == outdated[0].fingerprint
    assert list((project.store.root / "drafts").iterdir()) == []


def test_the_leftover_draft_of_a_finished_artifact_is_dropped(project: ToyProject) -> None:
    project.run()
    fingerprint = latest(project.store).stages["tokens"].fingerprint
    leftover = project.store.root / "drafts" / fingerprint / "blocks"
    leftover.mkdir(parents=True)
    project.run()
    assert not leftover.parent.exists()


def test_an_artifact_that_vanishes_between_planning_and_use_is_named(project: ToyProject) -> None:
    project.run(until="corpus")
    loaded = reader.load(project.file, TABLE)
    steps = plan(loaded, project.store)
    shutil.rmtree(resolve(project.store, "corpus").path)
    with pytest.raises(UserError, match=r"tokenizer: its corpus [0-9a-f]+ vanished from the store; run again"):
        Walk(loaded, project.store, Session(), RunLog(project.output))._make(steps[1])
    assert not list(project.store.root.glob("leases/*.json"))


def test_a_full_disk_exits_with_3_and_the_same_command_resumes(tmp_path: Path) -> None:
    project = ToyProject(tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
import subprocess, sys
from pathlib import Path
command = [sys.executable, "-m", "tests.toy_stages", "run", {str(project.file)!r}, "--store", {str(disk / "store")!r}]
full = subprocess.run([*command, "--set", "tokens.behaviour=fill"], capture_output=True, text=True)
print(full.returncode, full.stderr.splitlines()[-1], "Traceback" in full.stderr)
again = subprocess.run([*command, "--set", "tokens.behaviour=fill"], capture_output=True, text=True)
print(again.returncode, "Traceback" in again.stderr)
print(len(list(Path({str(disk)!r}).glob("store/artifacts/*/*/manifest.json"))))
for blob in Path({str(disk)!r}).glob("store/drafts/*/blob"):
    blob.unlink()
freed = subprocess.run(command, capture_output=True, text=True)
print(freed.returncode, freed.stderr)
"""
    done = small_disk.run_python(disk, "-c", script, kilobytes=1000)
    lines = done.stdout.splitlines()
    assert lines[0] == (
        f"3 error: store {disk}/store: no space left on the device; free some or choose another --store, then run the "
        f"same command: finished stages are kept False"
    ), done.stderr
    assert lines[1] == "3 False"
    assert lines[2] == "2"
    assert lines[3].startswith("0 corpus") and "made already" in lines[3]


def test_an_unwritable_store_exits_with_2(project: ToyProject) -> None:
    done = subprocess.run(
        project.command("run", str(project.file), "--store", str(project.folder / "books.txt" / "store")),
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot be written (Not a directory); choose a writable folder with --store" in done.stderr


def test_an_error_that_ray_wrapped_is_reported_plainly(project: ToyProject) -> None:
    from ray.exceptions import RayTaskError

    for kind in (UserError, ClusterError):
        wrapped = RayTaskError("task", "a long traceback", kind("books.txt:3: not text")).as_instanceof_cause()
        outer = RuntimeError("worker failed")
        outer.__cause__ = wrapped
        for error in (wrapped, outer):
            explained = explain(error, project.store)
            assert (type(explained), str(explained)) == (kind, "books.txt:3: not text")
    lines = RayTaskError("task", "a long traceback", UserError("a.txt: not text", "b.txt: empty")).as_instanceof_cause()
    assert str(explain(lines, project.store)) == "a.txt: not text\nb.txt: empty"
    full = RayTaskError("task", "a long traceback", OSError(28, "No space left on device")).as_instanceof_cause()
    explained = explain(full, project.store)
    assert isinstance(explained, ClusterError) and "no space left on the device" in str(explained)
    bug = ZeroDivisionError("division by zero")
    assert explain(bug, project.store) is bug
