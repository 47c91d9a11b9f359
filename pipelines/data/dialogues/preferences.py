"""Preference pairs as a Parquet file a split, one row a pair, readable by any tool.

    {id, language, source, task, rule, prompt [messages, as in conversations.py], chosen, rejected, answer,
     chosen_calls, rejected_calls, tools}

A prompt ends with a turn of the user or the system, or the result of a call; chosen and rejected are two replies to it,
of which the chosen one is preferred.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.dialogues.conversations import HELD_OUT, MESSAGES, TRAIN, without_empty_fields
from pipelines.data.tokens.chat_messages import reply_message, said

__all__ = ["HELD_OUT", "TRAIN", "Pair", "read", "write"]

CALLS = ("chosen_calls", "rejected_calls", "tools")  # null in files of earlier versions
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "language", "source", "task", "rule")]
    + [("prompt", MESSAGES)]
    + [(name, pa.string()) for name in ("chosen", "rejected", "answer", *CALLS)]
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
    chosen_calls: str = ""  # calls of tools in the chosen reply, as a Message has them; empty for none
    rejected_calls: str = ""
    tools: str = ""  # as in Conversation

    @property
    def said(self) -> tuple[str, str]:
        """The chosen and the rejected reply, with the calls in each."""
        chosen, rejected = (self.chosen, self.chosen_calls), (self.rejected, self.rejected_calls)
        return said(reply_message(*chosen)), said(reply_message(*rejected))


def write(file: Path, pairs: Iterable[Pair]) -> int:
    """Writes a split and returns its number of pairs; the same pairs give the same bytes."""
    rows = [asdict(pair) for pair in pairs]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd")
    return len(rows)


def read(file: Path) -> list[Pair]:
    """Reads the pairs of a split, in the file's order."""
    return [
        Pair(**row | {"prompt": without_empty_fields(row["prompt"])} | {name: row[name] or "" for name in CALLS})
        for row in pq.read_table(file, schema=SCHEMA).to_pylist()
    ]
