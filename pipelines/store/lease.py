"""A lease: one run at a time may work on a draft.

A file names the owner; its mtime is the heartbeat. A lease is stale at once when its process is gone on this host,
otherwise when it has not been touched for 30 s. Taking over is guarded by flock, so two runs cannot both take it. A
holder that stood still for so long that it lost its lease finds out before it commits (Store.commit).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from cluster.errors import ClusterError

STALE_AFTER_S = 30.0
POLL_S = 0.5


class Lease:
    """Held by a file; `beat()` must be called every few seconds by the holder."""

    def __init__(self, path: Path):
        self.path = path
        self._ours: dict | None = None  # what we wrote, once it is ours

    def acquire(self, *, wait: bool, say=print) -> None:
        """Takes the lease. While another run holds it: waits and names it, or raises ClusterError if not `wait`."""
        told = False
        while (owner := self.attempt()) is not None:
            text = f"draft {self.path.parent.name} is held by {describe(owner)}"
            if not wait:
                raise ClusterError(f"{text}; let it end, or leave --no-wait out to wait for it")
            if not told:
                say(f"{text}; waiting for it")
                told = True
            time.sleep(POLL_S)

    def attempt(self) -> dict | None:
        """None if the lease is ours now, otherwise its owner."""
        lock = self.path.parent / ".lease.lock"
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with lock.open("a") as guard:
                    fcntl.flock(guard, fcntl.LOCK_EX)
                    if not os.path.samestat(os.fstat(guard.fileno()), lock.stat()):
                        continue  # while we waited for the lock, the draft was dropped and begun anew
                    owner = self.owner()
                    if owner is not None and not self._stale(owner):
                        return owner
                    self._ours = ourselves()
                    self.path.write_text(json.dumps(self._ours), encoding="utf-8")
                    return None
            except FileNotFoundError:
                continue  # its holder dropped the draft this very moment

    def owner(self) -> dict | None:
        """Who holds it, or None."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def live_owner(self) -> dict | None:
        """Who holds it and lives, or None."""
        owner = self.owner()
        return None if owner is None or self._stale(owner) else owner

    def _stale(self, owner: dict) -> bool:
        if owner["host"] == socket.gethostname():
            same = _same_process(owner["pid"], owner["started"])
            if same is not None:
                return not same
        try:
            return time.time() - self.path.stat().st_mtime > STALE_AFTER_S
        except FileNotFoundError:
            return True

    def held(self) -> bool:
        """Whether we hold it (still)."""
        return self._ours is not None and self.owner() == self._ours

    def beat(self) -> None:
        """Says that the holder lives. Does nothing once released."""
        if self.held():
            os.utime(self.path)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Beats from a thread of its own as long as the block lasts, then releases it."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(STALE_AFTER_S / 6):
                with suppress(OSError):  # a disk that is away for a moment: the next beat may reach it
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
        if self.held():
            self.path.unlink(missing_ok=True)


def ourselves() -> dict:
    """This process, told apart from a later one with the same number by its start time."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def describe(owner: dict) -> str:
    """An owner as people read it: process 123 on host since 10:15:02."""
    since = time.strftime("%H:%M:%S", time.localtime(owner["started"]))
    return f"process {owner['pid']} on {owner['host']} (since {since})"


def _same_process(pid: int, started: float) -> bool | None:
    """Whether the process of this number lives and is the one that started then.

    None: one lives that started at another time, which is what the same process looks like once the clock was set; the
    heartbeat tells the two apart."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return True if abs(process.create_time() - started) < 1.0 else None
    except psutil.NoSuchProcess:
        return False
