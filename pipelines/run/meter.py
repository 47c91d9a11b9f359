"""The cost of an attempt at a stage: wall time, and peak memory of the whole process tree and of the driver alone.

A thread writes to the draft each second, so that killed attempts count too, and measures memory each second or, where
that takes long, at least every ten.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.inference import process_memory
from pipelines.store.artifacts import write_atomically

PERIOD_S = 1.0
MAX_COST, MAX_WAIT_S = 0.01, 10.0  # of a core that measures memory, which takes long for large processes; but so often
REFRESH_EVERY = 30  # samples; after that many a process is measured again even if its resident size is unchanged
SLACK_BYTES = 2**20  # a change of the resident size below this (or 0.5%) does not count


class Meter:
    """Measures from `start` to `stop`, and records every attempt in a folder of the draft.

    pid: root of the measured process tree, default this process."""

    def __init__(self, folder: Path, pid: int | None = None):
        self.folder = folder
        self.peak_bytes = 0
        self._tree = ProcessTree(pid or os.getpid())
        self._started = self._due_s = 0.0  # monotonic clock, seconds; when memory is measured next
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="meter")
        self._name = f"{time.time_ns()}-{os.getpid()}.json"

    def start(self) -> Meter:
        """Starts the sampling thread. Returns this meter."""
        self._started = time.monotonic()
        process_memory.restart_peak()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write()
        self._thread.start()
        return self

    def stop(self) -> dict[str, float]:
        """Stops sampling. Returns the facts of all attempts: see `total`."""
        self._stopping.set()
        self._thread.join()
        if self.folder.exists():
            self._sample()
        return total(self.folder)

    def _watch(self) -> None:
        while not self._stopping.wait(PERIOD_S):
            try:
                self._sample() if time.monotonic() >= self._due_s else self._write()
            except OSError:  # a full or vanished disk: the stage itself fails on it and reports it
                continue

    def _sample(self) -> None:
        began_s = time.thread_time()
        self.peak_bytes = max(self.peak_bytes, self._tree.memory_bytes())
        self._due_s = time.monotonic() + min(MAX_WAIT_S, (time.thread_time() - began_s) / MAX_COST)
        self._write()

    def _write(self) -> None:
        record = {
            "wall_s": round(time.monotonic() - self._started, 3),
            "peak_memory_bytes": self.peak_bytes,
            "driver_peak_bytes": process_memory.status_bytes("VmHWM") or psutil.Process().memory_info().rss,
        }
        write_atomically(self.folder / self._name, json.dumps(record))


def total(folder: Path) -> dict[str, float]:
    """Facts of all attempts recorded in a folder: run/wall_s, summed; run/peak_memory_bytes, of all processes;
    driver/peak_memory_bytes, of the process that runs the recipe, which does not grow with the data; run/attempts."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("[0-9]*.json"))]
    return {
        "run/wall_s": round(sum(r["wall_s"] for r in records), 3),
        "run/peak_memory_bytes": max((r["peak_memory_bytes"] for r in records), default=0),
        # Not in the records of a draft that earlier code began.
        "driver/peak_memory_bytes": max((r.get("driver_peak_bytes", 0) for r in records), default=0),
        "run/attempts": len(records),
    }


def tree_memory_bytes(pid: int) -> int:
    """Memory of a process and all its descendants: the sum of their proportional set sizes plus the shared memory
    (/dev/shm: Ray's object store) that no process has mapped. On systems without smaps: the sum of resident sizes."""
    return ProcessTree(pid).memory_bytes()


@dataclass(frozen=True)
class _ProcessMemory:
    """Memory of one process at one sample, in bytes."""

    resident: int
    pss: int  # proportional set size
    shmem: int  # shared memory, part of pss
    sample: int  # number of the sample


class ProcessTree:
    """A process and its descendants, sampled repeatedly.

    The kernel walks every page of a process to compute its proportional set size: 75 ms a sample for a local Ray with
    two workers, 7% of a core. So it is read again only when the resident size has changed, or after REFRESH_EVERY
    samples. Training changes it all the time: beside two workers of 3 GiB it took 3%, hence MAX_COST."""

    def __init__(self, pid: int):
        self._pid = pid
        self._processes: dict[int, _ProcessMemory] = {}  # by pid, as of the last sample
        self._num_samples = 0

    def memory_bytes(self) -> int:
        """See tree_memory_bytes."""
        try:
            root = psutil.Process(self._pid)
            processes = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        self._num_samples += 1
        self._processes = {process.pid: self._measure(process) for process in processes}
        private = sum(memory.pss - memory.shmem for memory in self._processes.values())
        shared = sum(memory.shmem for memory in self._processes.values())
        return private + max(shared, _shared_files_bytes() if shared else 0)

    def _measure(self, process: psutil.Process) -> _ProcessMemory:
        resident = _resident_bytes(process)
        last = self._processes.get(process.pid)
        if last is not None and self._num_samples - last.sample < REFRESH_EVERY:
            if abs(resident - last.resident) <= max(SLACK_BYTES, last.resident // 200):
                return last
        pss, shmem = _pss_bytes(process.pid, resident)
        return _ProcessMemory(resident, pss, shmem, self._num_samples)


def _pss_bytes(pid: int, resident: int) -> tuple[int, int]:
    """Proportional set size of a process, and the part of it that is shared memory. Without smaps: `resident`, 0."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return resident, 0
    except PermissionError:
        return 0, 0
    fields = {line.split(":")[0]: line.split(":")[1] for line in text.splitlines()[1:] if ":" in line}
    return _to_bytes(fields.get("Pss", "0 kB")), _to_bytes(fields.get("Pss_Shmem", "0 kB"))


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _to_bytes(text: str) -> int:
    """12 kB -> 12,288."""
    return int(text.split()[0]) * 1024


def _shared_files_bytes() -> int:
    """Bytes allocated (not reserved) in the /dev/shm files of this user's Ray and of this process."""
    used = 0
    for file in Path("/dev/shm").glob("*"):
        try:
            stat = file.stat()
        except OSError:
            continue
        if stat.st_uid == os.getuid() and (file.name.startswith(("plasma", "psm_")) or str(os.getpid()) in file.name):
            used += stat.st_blocks * 512
    return used
