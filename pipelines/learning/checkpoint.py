"""Checkpoints: float32 tensors by parameter name, distributed over ranks, and a small JSON of everything else.

    FOLDER/rank-00000.safetensors  …  one file per rank; together every tensor once
    FOLDER/journal.json              written by rank 0

A checkpoint fits any number of workers and any ZeRO stage, since no file depends on how the run was distributed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

FRACTION = 0.02  # of the time that checkpoints take, where no number of steps is set
FIRST_S = 15.0  # before the first checkpoint, when their cost is not known, and between two at least
AT_MOST_S = 600.0  # between two checkpoints, whatever they cost: what a lost worker costs at most


class Interval:
    """When a checkpoint is due: every so many steps, or, with None, as often as takes 2% of the time, every ten minutes
    at least."""

    def __init__(self, every_steps: int | None):
        self._every_steps = every_steps
        self._time, self._wait_s = time.perf_counter(), FIRST_S

    def due(self, step: int) -> bool:
        """Whether to save after this many steps."""
        if self._every_steps is not None:
            return step % self._every_steps == 0
        return time.perf_counter() - self._time >= self._wait_s

    def saved(self, cost_s: float) -> None:
        """Tells that a checkpoint was saved just now, at this cost of training's time."""
        self._time = time.perf_counter()
        self._wait_s = min(max(FIRST_S, cost_s / FRACTION), AT_MOST_S)


def write(folder: Path, rank: int, tensors: Iterable[tuple[str, Tensor]], journal: dict[str, Any]) -> None:
    """Writes this rank's files. Ranks may write into one folder or each into another. See read."""
    save_file(dict(tensors), folder / f"rank-{rank:05d}.safetensors")
    if rank == 0:
        (folder / "journal.json").write_text(json.dumps(journal), encoding="utf-8")


def read(folder: Path, on_tensor: Callable[[], object] = lambda: None) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of all ranks, and the journal. on_tensor: called whenever a tensor is looked up."""
    (journal,) = folder.rglob("journal.json")
    files = sorted(folder.rglob("rank-*.safetensors"))
    return Tensors.open(files, on_tensor), json.loads(journal.read_text(encoding="utf-8"))


class Tensors(Mapping[str, Tensor]):
    """Tensors of several files by name, mapped: of a tensor only the part that is used is ever read from the disk."""

    def __init__(self, places: Mapping[str, tuple[Any, str]], on_tensor: Callable[[], object]):
        self._places, self._on_tensor = places, on_tensor  # by name: the open file, and the name there

    @classmethod
    def open(cls, files: Iterable[Path], on_tensor: Callable[[], object]) -> Tensors:
        """The tensors of these files. on_tensor: called whenever one is looked up."""
        opened = [safe_open(file, "pt") for file in files]
        places = {name: (file, name) for file in opened for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        return cls(places, on_tensor)

    def below(self, prefix: str) -> Tensors:
        """Those whose names begin with a prefix, by the rest of their names."""
        matches = {name: place for name, place in self._places.items() if name.startswith(prefix)}
        return Tensors({name.removeprefix(prefix): place for name, place in matches.items()}, self._on_tensor)

    def __getitem__(self, name: str) -> Tensor:
        self._on_tensor()
        file, name_there = self._places[name]
        return file.get_tensor(name_there)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
