"""The cost of an attempt: that of the whole process tree, killed attempts included."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.run import meter
from pipelines.run.meter import Meter, total, tree_memory_bytes
from tests.runs import wait_until

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
kept = bytearray(int(sys.argv[1]) * 1_000_000)
kept[::4096] = b"1" * len(kept[::4096])
print("ready", flush=True)
sys.stdin.readline()
"""


def hold(megabytes: int, script: str = HOLD) -> subprocess.Popen[str]:
    """A child process that holds this much memory until it reads a line."""
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(megabytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


def end(child: subprocess.Popen[str]) -> None:
    child.communicate("end\n")
    assert child.returncode == 0


def test_the_memory_of_all_descendants_counts() -> None:
    before = tree_memory_bytes(psutil.Process().pid)
    parent = hold(100, f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {HOLD!r}, "200"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
{HOLD}
child.communicate(b"end")
""")  # fmt: skip
    during = tree_memory_bytes(psutil.Process().pid)
    end(parent)
    after = tree_memory_bytes(psutil.Process().pid)
    assert 295e6 < during - before < 360e6
    assert abs(after - before) < 20e6


def test_memory_shared_between_processes_counts_once() -> None:
    script = """
import mmap, os, sys
shared = mmap.mmap(-1, int(sys.argv[1]) * 1_000_000)
for page in range(0, len(shared), 4096):
    shared[page] = 1
reader, writer = os.pipe()
if os.fork() == 0:
    sum(shared[page] for page in range(0, len(shared), 4096))
    os.write(writer, b"1")
    sys.stdin.readline()
    os._exit(0)
os.read(reader, 1)
print("ready", flush=True)
sys.stdin.readline()
os.wait()
"""
    before = tree_memory_bytes(psutil.Process().pid)
    parent = hold(200, script)
    during = tree_memory_bytes(psutil.Process().pid)
    parent.communicate("end\nend\n")
    assert 195e6 < during - before < 260e6


def test_a_process_that_is_gone_uses_no_memory() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert tree_memory_bytes(child.pid) == 0


def test_a_meter_measures_time_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "PERIOD_S", 0.05)
    monkeypatch.setattr(meter, "MAX_COST", 1.0)
    before_start = time.monotonic()
    running = Meter(tmp_path / "attempts").start()
    after_start = time.monotonic()
    child = hold(200)
    wait_until(lambda: running.peak_bytes > 200e6, within_s=60)
    end(child)
    before_stop = time.monotonic()
    facts = running.stop()
    assert before_stop - after_start - 1e-3 <= facts["run/wall_s"] <= time.monotonic() - before_start + 1e-3
    assert facts["run/peak_memory_bytes"] > 200e6
    assert facts["run/attempts"] == 1


def test_the_drivers_own_peak_is_that_of_this_attempt_and_without_its_children(tmp_path: Path) -> None:
    before = psutil.Process().memory_info().rss
    first = Meter(tmp_path / "1").start()
    held = bytearray(150_000_000)
    held[::4096] = b"1" * len(held[::4096])
    del held
    assert 145e6 < first.stop()["driver/peak_memory_bytes"] - before < 220e6
    second = Meter(tmp_path / "2").start()
    end(hold(150))
    assert abs(second.stop()["driver/peak_memory_bytes"] - before) < 50e6


ATTEMPT = """
import json, os, sys, time
from pathlib import Path
from pipelines.run import meter
meter.PERIOD_S, meter.MAX_COST = 0.05, 1.0
folder, held = Path(sys.argv[1]), int(sys.argv[2]) * 1_000_000
meter.Meter(folder).start()
kept = bytearray(held)
kept[::4096] = b"1" * len(kept[::4096])
(file,) = folder.glob(f"*-{os.getpid()}.json")
while (record := json.loads(file.read_text()))["wall_s"] < 0.4 or record["peak_memory_bytes"] < held:
    time.sleep(0.01)
print("worked", flush=True)
time.sleep(60)
"""


def test_killed_attempts_are_summed(tmp_path: Path) -> None:
    for megabytes in (150, 10):
        command = [sys.executable, "-c", ATTEMPT, str(tmp_path), str(megabytes)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None and process.stdout.readline() == "worked\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    records = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    facts = Meter(tmp_path).start().stop()
    assert facts["run/attempts"] == 3
    assert facts["run/wall_s"] >= sum(record["wall_s"] for record in records) > 0.8
    assert facts["run/peak_memory_bytes"] >= max(record["peak_memory_bytes"] for record in records) > 150e6


def test_a_disk_that_vanishes_does_not_stop_the_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "PERIOD_S", 0.02)
    monkeypatch.setattr(meter, "MAX_COST", 1.0)
    running = Meter(tmp_path / "attempts").start()
    (tmp_path / "attempts").rename(tmp_path / "away")
    (tmp_path / "attempts").write_text("in the way")
    time.sleep(0.1)
    (tmp_path / "attempts").unlink()
    (tmp_path / "away").rename(tmp_path / "attempts")
    (record,) = (tmp_path / "attempts").glob("*.json")
    written = record.stat().st_mtime_ns
    wait_until(lambda: record.stat().st_mtime_ns > written, within_s=60)
    assert running.stop()["run/attempts"] == 1


def test_without_attempts_the_cost_is_zero(tmp_path: Path) -> None:
    zero = dict.fromkeys(("run/wall_s", "run/peak_memory_bytes", "driver/peak_memory_bytes", "run/attempts"), 0)
    assert total(tmp_path / "none") == zero


def test_attempts_recorded_by_earlier_code_count(tmp_path: Path) -> None:
    (tmp_path / "1-2.json").write_text('{"wall_s": 5.0, "peak_memory_bytes": 7}')
    facts = Meter(tmp_path).start().stop()
    assert facts["run/attempts"] == 2 and facts["run/wall_s"] >= 5.0 and facts["driver/peak_memory_bytes"] > 0
