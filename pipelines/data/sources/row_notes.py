"""Notes of `rayse init` on rows that are read, but may not say what their reader expects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.data.sources.cells import has_value, is_dialogue
from pipelines.data.sources.column_names import ROLE_KEYS
from pipelines.data.sources.row_format import RowFormat, first_column

# How templates begin a turn: ChatML, Llama 2 and 3, Gemma, MOSS, Alpaca's and Guanaco's headings; a user's turn before
# the assistant's.
CHAT_MARKS = re.compile(
    r"<\|im_start\|>|\[INST\]|<\|start_header_id\|>|<start_of_turn>|<\|Human\|>:"
    r"|^#+ ?(?:Human|Instruction|Assistant|Response):"
    r"|\A\s*(?:Human|User|USER|用户|人类)[:：](?=[\s\S]*\n\s*(?:Assistant|ASSISTANT|AI|Bot|助手|机器人)[:：])",
    re.MULTILINE,
)
MAX_NAME_CHARACTERS = 40  # of a column, as a rule
CHOICES = ("choices", "options", "选项")
LETTERS = ("a", "b")  # columns of choices, one each
CHOICE = re.compile(r"\s*\(?(?:[A-Ha-h]|\d)\)?\s*")  # the letter or number of one


def notes(
    name: str, row_format: RowFormat, records: Sequence[Mapping[str, Any]], texts: Sequence[str], beside: Sequence[str]
) -> list[str]:
    """The notes on a file's rows. name: the file's; texts: what is read of each row; beside: names beside the rows of
    a document."""
    found = [f"beside the rows, and not read: {', '.join(beside)}"] if beside else []
    found += [*_of_header(row_format)] if row_format.rows == "text" else []
    found += [*_of_text(records, texts)] if row_format.rows == "text" else []
    found += [*_of_choices(records, row_format)] if row_format.rows == "conversations" else []
    return [f"{name}: {note}" for note in found]


def _of_header(row_format: RowFormat) -> Iterator[str]:
    """A first line that is taken for the names of columns, and is a row by what it says."""
    column = row_format.columns[0]
    if len(column) > MAX_NAME_CHARACTERS:
        said = f"{column[:MAX_NAME_CHARACTERS]}…"
        yield f"the text is in a column named {said!r}: if that is a row, give the table a first line of names"


def _of_text(records: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> Iterator[str]:
    """Chats that were rendered to running text with the marks of a template, or are divided into rows."""
    marks = [match[0] for text in texts if (match := CHAT_MARKS.search(text))]
    if 2 * len(marks) > len(texts):
        mark, expected = marks[0].strip(), "expected rows of messages for conversations"
        yield f"chats with the marks of a template ({mark}) are read as running text; {expected}"
    turns = [record for record in records if any(key in record for key in ROLE_KEYS) and is_dialogue([record])]
    if 2 * len(turns) > len(records):
        expected = "expected a row for each conversation, with its turns in a list"
        yield f"each row is one turn of a conversation, and read as running text; {expected}"


def _of_choices(records: Sequence[Mapping[str, Any]], row_format: RowFormat) -> Iterator[str]:
    """Replies that are the letter or number of a choice, which stands in columns that nothing reads."""
    reply = row_format.column("reply")
    columns = next(filter(None, map(_choices, records)), ())
    if reply is None or not columns or set(columns) & set(row_format.columns):
        return
    replies = [record[reply] for record in records if has_value(record.get(reply))]
    if replies and all(CHOICE.fullmatch(str(value)) for value in replies):
        where = f"{', '.join(columns)}, which nothing reads; write the choices into the prompt"
        yield f"column {reply!r} is the letter or number of a choice in {where}"


def _choices(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of a record with choices."""
    together = first_column(record, CHOICES, lambda value: isinstance(value, list | dict) and has_value(value))
    apart = [first_column(record, (letter,), has_value) for letter in LETTERS]
    return (together,) if together is not None else tuple(name for name in apart if name is not None and all(apart))


def is_table_in_an_object(record: dict[str, Any]) -> bool:
    """Whether the only row of a file is a table: {column: {number: cell}}, {id: row}, {column: [cells]}, or
    {"columns": …, "data": [[cells]]}."""
    values = [value for value in record.values() if isinstance(value, dict | list)]
    objects = [frozenset(value) for value in values if isinstance(value, dict)]
    if len(objects) == len(record):
        return len(set(objects)) == 1 and (len(objects) > 1 or all(str(key).isdigit() for key in objects[0]))
    lists = [value for value in values if isinstance(value, list)]
    items = [item for value in lists for item in value]
    return len(lists) == len(record) and len(items) > 0 and not any(isinstance(item, dict) for item in items)
