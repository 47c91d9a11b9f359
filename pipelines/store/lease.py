"""A lease: a record with a heartbeat, so that only one run at a time works on a draft.

    free ──acquire──► held: a thread beats every 5 s ──release──► free; folder and snapshot stay for the next holder
                        └── the process is gone on this machine, or no beat is seen for 30 s ──► taken over

The record names the owner: boot id of the machine, PID namespace, process, and a nonce. Whether an owner of another
machine lives is judged by whether its beat changes while this process watches it; no two clocks are compared. Every
write compares first (pipelines/store/slots.py), so two runs cannot both take a lease, and a holder that was stalled for
so long that it lost its lease notices at its next write.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

import psutil

from cluster.errors import ClusterError
from pipelines.errors import UserError
from pipelines.store.slots import Record, Slot

STALE_AFTER_S = 30.0
POLL_S = 0.5


class Owner(TypedDict):
    """The process that holds a lease. The start time distinguishes it from a later process with the same pid."""

    host: str  # for messages
    pid: int
    started: float  # seconds since the epoch
    machine: str  # its boot id and PID namespace: only there does the pid mean this process
    nonce: str  # of one acquisition


class Lease:
    """The lease of a draft or of a sweep. what: names it in messages, "draft 0123456789abcdef"."""

    def __init__(self, slot: Slot, what: str):
        self.slot, self.what = slot, what
        self.nonce = ""  # of this acquisition; empty before
        self.previous: Record = {}  # the record that this acquisition replaced
        self.previous_ended = True  # whether its owner had released it, or is gone from this machine for certain
        self._record: Record = {}
        self._version: Any = None
        self._seen: tuple[Any, float] = (None, 0.0)  # another owner's version, and when it was first seen (monotonic)
        self._guard = threading.RLock()
        self._stop: threading.Event | None = None

    def acquire(self, *, wait: bool, on_message: Callable[[str], object] = print) -> None:
        """Takes the lease. If another run holds it: waits and reports the owner; without `wait` raises ClusterError,
        as soon as it is certain that the owner lives."""
        reported, first = False, None
        while (owner := self.attempt()) is not None:
            first = first or self._seen[0]
            text = f"{self.what} is held by {describe(owner)}"
            if not wait and (_is_alive(owner) or self._seen[0] != first):
                raise ClusterError(f"{text}; let it end, or leave --no-wait out to wait for it")
            if not reported:
                on_message(f"{text}; waiting for it" if wait else f"{text}; waiting for a sign of life from it")
                reported = True
            time.sleep(POLL_S)

    def attempt(self) -> Owner | None:
        """Tries to take the lease. Returns None if this process holds it now, otherwise its owner."""
        while True:
            record, version = self.slot.read()
            owner = record.get("owner") if record else None
            if owner is not None and not self._is_stale(owner, version):
                return owner
            nonce = uuid.uuid4().hex
            new = {**(record or {}), "owner": this_process(nonce), "beat": 0}
            written = self.slot.write(new, version)
            if written is None:
                continue  # another run was quicker
            with self._guard:
                self.previous, self.previous_ended = record or {}, owner is None or _is_alive(owner) is False
                self._record, self._version, self.nonce = new, written, nonce
            return None

    def owner(self) -> Owner | None:
        """The recorded owner, alive or not; None if the lease is free."""
        record, _ = self.slot.read()
        return record.get("owner") if record else None

    def live_owner(self) -> Owner | None:
        """The owner, unless its process is gone on this machine."""
        owner = self.owner()
        return None if owner is None or _is_alive(owner) is False else owner

    def _is_stale(self, owner: Owner, version: Any) -> bool:
        is_alive = _is_alive(owner)
        if is_alive is not None:
            return not is_alive
        if self._seen[0] != version:
            self._seen = (version, time.monotonic())
        return time.monotonic() - self._seen[1] > STALE_AFTER_S

    def held(self) -> bool:
        """Whether this process (still) holds the lease; renews it."""
        return self.update()

    def update(self, **fields: Any) -> bool:
        """Renews the lease (heartbeat), and sets fields of its record. Returns False, and changes nothing, where this
        process does not hold it (any more)."""
        with self._guard:
            if not self.nonce:
                return False
            new = {**self._record, **fields, "beat": self._record["beat"] + 1}
            written = self.slot.write(new, self._version)
            if written is None and (version := self._own_version()) is not None:
                written = self.slot.write(new, version)
            if written is None:
                self.nonce = ""  # superseded
                return False
            self._record, self._version = new, written
            return True

    def _own_version(self) -> Any:
        """The version of the record if this acquisition has written it, else None.

        It may be one that `update` does not know of: a write that arrived, although its answer never came."""
        record, version = self.slot.read()
        owner = (record or {}).get("owner") or {}
        return version if owner.get("nonce") == self.nonce else None

    def keep(self) -> None:
        """Renews the lease from a background thread until it is released or removed."""
        stop = self._stop = threading.Event()

        def beat() -> None:
            while not stop.wait(STALE_AFTER_S / 6):
                # Out of reach, or refused while a role's token is renewed: the next heartbeat may reach it.
                with suppress(OSError, ClusterError, UserError):
                    self.update()

        threading.Thread(target=beat, name="lease", daemon=True).start()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renews the lease from a background thread while the block runs, then frees it."""
        self.keep()
        try:
            yield
        finally:
            self.remove()

    def release(self) -> None:
        """Frees the lease if this process holds it. If the record names the draft's folder, it stays for the next."""
        if not self._record.get("folder"):
            return self.remove()
        self._end_beats()
        with self._guard:
            self.update(owner=None)
            self.nonce = ""

    def remove(self) -> None:
        """Deletes the record if this process holds the lease."""
        self._end_beats()
        with self._guard:
            version = self._own_version() if self.nonce else None
            if version is not None:
                self.slot.remove({**self._record, "beat": self._record["beat"] + 1}, version)
            self.nonce = ""

    def _end_beats(self) -> None:
        if self._stop is not None:
            self._stop.set()


def this_process(nonce: str = "") -> Owner:
    """The owner record of this process."""
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "pid": process.pid,
        "started": process.create_time(),
        "machine": this_machine(),
        "nonce": nonce,
    }


def is_elsewhere(owner: Owner) -> bool:
    """Whether the owner is on another machine, so that only a heartbeat that changes says that it lives."""
    return owner.get("machine") != this_machine()


def this_machine() -> str:
    """Identifies the set of processes among which a pid is unique: the boot of the machine and the PID namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def describe(owner: Owner) -> str:
    """An owner as text: process 123 on node-1 (since 10:15:02)."""
    since = time.strftime("%H:%M:%S", time.localtime(owner["started"]))
    return f"process {owner['pid']} on {owner['host']} (since {since})"


def _is_alive(owner: Owner) -> bool | None:
    """Whether the owner's process lives; None if it cannot be known here, so that the heartbeat decides: it is on
    another machine, or a process with its pid started at another time (or the clock was set)."""
    if is_elsewhere(owner):
        return None
    try:
        process = psutil.Process(owner["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return True if abs(process.create_time() - owner["started"]) < 1.0 else None
    except psutil.NoSuchProcess:
        return False
