"""Drafts of a store of objects: continued on another machine from a snapshot, and never by two runs at once."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from pipelines.errors import UserError
from pipelines.objects import Objects
from pipelines.store import lease, snapshots
from pipelines.store.artifacts import Draft, Store, write_atomically
from pipelines.store.remote import upload
from pipelines.store.snapshots import LIST
from tests.object_server import Disturbance, Machines, keys, needs_server
from tests.runs import wait_until
from tests.store.test_artifacts import FILES, FINGERPRINT, contents, files_of, filled_draft, make, manifest

pytestmark = needs_server


def take(draft: Draft) -> bool:
    assert draft.snapshots is not None
    return draft.snapshots.take()


def test_a_draft_continues_on_another_machine_from_its_last_snapshot(machines: Machines) -> None:
    draft = filled_draft(machines.store("one"))
    (draft.folder("checkpoints") / "1").write_bytes(b"1" * (2 << 20))
    assert take(draft)
    saved = contents(draft.path)
    assert not take(draft), "nothing has changed"
    (draft.folder("checkpoints") / "2").write_text("after the snapshot: lost with the machine")
    draft.release()
    shutil.rmtree(machines.folder / "one")

    messages: list[str] = []
    second = machines.store("two").draft(FINGERPRINT, on_message=messages.append)
    assert contents(second.path) == saved
    assert len(messages) == 1 and messages[0].startswith(f"draft {FINGERPRINT}: continues from its snapshot s3://")
    (second.folder("checkpoints") / "1").unlink()
    assert take(second)
    second.release()

    first = machines.store("one").draft(FINGERPRINT)
    assert contents(first.path) == {name: data for name, data in saved.items() if name != "checkpoints/1"}
    artifact = machines.store("one").commit(first, manifest())
    assert files_of(artifact) == FILES
    assert keys(machines.store("one"), "drafts") == []


@pytest.mark.parametrize("damage", ["file gone", "other bytes", "cut short", "list gone"])
def test_a_snapshot_that_is_damaged_is_reported_and_its_draft_begins_again(machines: Machines, damage: str) -> None:
    store = machines.store("one")
    draft = filled_draft(store)
    assert take(draft) and store.remote is not None
    draft.release()
    key = next(k for k in keys(store, "drafts") if k.endswith("part-0.bin" if damage != "list gone" else LIST))
    objects = store.remote.objects
    if damage.endswith("gone"):
        objects.delete([key])
    else:
        objects.put(key, b"b" * (5000 if damage == "other bytes" else 50))
    messages: list[str] = []
    other = machines.store("two")
    second = other.draft(FINGERPRINT, on_message=messages.append)
    assert contents(second.path) == {}
    assert len(messages) == 1 and "begins again, for its snapshot cannot be read: s3://" in messages[0]
    for name, data in FILES.items():
        (second.out / name).parent.mkdir(parents=True, exist_ok=True)
        (second.out / name).write_bytes(data)
    assert files_of(other.commit(second, manifest())) == FILES


def test_a_server_that_fails_while_a_snapshot_is_brought_leaves_the_lease_free_and_the_snapshot(
    machines: Machines, proxy: Disturbance, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = filled_draft(machines.store("one"))
    assert take(draft)
    saved = contents(draft.path)
    draft.release()
    monkeypatch.setattr(Objects.__init__, "__kwdefaults__", {"retry_s": 1.0})
    other = machines.store("two")
    proxy.decide = lambda method, path: "slow down" if "part-0.bin" in path else "pass"
    with pytest.raises(ClusterError, match=r"part-0\.bin"):
        other.draft(FINGERPRINT)
    proxy.decide = lambda method, path: "pass"
    assert other.lease(FINGERPRINT, "").owner() is None
    assert contents(other.draft(FINGERPRINT, wait=False).path) == saved


def test_a_draft_that_is_to_be_dropped_is_not_brought(machines: Machines, proxy: Disturbance) -> None:
    draft = filled_draft(machines.store("one"))
    assert take(draft)
    draft.release()
    other = machines.store("two")
    proxy.requests.clear()
    other.drop(other.draft(FINGERPRINT, to_drop=True))
    assert not any(method == "GET" and "part-0.bin" in path for method, path in proxy.requests)
    assert keys(other, "drafts") == keys(other, "leases") == []


def test_a_kill_while_a_draft_is_dropped_leaves_no_snapshot_to_go_on_from(
    machines: Machines, proxy: Disturbance
) -> None:
    store = machines.store("one")
    draft = filled_draft(store)
    assert take(draft)
    proxy.decide = lambda method, path: "deny" if method in ("POST", "DELETE") else "pass"
    with pytest.raises(UserError):
        store.drop(draft)
    proxy.decide = lambda method, path: "pass"
    assert draft.lease is not None
    record, _ = draft.lease.slot.read()
    assert record is not None and record["snapshot"] is None


def test_on_the_same_machine_the_drafts_folder_itself_is_continued(store: Store) -> None:
    draft = filled_draft(store)
    assert take(draft)
    (draft.folder("blocks") / "late").write_text("after the snapshot")
    draft.release()
    again = store.draft(FINGERPRINT)
    assert again.path == draft.path and (again.path / "blocks" / "late").exists()
    store.drop(again)


def test_a_folder_left_by_an_earlier_holder_is_not_mistaken_for_the_latest(machines: Machines) -> None:
    first = machines.store("one").draft(FINGERPRINT)
    (first.path / "step").write_text("1")
    assert take(first)
    first.release()
    second = machines.store("two").draft(FINGERPRINT)
    (second.path / "step").write_text("2")
    assert take(second)
    second.release()
    third = machines.store("one").draft(FINGERPRINT)
    assert (third.path / "step").read_text() == "2"


def test_files_that_are_being_written_make_no_snapshot(store: Store) -> None:
    draft = filled_draft(store)
    growing = draft.path / "growing"
    growing.write_bytes(b"1" * (2 << 20))

    def upload_while_it_grows(objects: Objects, files: Mapping[Path, str]) -> dict[Path, str]:
        digests = upload(objects, files)
        with growing.open("ab") as file:
            file.write(b"2")
        return digests

    assert draft.snapshots is not None
    draft.snapshots.put = upload_while_it_grows
    assert not take(draft)
    draft.snapshots.put = upload
    (draft.path / "blocks.partial").write_text("half")
    assert take(draft)
    assert draft.lease is not None
    record, _ = draft.lease.slot.read()
    assert record is not None and store.remote is not None
    listed = store.remote.objects.get(record["snapshot"])
    assert listed is not None and set(json.loads(listed[0])) == {*(f"out/{name}" for name in FILES), "growing"}
    store.drop(draft)


def test_a_log_of_lines_that_grows_holds_no_snapshot_up(store: Store) -> None:
    draft = filled_draft(store)
    growing = draft.path / "progress.jsonl"
    growing.write_bytes(b"1" * (2 << 20))

    def upload_while_it_grows(objects: Objects, files: Mapping[Path, str]) -> dict[Path, str]:
        with growing.open("ab") as file:
            file.write(b"2")
        return upload(objects, files)

    assert draft.snapshots is not None
    draft.snapshots.put = upload_while_it_grows
    assert take(draft)
    store.drop(draft)


def publish_steadily(draft: Draft, stop: threading.Event) -> None:
    """Publishes files one after the other, in three folders in turn, and writes a log and the time of the attempt."""
    for number in itertools.count():
        for folder in ("b", "c", "a"):
            if stop.is_set():
                return
            file = draft.path / folder / f"{number:06}"
            temporary = file.with_name(f".{uuid.uuid4().hex}")
            temporary.write_text(file.name)
            temporary.rename(file)
            write_atomically(draft.path / "attempts" / "1.json", str(number))
            with (draft.path / "log.jsonl").open("a") as log:
                log.write(f"{number}\n")
            time.sleep(0.001)


def test_a_snapshot_is_taken_of_one_moment_while_files_are_published_all_the_time(store: Store) -> None:
    draft = filled_draft(store)
    for folder in ("a", "b", "c", "attempts"):
        draft.folder(folder)
    stop = threading.Event()
    thread = threading.Thread(target=publish_steadily, args=(draft, stop))
    thread.start()
    try:
        assert draft.snapshots is not None
        for _ in range(10):
            frozen = draft.snapshots._freeze(store.root / "links")
            assert frozen is not None, "files that are published hold snapshots up"
            names = {folder: sorted(name[2:] for name in frozen[0] if name[:2] == f"{folder}/") for folder in "abc"}
            a, b, c = map(len, names.values())
            assert b >= c >= a >= b - 1, "a file is missing that was published before another"
            assert all(list(map(int, numbers)) == list(range(len(numbers))) for numbers in names.values())
        assert take(draft)
    finally:
        stop.set()
        thread.join()
    assert draft.lease is not None
    record, _ = draft.lease.slot.read()
    assert record is not None and store.remote is not None
    listed = store.remote.objects.get(record["snapshot"])
    assert listed is not None and {"a/000000", "log.jsonl", "attempts/1.json"} <= set(json.loads(listed[0]))
    store.drop(draft)


def test_a_refused_request_does_not_end_the_snapshots(
    store: Store, proxy: Disturbance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "PERIOD_S", 0.2)
    proxy.decide = lambda method, path: "deny" if "/drafts/" in path else "pass"
    messages: list[str] = []
    draft = store.draft(FINGERPRINT, on_message=messages.append)
    (draft.out / "part").write_text("made")
    wait_until(lambda: messages, within_s=60)
    assert "no copy of the draft" in messages[0] and "refused the credentials" in messages[0]
    proxy.decide = lambda method, path: "pass"
    wait_until(lambda: keys(store, "drafts"), within_s=60)
    store.drop(draft)


def test_a_superseded_run_changes_nothing_of_the_new_holder(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run is stalled, and its machine is another: only its heartbeat tells, and that has ended."""
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    old_store = machines.store("one")
    old = filled_draft(old_store)
    assert take(old) and old.lease is not None and old.lease._stop is not None
    old.lease._stop.set()  # stalled
    record, version = old.lease.slot.read()
    assert record is not None
    old.lease._version = old.lease.slot.write({**record, "owner": {**record["owner"], "machine": "another"}}, version)

    new_store = machines.store("two")
    waiting: list[str] = []
    monkeypatch.setattr(lease, "STALE_AFTER_S", 1.0)
    new = new_store.draft(FINGERPRINT, on_message=waiting.append)
    assert "is held by process" in waiting[0] and "waiting for it" in waiting[0]
    assert new.path.name != old.path.name
    (new.path / "step").write_text("of the new holder")
    assert take(new)
    before = keys(new_store, "drafts")

    (old.path / "step").write_text("of the old holder")
    assert not take(old)
    with pytest.raises(ClusterError, match="stalled for so long that another took it over"):
        old_store.commit(old, manifest())
    old.release()
    old_store.drop_leftover(FINGERPRINT)  # it is held
    after = keys(new_store, "drafts")
    assert set(before) <= set(after)
    assert new.lease is not None and new.lease.held()
    assert (new.path / "step").read_text() == "of the new holder"
    assert files_of(new_store.commit(new, manifest())) == FILES


def test_a_run_that_finds_the_artifact_made_meanwhile_takes_its_files_back(machines: Machines) -> None:
    old_store, new_store = machines.store("one"), machines.store("two")
    made = make(new_store)
    draft = filled_draft(old_store)
    before = keys(old_store, "artifacts")
    with pytest.raises(ClusterError, match="another took it over"):
        old_store.commit(draft, manifest(facts={"documents/kept": 4}))
    assert keys(old_store, "artifacts") == before
    artifact = old_store.find("corpus", FINGERPRINT)
    assert artifact is not None and artifact.manifest == made.manifest
