"""What an attempt at a stage costs, measured from outside: wall time and memory of the whole process tree.

A thread samples each second and writes to the draft, so that an attempt that is killed is counted too.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.store.artifacts import write_atomically

PERIOD_S = 1.0
FRESH_SAMPLES = 30  # after so many a process is looked at anew, whatever its resident size says
SLACK_BYTES = 2**20


class Meter:
    """Measures from `start` to `stop`; keeps the record of every attempt in a folder of the draft."""

    def __init__(self, folder: Path, beat: Callable[[], None], process: int | None = None):
        self.folder, self.beat = folder, beat
        self.peak_bytes = 0
        self._tree = Tree(process or os.getpid())
        self.extra: dict[str, float] = {}
        self._began = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="meter")
        self._name = f"{time.time_ns()}-{os.getpid()}.json"

    def start(self) -> Meter:
        self._began = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write()
        self._thread.start()
        return self

    def stop(self) -> dict[str, float]:
        """Ends measuring. Returns run/wall_s (summed over attempts), run/peak_memory_bytes, run/attempts."""
        self._stopping.set()
        self._thread.join()
        if self.folder.exists():
            self._sample()
        return total(self.folder)

    def _watch(self) -> None:
        while not self._stopping.wait(PERIOD_S):
            try:
                self._sample()
            except OSError:  # a full or vanished disk: the stage itself meets it, and says so
                continue

    def _sample(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self._tree.memory_bytes())
        self._write()
        self.beat()

    def _write(self) -> None:
        record = {"wall_s": round(time.monotonic() - self._began, 3), "peak_memory_bytes": self.peak_bytes}
        write_atomically(self.folder / self._name, json.dumps(record))


def total(folder: Path) -> dict[str, float]:
    """Facts of all attempts recorded in a folder."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("[0-9]*.json"))]
    return {
        "run/wall_s": round(sum(r["wall_s"] for r in records), 3),
        "run/peak_memory_bytes": max((r["peak_memory_bytes"] for r in records), default=0),
        "run/attempts": len(records),
    }


def tree_memory_bytes(pid: int) -> int:
    """Memory of a process and all its descendants: the sum of their proportional set sizes plus the shared memory
    (/dev/shm: Ray's object store) that no process has mapped. On systems without smaps: the sum of resident sizes."""
    return Tree(pid).memory_bytes()


@dataclass(frozen=True)
class _Seen:
    """What a process was found to hold, and when."""

    resident: int  # bytes
    pss: int  # proportional set size, bytes
    shmem: int  # the part of it that is shared memory
    number: int  # of the sample


class Tree:
    """A process and its descendants, sampled again and again.

    The kernel walks every page of a process to tell its proportional set size: 75 ms a sample for a local Ray with two
    workers, 7% of a core. It is asked again only once a process's resident size has changed, and now and then."""

    def __init__(self, pid: int):
        self._pid = pid
        self._seen: dict[int, _Seen] = {}
        self._number = 0

    def memory_bytes(self) -> int:
        """See tree_memory_bytes."""
        try:
            root = psutil.Process(self._pid)
            processes = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        self._number += 1
        self._seen = {process.pid: self._look(process) for process in processes}
        private = sum(seen.pss - seen.shmem for seen in self._seen.values())
        shared = sum(seen.shmem for seen in self._seen.values())
        return private + max(shared, _shared_files_bytes() if shared else 0)

    def _look(self, process: psutil.Process) -> _Seen:
        resident, last = _resident(process), self._seen.get(process.pid)
        if last is not None and self._number - last.number < FRESH_SAMPLES:
            if abs(resident - last.resident) <= max(SLACK_BYTES, last.resident // 200):
                return last
        return _Seen(resident, *_pss(process.pid, resident), self._number)


def _pss(pid: int, resident: int) -> tuple[int, int]:
    """Proportional set size of a process in bytes, and the part of it that is shared memory."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return resident, 0
    except PermissionError:
        return 0, 0
    fields = {line.split(":")[0]: line.split(":")[1] for line in text.splitlines()[1:] if ":" in line}
    return _kilobytes(fields.get("Pss", "0 kB")), _kilobytes(fields.get("Pss_Shmem", "0 kB"))


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _kilobytes(text: str) -> int:
    return int(text.split()[0]) * 1024


def _shared_files_bytes() -> int:
    """Bytes in use of the /dev/shm files that belong to us (allocated blocks, not the size reserved)."""
    used = 0
    for file in Path("/dev/shm").glob("*"):
        try:
            stat = file.stat()
        except OSError:
            continue
        if stat.st_uid == os.getuid() and (file.name.startswith(("plasma", "psm_")) or str(os.getpid()) in file.name):
            used += stat.st_blocks * 512
    return used
