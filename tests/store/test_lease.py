"""One run at a time works on a draft; a dead run never blocks the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from pipelines.store import lease
from pipelines.store.lease import Lease, Owner, describe

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from pipelines.store.lease import Lease
held = Lease(Path(sys.argv[1]))
held.acquire(wait=True)
print("held", flush=True)
sys.stdin.readline()
held.release()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "0123456789abcdef" / "lease.json"


@pytest.fixture
def holder(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_waits_and_names_the_owner(file: Path, holder: subprocess.Popen[str]) -> None:
    messages: list[str] = []
    this_lease = Lease(file)

    def release_holder() -> None:
        while not messages:
            time.sleep(0.01)
        holder.communicate("go\n")

    thread = threading.Thread(target=release_holder)
    thread.start()
    this_lease.acquire(wait=True, on_message=messages.append)
    thread.join()
    assert len(messages) == 1
    assert messages[0].startswith(f"draft 0123456789abcdef is held by process {holder.pid} on ")
    assert this_lease.held()


def test_without_wait_a_held_lease_raises_at_once(file: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(ClusterError, match=f"held by process {holder.pid} on .*--no-wait"):
        Lease(file).acquire(wait=False)


def test_the_lease_of_a_killed_process_is_free_at_once(file: Path, holder: subprocess.Popen[str]) -> None:
    owner = Lease(file).live_owner()
    assert owner is not None and owner["pid"] == holder.pid
    holder.kill()
    while Lease(file).live_owner() is not None:  # until the kernel is done with it; it stays a zombie until we wait
        time.sleep(0.01)
    Lease(file).acquire(wait=False)
    holder.wait()


def test_a_lease_of_another_host_is_valid_for_thirty_seconds(file: Path) -> None:
    file.parent.mkdir()
    file.write_text(json.dumps({"host": "elsewhere", "pid": os.getpid(), "started": 1.0}))
    with pytest.raises(ClusterError, match="on elsewhere"):
        Lease(file).acquire(wait=False)
    beat = time.time() - lease.STALE_AFTER_S - 1
    os.utime(file, (beat, beat))
    Lease(file).acquire(wait=False)


def test_the_heartbeat_decides_when_the_owners_pid_belongs_to_a_process_with_another_start_time(file: Path) -> None:
    this_lease = Lease(file)
    this_lease.acquire(wait=False)
    owner = this_lease.owner()
    assert owner is not None
    file.write_text(json.dumps(owner | {"started": owner["started"] - 100}))
    with pytest.raises(ClusterError):  # it may be the same process after the clock was set
        Lease(file).acquire(wait=False)
    os.utime(file, (1, 1))
    Lease(file).acquire(wait=False)


def test_a_heartbeat_renews_only_a_lease_that_is_held(file: Path) -> None:
    this_lease = Lease(file)
    this_lease.acquire(wait=False)
    os.utime(file, (1, 1))
    this_lease.beat()
    assert time.time() - file.stat().st_mtime < 5

    file.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1.0}))  # taken over
    os.utime(file, (1, 1))
    this_lease.beat()
    assert file.stat().st_mtime == 1
    assert not this_lease.held()
    this_lease.release()
    assert file.exists()


def test_a_released_lease_is_free_and_can_be_released_again(file: Path) -> None:
    this_lease = Lease(file)
    this_lease.acquire(wait=False)
    this_lease.release()
    this_lease.release()
    this_lease.beat()
    assert this_lease.owner() is None
    Lease(file).acquire(wait=False)


@pytest.mark.parametrize("text", ["", '{"host": "els'])
def test_a_lease_file_truncated_by_a_kill_is_free(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    Lease(file).acquire(wait=False)


def test_of_several_processes_that_take_over_at_once_one_gets_the_lease(file: Path) -> None:
    script = """
import sys
from pathlib import Path
from cluster.errors import ClusterError
from pipelines.store.lease import Lease
sys.stdin.readline()
try:
    Lease(Path(sys.argv[1])).acquire(wait=False)
except ClusterError:
    print("refused")
else:
    print("held")
    sys.stdout.flush()
    sys.stdin.readline()
"""
    command = [sys.executable, "-c", script, str(file)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    file.parent.mkdir()
    file.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1.0}))
    os.utime(file, (1, 1))
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.stdout.readline() for process in processes if process.stdout is not None]
    for process in processes:
        process.communicate("end\n")
    assert sorted(outputs) == ["held\n", "refused\n", "refused\n", "refused\n"]


def test_a_draft_dropped_while_another_run_waits_for_the_lock_is_created_anew(file: Path, tmp_path: Path) -> None:
    """The waiter's lock is on a file that is gone; it would protect no lease."""
    import fcntl

    file.parent.mkdir()
    with (file.parent / ".lease.lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        this_lease = Lease(file)
        thread = threading.Thread(target=this_lease.acquire, kwargs={"wait": False})
        thread.start()
        time.sleep(0.2)
        file.parent.rename(tmp_path / "dropped")
    thread.join()
    assert this_lease.held()
    assert not (tmp_path / "dropped" / "lease.json").exists()


def test_an_owner_is_described_by_process_host_and_start_time() -> None:
    owner: Owner = {"host": "node-1", "pid": 123, "started": time.mktime((2025, 1, 2, 10, 15, 2, 0, 0, -1))}
    assert describe(owner) == "process 123 on node-1 (since 10:15:02)"


def test_a_kept_lease_renews_itself_and_is_free_afterwards(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_AFTER_S", 0.3)
    this_lease = Lease(file)
    this_lease.acquire(wait=False)
    with this_lease.kept():
        os.utime(file, (0, 0))
        end = time.monotonic() + 10
        while file.stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert not file.exists()
