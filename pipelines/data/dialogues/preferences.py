"""Preference pairs as a Parquet file a split, one row a pair, readable by any tool.

    {id, language, source, task, rule, prompt [{role, content}], chosen, rejected, answer}

A prompt ends with a user turn; chosen and rejected are two replies to it, of which the chosen one is preferred.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.dialogues.conversations import HELD_OUT, MESSAGE, TRAIN

__all__ = ["HELD_OUT", "TRAIN", "Pair", "read", "write"]

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "language", "source", "task", "rule")]
    + [("prompt", pa.list_(MESSAGE))]
    + [(name, pa.string()) for name in ("chosen", "rejected", "answer")]
)


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt, of which `chosen` is preferred."""

    id: str
    language: str  # en or zh
    source: str  # name of the recipe's source, or "embedded" for the built-in tasks
    task: str  # as in Conversation
    rule: str  # why chosen is preferred: a rule of builtin_tasks.py, or "given" where the user's file says so
    prompt: list[dict[str, str]]
    chosen: str
    rejected: str
    answer: str | None = None  # as in Conversation


def write(file: Path, pairs: Iterable[Pair]) -> int:
    """Writes a split and returns its number of pairs; the same pairs give the same bytes."""
    rows = [asdict(pair) for pair in pairs]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd")
    return len(rows)


def read(file: Path) -> list[Pair]:
    """Reads the pairs of a split, in the file's order."""
    return [Pair(**row) for row in pq.read_table(file, schema=SCHEMA).to_pylist()]
