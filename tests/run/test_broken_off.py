"""Runs that are killed, interrupted, refused or fail: what is made stays made, and the same command goes on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.session import Session
from pipelines.errors import UserError
from pipelines.recipe import reader
from pipelines.run.plan import plan
from pipelines.run.progress import Story
from pipelines.run.walk import Walk, explain
from pipelines.store.runs import latest, resolve
from tests import small_disk
from tests.toy_stages import ROOT, STAGES, TABLE, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_failing_stage_is_recorded_and_what_was_made_before_stays(place: Place) -> None:
    with pytest.raises(UserError, match=r"data.jsonl:7: no column 'text'"):
        place.run("tokens.behaviour=user_error")
    record = latest(place.store)
    assert (record.outcome, list(record.stages)) == ("failed", ["corpus", "tokenizer"])
    assert record.problem == "data.jsonl:7: no column 'text'; expected one"
    assert record.ended is not None
    assert all(place.store.find(s.makes, s.fingerprint) for s in record.stages.values())
    assert place.ran() == ["corpus", "tokenizer", "tokens"]
    place.run()
    assert place.ran() == ["tokens", "pretrain", "evaluate"]


def test_a_bug_keeps_its_own_error_and_lets_the_draft_go(place: Place) -> None:
    with pytest.raises(ZeroDivisionError):
        place.run("tokens.behaviour=bug")
    assert latest(place.store).outcome == "failed"
    with pytest.raises(ZeroDivisionError):  # the same process may try again at once: nobody holds the draft
        place.run("tokens.behaviour=bug", wait=False)


def test_attempts_that_were_killed_count_and_leave_their_draft(place: Place) -> None:
    process = place.start_and_sleep("tokens")
    time.sleep(1.2)  # the meter writes each second
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (draft,) = (place.store.root / "drafts").iterdir()
    assert (draft / "blocks" / "half").read_text() == "kept between attempts"
    assert latest(place.store).outcome == "running"  # a killed run could say nothing more

    again = place.start_and_sleep("tokens")
    again.send_signal(signal.SIGKILL)
    again.communicate()
    (draft / "wake_up").touch()
    place.run("tokens.behaviour=sleep", until="tokens")
    artifact = resolve(place.store, "tokens")
    assert artifact.fingerprint == draft.name
    assert artifact.facts["run/attempts"] == 3
    assert float(artifact.facts["run/wall_s"]) > 1
    assert place.ran() == ["corpus", "tokenizer", "tokens", "tokens", "tokens"]


def test_ctrl_c_says_how_to_go_on_and_exits_with_130(place: Place) -> None:
    process = place.start_and_sleep("pretrain")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.endswith("interrupted; what is made stays made: the same command goes on\n")
    assert "Traceback" not in said
    record = latest(place.store)
    assert (record.outcome, list(record.stages)) == ("interrupted", STAGES[:3])
    assert not list(place.store.root.glob("drafts/*/lease.json"))


def test_a_draft_held_by_another_run_is_waited_for_or_refused(place: Place) -> None:
    process = place.start_and_sleep("corpus")
    sleeping = "corpus.behaviour=sleep"
    with pytest.raises(ClusterError, match=f"held by process {process.pid} on .*--no-wait"):
        place.run(sleeping, wait=False)
    with pytest.raises(ClusterError, match=f"held by process {process.pid}"):
        place.run(sleeping, wait=False, force="corpus")  # its draft is not dropped under it either
    assert list(place.store.root.glob("drafts/*/asleep"))

    refused = subprocess.run(
        place.command("run", str(place.file), "--set", sleeping, "--no-wait"), cwd=ROOT, capture_output=True, text=True
    )
    assert refused.returncode == 3
    assert f"error: draft {latest_draft(place)} is held by process {process.pid}" in refused.stderr

    waiting = place.start("--set", sleeping)
    assert waiting.stderr is not None
    assert f"held by process {process.pid}" in waiting.stderr.readline()
    process.send_signal(signal.SIGKILL)  # the waiting run takes over at once
    (draft,) = place.store.root.glob("drafts/*")
    (draft / "asleep").unlink()
    process.communicate()
    while not (draft / "asleep").exists():
        assert waiting.poll() is None, waiting.communicate()
        time.sleep(0.02)
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=20)
    assert waiting.returncode == 130


def latest_draft(place: Place) -> str:
    (draft,) = place.store.root.glob("drafts/*")
    return draft.name


def test_what_another_run_made_while_we_waited_is_taken(place: Place) -> None:
    """The other run is this process: it made the corpus after we planned."""
    loaded = reader.load(place.file, TABLE)
    walk = Walk(loaded, place.store.create(), Session(), Story(place.said))
    late = plan(loaded, place.store)
    place.run(until="corpus")
    place.ran()
    made = walk._make(late[0])
    assert place.ran() == []
    assert made.fingerprint == late[0].fingerprint
    assert list((place.store.root / "drafts").iterdir()) == []


def test_what_a_kill_left_of_a_finished_draft_is_cleared_away(place: Place) -> None:
    place.run()
    fingerprint = latest(place.store).stages["tokens"].fingerprint
    left = place.store.root / "drafts" / fingerprint / "blocks"
    left.mkdir(parents=True)
    place.run()
    assert not left.parent.exists()


def test_an_artifact_that_vanishes_between_planning_and_use_is_named(place: Place) -> None:
    place.run(until="corpus")
    loaded = reader.load(place.file, TABLE)
    steps = plan(loaded, place.store)
    shutil.rmtree(resolve(place.store, "corpus").path)
    with pytest.raises(UserError, match=r"tokenizer: its corpus [0-9a-f]+ vanished from the store; run again"):
        Walk(loaded, place.store, Session(), Story(place.said))._make(steps[1])
    assert not list(place.store.root.glob("drafts/*/lease.json"))


def test_a_full_disk_exits_with_3_and_the_same_command_goes_on(tmp_path: Path) -> None:
    place = Place(tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
import subprocess, sys
from pathlib import Path
command = [sys.executable, "-m", "tests.toy_stages", "run", {str(place.file)!r}, "--store", {str(disk / "store")!r}]
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
        f"same command: what is made stays made False"
    ), done.stderr
    assert lines[1] == "3 False"
    assert lines[2] == "2"
    assert lines[3].startswith("0 corpus") and "made already" in lines[3]


def test_an_unwritable_store_exits_with_2(place: Place) -> None:
    done = subprocess.run(
        place.command("run", str(place.file), "--store", str(place.folder / "books.txt" / "store")),
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot be written (Not a directory); choose a writable folder with --store" in done.stderr


def test_what_ray_wrapped_is_told_plainly(place: Place) -> None:
    from ray.exceptions import RayTaskError

    for kind in (UserError, ClusterError):
        wrapped = RayTaskError("task", "a long traceback", kind("books.txt:3: not text")).as_instanceof_cause()
        outer = RuntimeError("worker failed")
        outer.__cause__ = wrapped
        for error in (wrapped, outer):
            found = explain(error, place.store)
            assert (type(found), str(found)) == (kind, "books.txt:3: not text")
    full = RayTaskError("task", "a long traceback", OSError(28, "No space left on device")).as_instanceof_cause()
    found = explain(full, place.store)
    assert isinstance(found, ClusterError) and "no space left on the device" in str(found)
    bug = ZeroDivisionError("division by zero")
    assert explain(bug, place.store) is bug
