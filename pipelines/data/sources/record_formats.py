"""Detects the format of a record by its columns: text, conversations, preference pairs or prompts.

record ──names of columns──► RowFormat: rows as the recipe writes them, what it is, the columns with the content
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXT_COLUMNS = ("text", "content", "body", "document", "article", "passage", "正文", "内容", "文本")
# Columns of a prompt and its reply, by the names that data sets give them.
EXCHANGE_COLUMNS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("query", "answer"),
)
PROMPT_COLUMNS = ("prompt", "question", "instruction", "query")
TURN_LISTS = ("messages", "conversations", "conversation")


@dataclass(frozen=True)
class RowFormat:
    """Format of the rows of a file: the recipe's `rows:`, its description, and the columns with the content."""

    rows: str  # text, conversations, preferences or prompts
    description: str  # for messages: "Alpaca: instruction, input, output"
    columns: tuple[str, ...]  # in the order in which they are read


def detect_format(record: Mapping[str, Any]) -> RowFormat | None:
    """Detects the format of a record by its columns. Returns None if no column has text.

    >>> detect_format({"instruction": "Add", "input": "1, 2", "output": "3"}).description
    'Alpaca: instruction, input, output'
    """
    if "chosen" in record and "rejected" in record:
        prompt = tuple(name for name in (*PROMPT_COLUMNS, *TURN_LISTS) if name in record)[:1]
        columns = (*prompt, "chosen", "rejected")
        return RowFormat("preferences", f"preference pairs: {', '.join(columns)}", columns)
    for name in TURN_LISTS:
        turns = record.get(name)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            if {"role", "content"} <= turns[0].keys():
                return RowFormat("conversations", f"OpenAI: {name} of role and content", (name,))
            if {"from", "value"} <= turns[0].keys():
                return RowFormat("conversations", f"ShareGPT: {name} of from and value", (name,))
    for prompt, reply in EXCHANGE_COLUMNS:
        if isinstance(record.get(prompt), str) and isinstance(record.get(reply), str):
            alpaca = prompt == "instruction"
            columns = (prompt, "input", reply) if alpaca and "input" in record else (prompt, reply)
            name = "Alpaca" if alpaca else "prompt and reply"
            return RowFormat("conversations", f"{name}: {', '.join(columns)}", columns)
    return _text_or_prompts(record)


def _text_or_prompts(record: Mapping[str, Any]) -> RowFormat | None:
    """A column with a usual name for text, else one with prompts, else the column with the longest text."""
    texts = {name: value for name, value in record.items() if isinstance(value, str)}
    candidates = [name for name in TEXT_COLUMNS if name in texts] or [n for n in texts if n.lower() in TEXT_COLUMNS]
    if not candidates:
        prompts = [name for name in PROMPT_COLUMNS if name in texts]
        if prompts:
            return RowFormat("prompts", f"prompts: {prompts[0]}", (prompts[0],))
        candidates = sorted(texts, key=lambda name: -len(texts[name]))
    return RowFormat("text", f"text: {candidates[0]}", (candidates[0],)) if candidates else None
