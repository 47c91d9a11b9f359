"""What the kernel says of this process's memory: its high-water mark, and how to start that anew. No heavy imports.

A process has one mark: who restarts it takes the peak so far from all others who read it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

CONTEXT_BYTES = 600 * 2**20  # of a process on a GPU: CUDA's context and kernels


def restart_peak() -> None:
    """Starts the high-water mark anew (proc(5)). Where that is forbidden, as in some containers, or the system is not
    Linux, it stays: then what was held before counts too."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def status_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes, such as VmHWM, the high-water mark; 0 where the system has none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    return 0
