"""One run at a time works on a draft, on one machine or several; a dead run never blocks the next."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError
from pipelines.errors import UserError
from pipelines.store import lease
from pipelines.store.artifacts import Store
from pipelines.store.lease import Lease, Owner, describe, this_process
from pipelines.store.slots import Record
from tests.object_server import needs_server

ROOT = Path(__file__).parents[2]
NAME = "0123456789abcdef"
HOLD = f"""
import sys
from pipelines.store.artifacts import Store
held = Store(sys.argv[1]).lease("{NAME}", "draft {NAME}")
held.acquire(wait=True)
print("held", flush=True)
sys.stdin.readline()
held.release()
"""
ELSEWHERE: Owner = {"host": "elsewhere", "pid": os.getpid(), "started": 1.0, "machine": "another", "nonce": "1"}


@pytest.fixture(params=["folder", pytest.param("objects", marks=needs_server)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in a folder, and one of objects: the same is true of both."""
    if request.param == "folder":
        return Store(tmp_path / "store")
    for name, value in request.getfixturevalue("server").environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAYSE_SCRATCH", str(tmp_path / "scratch"))
    return Store(f"s3://bucket/{tmp_path.name}")


def lease_of(store: Store) -> Lease:
    return store.lease(NAME, f"draft {NAME}")


def write(store: Store, owner: Owner | None, **fields: Any) -> None:
    """Writes a record as another run would, whatever is there."""
    slot = lease_of(store).slot
    assert slot.write({"owner": owner, "beat": 0, **fields}, slot.read()[1]) is not None


@pytest.fixture
def holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, store.location], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_waits_and_names_the_owner(store: Store, holder: subprocess.Popen[str]) -> None:
    messages: list[str] = []
    this_lease = lease_of(store)

    def release_holder() -> None:
        while not messages:
            time.sleep(0.01)
        holder.communicate("go\n")

    thread = threading.Thread(target=release_holder)
    thread.start()
    this_lease.acquire(wait=True, on_message=messages.append)
    thread.join()
    assert len(messages) == 1
    assert messages[0].startswith(f"draft {NAME} is held by process {holder.pid} on ")
    assert this_lease.held()


