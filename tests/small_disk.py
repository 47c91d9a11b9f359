"""A disk of a few kilobytes, for tests of a full disk.

It is mounted in a separate mount namespace, so it disappears however the command ends.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OPTIONS = ["-m"] if os.geteuid() == 0 else ["-U", "-r", "-m"]


def run_python(folder: Path, *arguments: str, kilobytes: int, files: int = 1000) -> subprocess.CompletedProcess[str]:
    """Runs `python *arguments` with a disk of so many kilobytes and files mounted at `folder`.

    Skips the test where mounting is not permitted."""
    if not _can_mount():
        pytest.skip("this system does not permit mounting")
    command = " ".join(shlex.quote(part) for part in (sys.executable, *arguments))
    size = f"size={kilobytes}k,nr_inodes={files}"
    script = f"mount -t tmpfs -o {size} tmpfs {shlex.quote(str(folder))} && exec {command}"
    return subprocess.run(
        ["unshare", *OPTIONS, "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=600
    )


@cache
def _can_mount() -> bool:
    try:
        probe = ["unshare", *OPTIONS, "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]
        return subprocess.run(probe, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
