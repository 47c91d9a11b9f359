"""Preferences as rows: one Parquet file a split, one row a pair, in any tool readable.

    {id, language, source, task, rule, prompt [{role, content}], chosen, rejected, answer}

A prompt ends with a user's turn; chosen and rejected are two replies to it, the first being preferred.
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
    """Two replies to one prompt."""

    id: str
    language: str  # en or zh
    source: str  # the recipe's source, or "embedded"
    task: str  # as of a Conversation
    rule: str  # why chosen is better: correct_before_wrong, decline_unsafe, helpful_before_evasive, or "given"
    prompt: list[dict[str, str]]
    chosen: str
    rejected: str
    answer: str | None = None  # what a right reply says, where that can be checked


def write(file: Path, pairs: Iterable[Pair]) -> int:
    """Writes a split; the same pairs give the same bytes. Returns how many."""
    rows = [asdict(pair) for pair in pairs]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd")
    return len(rows)


def read(file: Path) -> list[Pair]:
    """Every pair of a split, in the file's order."""
    return [Pair(**row) for row in pq.read_table(file, schema=SCHEMA).to_pylist()]
