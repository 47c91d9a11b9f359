"""A model's config.json: its context length and its shape, without opening the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.errors import UserError

NO_COMPUTATION = ("_name_or_path", "transformers_version", "use_cache")  # keys without effect on what a model computes


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model's folder."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def shape(folder: Path) -> dict[str, Any]:
    """What cannot change in a live engine. Models of equal shapes differ in their weights only."""
    return {key: value for key, value in read_config(folder).items() if key not in NO_COMPUTATION}


def context_length(folder: Path, *, default: int | None = None) -> int:
    """Number of tokens that a model attends to at once.

    default: returned where config.json names no context length; None: raises UserError there."""
    config = read_config(folder)
    length = config.get("max_position_embeddings") or config.get("n_positions") or default
    if not isinstance(length, int):
        raise UserError(
            f"{folder / 'config.json'}: neither max_position_embeddings nor n_positions; expected a model "
            f"that names its context length"
        )
    return length
