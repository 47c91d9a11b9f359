"""Detects the format of a record by its columns: text, conversations, preferences or prompts.

    record ──names and values of its columns──► RowFormat: the recipe's `rows:`, what it is, which column is what

The parsers (data/dialogues) read exactly the columns that a RowFormat names; `columns_not_used` names all others that
hold something, so nothing that a row says is lost in silence. Names are compared without case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines.data.sources.cells import (
    as_turns,
    has_value,
    key_of,
    keys_beside_turns,
    keys_not_read,
    lists_within,
    num_characters,
    texts_within,
)
from pipelines.data.sources.column_names import (
    INSTANCE_KEYS,
    PROMPT_COLUMNS,
    RATED_REPLY_KEYS,
    TEXT_COLUMNS,
)
from pipelines.data.sources.conversation_formats import conversations
from pipelines.data.sources.preference_formats import preferences, rated_reply, rating_key, rating_of
from pipelines.data.sources.row_format import RowFormat
from pipelines.errors import printable


def detect_format(record: Mapping[str, Any]) -> RowFormat | None:
    """Detects the format of a record by its columns. Returns None if no column has text.

    >>> detect_format({"instruction": "Add", "input": "1, 2", "output": "3"}).description
    'Alpaca: instruction, input, output'
    """
    return preferences(record) or conversations(record) or _text_or_prompts(record)


def main_format(records: Iterable[Mapping[str, Any]]) -> tuple[RowFormat | None, int]:
    """The format of most records, with every column that any of them has, and the number of them.

    >>> main_format([{"prompt": "a", "answer": "b"}, {"prompt": "a", "answer": "b", "system": "s"}, {"text": "c"}])[1]
    2
    """
    formats = [row_format for record in records if (row_format := detect_format(record)) is not None]
    counts = Counter(row_format.content for row_format in formats)
    if not counts:
        return None, 0
    (key, count), *_ = counts.most_common(1)
    alike = (row_format for row_format in formats if row_format.content == key)
    return max(alike, key=lambda row_format: len(row_format.columns)), count


def format_as(record: Mapping[str, Any], rows: str) -> RowFormat | None:
    """The format in which a record is read where the recipe says `rows`; None where it cannot be.

    >>> format_as({"prompt": "1 + 1?", "completion": "2", "label": True}, "preferences").columns
    ('prompt', 'completion', 'label')
    """
    if rows == "preferences":
        return preferences(record) or rated_reply(record)
    if rows == "conversations":
        return conversations(record) if preferences(record) is None else None
    row_format = _text_or_prompts(record)
    return row_format if row_format is not None and row_format.rows == rows else None


def columns_not_used(record: Mapping[str, Any], rows: str) -> tuple[str, ...]:
    """Columns that hold something and that reading the record as `rows` leaves alone; keys of turns as column.key.

    >>> columns_not_used({"id": 7, "prompt": "a", "response": "b", "tools": "", "score": None}, "conversations")
    ('id',)
    """
    row_format = format_as(record, rows)
    used = set() if row_format is None else set(row_format.columns)
    names = [printable(str(name)) for name, value in record.items() if name not in used and has_value(value)]
    return (*names, *(_turn_keys_not_used(record, row_format) if row_format is not None else ()))


def reads_alike(one: Mapping[str, Any], other: Mapping[str, Any], rows: str) -> bool:
    """Whether two records differ in nothing that reading them as `rows` reads.

    >>> reads_alike({"id": 7, "text": "a"}, {"id": 8, "text": "a"}, "text")
    True
    """
    row_format = format_as(one, rows)
    if row_format is None or row_format != format_as(other, rows) or rating_of(one) != rating_of(other):
        return False
    return all(one.get(column) == other.get(column) for column in row_format.columns)


def column_names(record: Mapping[str, Any]) -> str:
    """The names of a record's columns, for messages."""
    return ", ".join(printable(str(name)) for name in record) or "none"


def _text_or_prompts(record: Mapping[str, Any]) -> RowFormat | None:
    """A column with a usual name for text, else one with prompts, else the column with the longest text, or a.b within
    an object if b is a usual name; none where the texts of a list are longer: they are what the row says."""
    texts = {name: value for name, value in record.items() if isinstance(value, str)}
    candidates = [name for name in TEXT_COLUMNS if name in texts] or [n for n in texts if n.lower() in TEXT_COLUMNS]
    if not candidates:
        prompts = [name for name in PROMPT_COLUMNS if name in texts]
        if prompts:
            return RowFormat("prompts", f"prompts: {prompts[0]}", (prompts[0],), ("prompt",))
        within = texts_within(record)
        texts |= {name: text for name, text in within if name.rpartition(".")[2].lower() in TEXT_COLUMNS}
        candidates = sorted(texts, key=lambda name: -len(texts[name]))
        longest = len(texts[candidates[0]]) if candidates else 0
        if any(num_characters(value) > longest for value in lists_within(record)):
            return None
    return RowFormat("text", f"text: {candidates[0]}", (candidates[0],), ("text",)) if candidates else None


def _turn_keys_not_used(record: Mapping[str, Any], row_format: RowFormat) -> Iterator[str]:
    """column.key for the keys of turns and rated replies that hold something and are not read, each once."""
    for column, role in zip(row_format.columns, row_format.roles, strict=True):
        value = record.get(column)  # none where the column is a.b
        items = (value if role in UNREAD_KEYS else as_turns(value)) or []
        items = [item for item in items if isinstance(item, dict)]
        unread = UNREAD_KEYS.get(role, keys_not_read)
        keys = dict.fromkeys(key for item in items for key in unread(item))
        keys |= dict.fromkeys(keys_beside_turns(value) if items else ())
        yield from (f"{printable(column)}.{printable(str(key))}" for key in keys)


def _reply_keys_not_read(reply: Mapping[str, Any]) -> list[str]:
    """The keys of a rated reply that hold something and are not read."""
    read = {key_of(reply, RATED_REPLY_KEYS), rating_key(reply)}
    return [key for key, value in reply.items() if key not in read and has_value(value)]


def _instance_keys_not_read(instance: Mapping[str, Any]) -> list[str]:
    """The keys of an instance of an instruction that hold something and are not read."""
    return [key for key, value in instance.items() if key not in INSTANCE_KEYS and has_value(value)]


# By the role of a column of objects that are no turns.
UNREAD_KEYS = {"replies": _reply_keys_not_read, "instances": _instance_keys_not_read}
