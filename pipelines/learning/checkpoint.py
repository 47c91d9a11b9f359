"""Checkpoints: float32 tensors by parameter name, distributed over ranks, and a small JSON of everything else.

    FOLDER/rank-00000.safetensors  …  one file per rank; together every tensor once
    FOLDER/journal.json              written by rank 0

A checkpoint fits any number of workers and any ZeRO stage, since no file depends on how the run was distributed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def write(folder: Path, rank: int, tensors: Iterable[tuple[str, Tensor]], journal: dict[str, Any]) -> None:
    """Writes this rank's files. Ranks may write into one folder or each into another."""
    save_file(dict(tensors), folder / f"rank-{rank:05d}.safetensors")
    if rank == 0:
        (folder / "journal.json").write_text(json.dumps(journal), encoding="utf-8")


def read(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """Reads the tensors of all ranks, and the journal."""
    (journal,) = folder.rglob("journal.json")
    return Tensors(sorted(folder.rglob("rank-*.safetensors"))), json.loads(journal.read_text(encoding="utf-8"))


class Tensors(Mapping[str, Tensor]):
    """Tensors of several files by name; each is read when it is looked up, since all may not fit in memory."""

    def __init__(self, files: Iterable[Path]):
        opened = [safe_open(file, "pt") for file in files]
        self._file_of = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 (not a dictionary)

    def __getitem__(self, name: str) -> Tensor:
        return self._file_of[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)
