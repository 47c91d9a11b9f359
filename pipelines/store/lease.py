"""A lease: a lock file with a heartbeat, so that only one run at a time works on a draft.

The file names the owner; its mtime is the heartbeat. A lease is stale as soon as its process is gone on this host,
otherwise when it has not been touched for 30 s. Takeover is guarded by flock, so two runs cannot both take it. A holder
that was stalled for so long that it lost its lease notices before it commits (Store.commit).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict

import psutil

from cluster.errors import ClusterError

STALE_AFTER_S = 30.0
POLL_S = 0.5


class Owner(TypedDict):
    """The process that holds a lease. The start time distinguishes it from a later process with the same pid."""

    host: str
    pid: int
    started: float  # seconds since the epoch


class Lease:
    """A lease file; its holder must call `beat()` every few seconds."""

    def __init__(self, path: Path):
        self.path = path
        self._acquired: Owner | None = None  # the owner record this process wrote, once it holds the lease

    def acquire(self, *, wait: bool, on_message: Callable[[str], object] = print) -> None:
        """Takes the lease. If another run holds it: waits and reports the owner; without `wait` raises ClusterError."""
        reported = False
        while (owner := self.attempt()) is not None:
            text = f"draft {self.path.parent.name} is held by {describe(owner)}"
            if not wait:
                raise ClusterError(f"{text}; let it end, or leave --no-wait out to wait for it")
            if not reported:
                on_message(f"{text}; waiting for it")
                reported = True
            time.sleep(POLL_S)

    def attempt(self) -> Owner | None:
        """Tries to take the lease. Returns None if this process holds it now, otherwise its owner."""
        lock = self.path.parent / ".lease.lock"
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with lock.open("a") as guard:
                    fcntl.flock(guard, fcntl.LOCK_EX)
                    if not os.path.samestat(os.fstat(guard.fileno()), lock.stat()):
                        continue  # while we waited for the lock, the draft was dropped and created anew
                    owner = self.owner()
                    if owner is not None and not self._is_stale(owner):
                        return owner
                    self._acquired = this_process()
                    self.path.write_text(json.dumps(self._acquired), encoding="utf-8")
                    return None
            except FileNotFoundError:
                continue  # its holder dropped the draft at the same moment

    def owner(self) -> Owner | None:
        """The recorded owner, alive or not; None if the lease is free."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def live_owner(self) -> Owner | None:
        """The owner if its lease is not stale, otherwise None."""
        owner = self.owner()
        return None if owner is None or self._is_stale(owner) else owner

    def _is_stale(self, owner: Owner) -> bool:
        if owner["host"] == socket.gethostname():
            is_alive = _is_same_process(owner["pid"], owner["started"])
            if is_alive is not None:
                return not is_alive
        try:
            return time.time() - self.path.stat().st_mtime > STALE_AFTER_S
        except FileNotFoundError:
            return True

    def held(self) -> bool:
        """Whether this process (still) holds the lease."""
        return self._acquired is not None and self.owner() == self._acquired

    def beat(self) -> None:
        """Renews the lease (heartbeat). No effect once released."""
        if self.held():
            os.utime(self.path)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renews the lease from a background thread while the block runs, then releases it."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(STALE_AFTER_S / 6):
                with suppress(OSError):  # the disk is unreachable for a moment: the next heartbeat may reach it
                    self.beat()

        thread = threading.Thread(target=beat, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.release()

    def release(self) -> None:
        """Removes the lease file if this process holds the lease."""
        if self.held():
            self.path.unlink(missing_ok=True)


def this_process() -> Owner:
    """The owner record of this process."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def describe(owner: Owner) -> str:
    """An owner as text: process 123 on node-1 (since 10:15:02)."""
    since = time.strftime("%H:%M:%S", time.localtime(owner["started"]))
    return f"process {owner['pid']} on {owner['host']} (since {since})"


def _is_same_process(pid: int, started: float) -> bool | None:
    """Whether the process with this pid is alive and started at this time (seconds since the epoch).

    None if it started at another time: another process with a reused pid, or the same one after the clock was set. The
    heartbeat decides between the two."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return True if abs(process.create_time() - started) < 1.0 else None
    except psutil.NoSuchProcess:
        return False
