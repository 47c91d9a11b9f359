"""Conversations as rows: one Parquet file a split, one row a conversation, in any tool readable.

    {id, language, source, task, safety, messages [{role, content}], answer, wrong [text]}

Every conversation ends with an assistant's turn; what stands before it is the prompt that evaluation and PPO ask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "language", "source", "task", "safety")]
    + [("messages", pa.list_(MESSAGE)), ("answer", pa.string()), ("wrong", TEXTS)]
)
TRAIN, HELD_OUT = "train.parquet", "held_out.parquet"
OPEN_TASK = "open"  # of conversations from the user's files: no answer that can be checked


@dataclass(frozen=True)
class Conversation:
    """One conversation; messages: [{"role": system | user | assistant, "content": text}], the last an assistant's."""

    id: str
    language: str  # en or zh
    source: str  # the recipe's source, or "embedded"
    task: str  # a narrow task's name, persona, refusal, look_alike, small_talk, or "open"
    messages: list[dict[str, str]]
    answer: str | None = None  # what the last turn must say, where that can be checked
    wrong: tuple[str, ...] = ()  # answers of about the same length that are wrong
    safety: str = ""  # unsafe: must be declined; safe: looks unsafe and must be answered; "": neither

    @property
    def prompt(self) -> list[dict[str, str]]:
        return self.messages[:-1]

    @property
    def reply(self) -> str:
        return self.messages[-1]["content"]


def write(file: Path, conversations: Iterable[Conversation]) -> int:
    """Writes a split; the same conversations give the same bytes. Returns how many."""
    rows = [asdict(one) | {"wrong": list(one.wrong)} for one in conversations]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd")
    return len(rows)


def read(file: Path) -> list[Conversation]:
    """Every conversation of a split, in the file's order."""
    rows = pq.read_table(file, schema=SCHEMA).to_pylist()
    return [Conversation(**row | {"wrong": tuple(row["wrong"] or ())}) for row in rows]