def test_without_wait_a_held_lease_raises_at_once(store: Store, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(ClusterError, match=f"held by process {holder.pid} on .*--no-wait"):
        lease_of(store).acquire(wait=False)


def test_the_lease_of_a_killed_process_is_free_at_once(store: Store, holder: subprocess.Popen[str]) -> None:
    owner = lease_of(store).live_owner()
    assert owner is not None and owner["pid"] == holder.pid
    holder.kill()
    while lease_of(store).live_owner() is not None:  # until the kernel is done with it; a zombie until we wait
        time.sleep(0.01)
    taken = lease_of(store)
    taken.acquire(wait=False)
    assert taken.previous_ended
    holder.wait()


def test_the_owner_on_another_machine_lives_as_long_as_its_beat_changes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pid is that of a living process here, and its clock is decades behind: neither counts."""
    monkeypatch.setattr(lease, "STALE_AFTER_S", 5.0)
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    write(store, ELSEWHERE)
    beats = itertools.count(1)
    with pytest.raises(ClusterError, match="on elsewhere"):  # a beat follows as soon as it is watched
        lease_of(store).acquire(wait=False, on_message=lambda text: write(store, ELSEWHERE, beat=next(beats)))
    waiting = lease_of(store)
    end = time.monotonic() + 6.0
    while time.monotonic() < end:
        write(store, ELSEWHERE, beat=next(beats))
        assert waiting.attempt() is not None
        time.sleep(0.1)
    _acquire_within(waiting, 60)
    assert waiting.held() and not waiting.previous_ended


def _acquire_within(waiting: Lease, seconds: float) -> None:
    end = time.monotonic() + seconds
    while waiting.attempt() is not None:
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


def test_a_pid_of_another_container_says_nothing(store: Store) -> None:
    """The same boot, another PID namespace: the pid may be free here although its process lives there."""
    boot = this_process()["machine"].split()[0]
    write(store, {**ELSEWHERE, "machine": f"{boot} pid:[1]", "pid": 2**22 - 1})
    assert lease_of(store).attempt() is not None
    assert lease_of(store).live_owner() is not None


def test_the_heartbeat_decides_when_the_owners_pid_belongs_to_a_process_with_another_start_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = this_process("1")
    write(store, {**owner, "started": owner["started"] - 100})
    waiting = lease_of(store)
    assert waiting.attempt() is not None  # it may be the same process after the clock was set
    monkeypatch.setattr(lease, "STALE_AFTER_S", 0.0)
    _acquire_within(waiting, 60)


def test_a_heartbeat_renews_only_a_lease_that_is_held(store: Store) -> None:
    this_lease = lease_of(store)
    assert not this_lease.update()
    this_lease.acquire(wait=False)
    before = this_lease.slot.read()[1]
    assert this_lease.update()
    assert this_lease.slot.read()[1] != before

    write(store, ELSEWHERE)  # taken over
    taken_over = this_lease.slot.read()
    assert not this_lease.update(snapshot="of the old holder")
    assert not this_lease.held()
    this_lease.release()
    this_lease.remove()
    assert this_lease.slot.read() == taken_over


def test_a_released_lease_is_free_and_can_be_released_again(store: Store) -> None:
    this_lease = lease_of(store)
    this_lease.acquire(wait=False)
    this_lease.release()
    this_lease.release()
    this_lease.update()
    assert this_lease.owner() is None
    lease_of(store).acquire(wait=False)


def test_the_next_holder_reads_the_folder_and_the_snapshot_of_the_last(store: Store) -> None:
    first = lease_of(store)
    first.acquire(wait=False)
    assert first.update(folder="one", snapshot="two")
    first.release()
    second = lease_of(store)
    second.acquire(wait=False)
    assert (second.previous["folder"], second.previous["snapshot"], second.previous_ended) == ("one", "two", True)
    assert second.nonce not in ("", first.nonce)


@pytest.mark.parametrize("text", ["", '{"host": "els'])
def test_a_lease_file_truncated_by_a_kill_is_free(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path / "store")
    (store.root / "leases").mkdir(parents=True)
    (store.root / "leases" / f"{NAME}.json").write_text(text)
    lease_of(store).acquire(wait=False)


def test_of_several_processes_that_take_over_at_once_one_gets_the_lease(store: Store) -> None:
    script = HOLD.replace("wait=True", "wait=False").replace("held.acquire", "sys.stdin.readline()\nheld.acquire")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, store.location], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]  # fmt: skip
    gone = subprocess.Popen(["true"])
    gone.wait()
    write(store, {**this_process("1"), "pid": gone.pid})
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.stdout.readline() for process in processes if process.stdout is not None]
    errors = [process.communicate("end\n")[1] for process in processes]
    assert sorted(outputs) == ["", "", "", "held\n"]
    assert sum("--no-wait" in error for error in errors) == 3


def test_an_owner_is_described_by_process_host_and_start_time() -> None:
    started = time.mktime((2025, 1, 2, 10, 15, 2, 0, 0, -1))
    assert describe({**ELSEWHERE, "host": "node-1", "pid": 123, "started": started}) == (
        "process 123 on node-1 (since 10:15:02)"
    )


def test_a_kept_lease_renews_itself_and_is_free_afterwards(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_AFTER_S", 0.3)
    this_lease = lease_of(store)
    this_lease.acquire(wait=False)
    first = this_lease.slot.read()[1]
    with this_lease.kept():
        _until(lambda: this_lease.slot.read()[1] != first)
    assert this_lease.slot.read() == (None, None)


@pytest.mark.parametrize("error", [ClusterError("out of reach"), UserError("403 while a role's token is renewed")])
def test_a_heartbeat_that_is_refused_is_not_the_last(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(lease, "STALE_AFTER_S", 0.3)
    this_lease = lease_of(store)
    this_lease.acquire(wait=False)
    write_slot, refused = this_lease.slot.write, list[bool]()

    def refuse_once(record: Record, version: Any) -> Any:
        if not refused:
            refused.append(True)
            raise error
        return write_slot(record, version)

    monkeypatch.setattr(this_lease.slot, "write", refuse_once)
    first = this_lease.slot.read()[1]
    with this_lease.kept():
        _until(lambda: this_lease.slot.read()[1] != first)
    assert refused


def test_a_write_that_arrived_without_an_answer_loses_no_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    this_lease = lease_of(store)
    this_lease.acquire(wait=False)

    def lose_the_answer() -> None:
        slot_write = type(this_lease.slot).write

        def write_and_fail(record: Record, version: Any) -> Any:
            slot_write(this_lease.slot, record, version)
            raise ClusterError("no answer")

        with monkeypatch.context() as patch, pytest.raises(ClusterError):
            patch.setattr(this_lease.slot, "write", write_and_fail)
            this_lease.update(snapshot="new")

    lose_the_answer()
    assert this_lease.held() and this_lease.held()
    lose_the_answer()
    this_lease.remove()
    assert this_lease.slot.read() == (None, None)


def test_a_record_is_removed_only_by_who_wrote_it_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other takes the lease over between the comparison and the deletion."""
    this_lease = lease_of(store)
    this_lease.acquire(wait=False)
    own_version = this_lease._own_version

    def compare_then_lose() -> Any:
        version = own_version()
        write(store, ELSEWHERE)
        return version

    monkeypatch.setattr(this_lease, "_own_version", compare_then_lose)
    this_lease.remove()
    assert lease_of(store).owner() == ELSEWHERE


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
