"""Conversations as a Parquet file a split, one row a conversation, readable by any tool.

    {id, language, source, task, safety, messages [{role, content, tool_calls, tool_call_id, name}], tools,
     not_learnt [position], weights [number], answer, wrong [text]}

Every conversation ends with an assistant turn; the turns before it are the prompt, for evaluation and PPO as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.tokens.chat_messages import said

MESSAGE_FIELDS = ("role", "content", "tool_calls", "tool_call_id", "name")  # the last three where a tool is called
MESSAGES = pa.list_(pa.struct([(name, pa.string()) for name in MESSAGE_FIELDS]))
TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "language", "source", "task", "safety")]
    + [("messages", MESSAGES), ("answer", pa.string()), ("wrong", TEXTS)]
    + [("not_learnt", pa.list_(pa.int32())), ("tools", pa.string()), ("weights", pa.list_(pa.float32()))]
)
TRAIN, HELD_OUT = "train.parquet", "held_out.parquet"
OPEN_TASK = "open"  # task of conversations from the user's files: no checkable answer


@dataclass(frozen=True)
class Conversation:
    """A conversation; messages: as chat_messages.py has them, the last one an assistant's."""

    id: str
    language: str  # en or zh
    source: str  # name of the recipe's source, or "embedded" for the built-in tasks
    task: str  # name of a built-in task, or "open"
    messages: list[dict[str, str]]
    answer: str | None = None  # the answer that the last turn must give, where it can be checked
    wrong: tuple[str, ...] = ()  # wrong answers of about the same length
    safety: str = ""  # unsafe: must be refused; safe: a benign look-alike, must be answered; "": neither
    not_learnt: tuple[int, ...] = ()  # positions of assistant's turns that are context alone; never the last one
    # What the loss of each assistant's turn is multiplied with, in their order; 0 for context. Empty: 1 for the others.
    weights: tuple[float, ...] = ()
    tools: str = ""  # those that the assistant may call, as a JSON list in the form of OpenAI's API; empty without any

    @property
    def prompt(self) -> list[dict[str, str]]:
        """All turns but the last."""
        return self.messages[:-1]

    @property
    def reply(self) -> str:
        """Text of the last turn, with the calls in it."""
        return said(self.messages[-1])


def write(file: Path, conversations: Iterable[Conversation]) -> int:
    """Writes a split and returns its number of conversations; the same conversations give the same bytes."""
    rows = [
        asdict(conversation) | {name: list(getattr(conversation, name)) for name in ("wrong", "not_learnt", "weights")}
        for conversation in conversations
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd")
    return len(rows)


def read(file: Path) -> list[Conversation]:
    """Reads the conversations of a split, in the file's order."""
    rows = pq.read_table(file, schema=SCHEMA).to_pylist()
    return [
        Conversation(
            **row
            | {
                "messages": without_empty_fields(row["messages"]),
                "wrong": tuple(row["wrong"] or ()),
                "not_learnt": tuple(row["not_learnt"] or ()),
                "weights": tuple(row["weights"] or ()),
                "tools": row["tools"] or "",
            }
        )
        for row in rows
    ]


def without_empty_fields(messages: Iterable[dict[str, str | None]]) -> list[dict[str, str]]:
    """Messages as they were before they were written: without the fields that are null."""
    return [{name: text for name, text in message.items() if text is not None} for message in messages]
