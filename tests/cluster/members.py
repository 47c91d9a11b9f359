"""A plain class for gangs, as in a craft."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEEN = {
    name: os.environ.get(name)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "OMP_NUM_THREADS", "EXTRA")
}


class Mistake(Exception):
    """A user's error."""


class Member:
    """Multiplies, waits, fails and dies on request. SEEN: the environment when this module was imported."""

    def __init__(self, rank: int, world: int, factor: int = 1, beat: Callable[[], None] = lambda: None):
        if factor < 0:
            raise Mistake(f"factor: {factor}; expected 0 or more")
        self.rank, self.world, self.factor, self.beat = rank, world, factor, beat

    def describe(self) -> dict[str, Any]:
        return {"rank": self.rank, "world": self.world, "seen": SEEN, "pid": os.getpid()}

    def times(self, value: int, plus: int, *, minus: int = 0) -> int:
        return value * self.factor + plus - minus

    def all_reduce(self) -> float:
        import torch

        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        total = torch.tensor([self.rank + 1.0])
        torch.distributed.all_reduce(total)
        return total.item()

    def all_reduce_but(self, rank: int) -> float:
        """Kills one member while the others wait for it."""
        self.all_reduce()
        if self.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.all_reduce()

    def fail(self, rank: int) -> int:
        if self.rank == rank:
            raise Mistake(f"rank {rank} fails on request")
        return self.rank

    def fail_unpicklable(self) -> None:
        """Raises an exception whose class no other process can import."""

        class Unpicklable(Exception):
            """Local to this call."""

        raise Unpicklable("left")

    def wait_for(self, file: Path) -> str:
        """Returns once the file exists."""
        while not file.exists():
            time.sleep(0.02)
        return file.name

    def work_slowly(self, silent: tuple[int, ...], seconds: float) -> int:
        """Works for so long, with signs of life; these ranks work three times as long, without any."""
        end = time.monotonic() + seconds * (3 if self.rank in silent else 1)
        while time.monotonic() < end:
            if self.rank not in silent:
                self.beat()
            time.sleep(0.1)
        return self.rank

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds
