"""Workers of Ray that are lost: each function that a stage runs in tasks kills its process, by SIGKILL, once.

It does so where it would give its first file its name: the file is written by then, under a temporary name.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines import parallel
from pipelines.blocks import AtomicFile
from pipelines.stages.corpus import blocks


@dataclass(frozen=True)
class Deadly:
    """A function of tasks that kills its process the first time."""

    function: Callable[..., Any]
    folder: Path  # of a file for each function that has done so

    @property
    def __name__(self) -> str:
        return self.function.__name__

    def __call__(self, item: dict[str, Any], **arguments: Any) -> Any:
        try:
            (self.folder / self.__name__).touch(exist_ok=False)
        except FileExistsError:
            return self.function(item, **arguments)
        AtomicFile.publish = lambda self: os.kill(os.getpid(), signal.SIGKILL)
        return self.function(item, **arguments)


def lose_workers(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Has every function that is run in tasks kill a worker; the folder then has a file by the name of each."""
    folder.mkdir()
    run_tasks, map_in_order = parallel.run_tasks, parallel.map_in_order

    def run_deadly(function: Callable[..., Any], items: Sequence[dict[str, Any]], **rest: Any) -> Iterator[None]:
        return run_tasks(Deadly(function, folder), items, **rest)

    def map_deadly(function: Callable[..., Any], items: Sequence[dict[str, Any]], **rest: Any) -> Iterator[Any]:
        return map_in_order(Deadly(function, folder), items, **rest)

    monkeypatch.setattr(parallel, "run_tasks", run_deadly)
    monkeypatch.setattr(blocks, "map_in_order", map_deadly)
