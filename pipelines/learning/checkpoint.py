"""What a checkpoint is: float32 tensors by parameter name, shared out over ranks, and a small JSON of everything else.

    FOLDER/rank-00000.safetensors  …  one file a rank; together every tensor once
    FOLDER/journal.json              written by rank 0

It fits any number of workers and any ZeRO stage, since no file knows how the run was spread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def write(folder: Path, rank: int, tensors: Iterable[tuple[str, Tensor]], journal: dict[str, Any]) -> None:
    """This rank's files. Ranks may write into one folder or each into its own."""
    save_file(dict(tensors), folder / f"rank-{rank:05d}.safetensors")
    if rank == 0:
        (folder / "journal.json").write_text(json.dumps(journal), encoding="utf-8")


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of all ranks, memory-mapped, and the journal."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.rglob("rank-*.safetensors")):
        with safe_open(file, "pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dictionary)
    (found,) = folder.rglob("journal.json")
    return tensors, json.loads(found.read_text(encoding="utf-8"))
