"""What the cell of a record holds: nothing, turns of a conversation, a verdict on a reply, a number."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import chain
from typing import Any

from pipelines.data.sources import moss
from pipelines.data.sources.column_names import (
    CALL_KEYS,
    CALL_ROLES,
    CONTENT_KEYS,
    EXCHANGE_KEYS,
    FLAG_KEYS,
    MISSING_TEXTS,
    REFUSAL,
    RESULT_KEYS,
    RESULT_ROLES,
    ROLE_KEYS,
    ROLES,
    SENDER,
    THOUGHT_COLUMNS,
    Column,
)
from pipelines.data.text.normalise import normalise

GOOD_WORDS = ("true", "yes", "good", "up", "thumbs_up", "desirable", "chosen", "correct", "👍", "好", "是", "对",
              "正确")  # fmt: skip
BAD_WORDS = ("false", "no", "bad", "down", "thumbs_down", "undesirable", "rejected", "incorrect", "👎", "坏", "差",
             "不好", "否", "错", "错误")  # fmt: skip
LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")  # how JSON text of turns begins
PLACE = re.compile(r"\d{1,9}")  # of one item of several
BETWEEN_ROWS = re.compile(r"\}\s*\n\s*\{")  # of a numpy array as text, which has no commas


def has_value(value: Any) -> bool:
    """Whether a column holds something: not null, not NaN, not empty. 0 and false are something."""
    if isinstance(value, str):
        return value.strip() not in MISSING_TEXTS
    if isinstance(value, float):
        return not math.isnan(value)
    return value is not None and (not isinstance(value, list | dict | tuple) or len(value) > 0)


def as_turns(value: Any) -> list[Any] | None:
    """The turns in a column's value: a list, text of one, an object of lists, or in a spelling of MOSS; None where it
    holds no turns.

    Objects that hold a whole exchange ({human, assistant}) are divided into two turns."""
    value = moss.exchanges(value) or _in_order(value) or value
    if is_text_of_objects(value):
        value = _parsed(value)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    if isinstance(value, dict) and any(isinstance(value.get(key), list) for key in ROLE_KEYS):
        value = _rows_of(value)
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return None
    first = value[0].get("system")
    turns = list(chain.from_iterable(_divided(turn, number, first) for number, turn in enumerate(value)))
    return turns if _is_turn(turns[0]) else None


def as_record(value: Any) -> dict[str, Any] | None:
    """The record that a JSON value is: an object, or a list of turns under the name of them; None for anything else.

    >>> as_record([{"role": "user", "content": "Hi"}]), as_record(["Hi"])
    ({'messages': [{'role': 'user', 'content': 'Hi'}]}, None)
    """
    if isinstance(value, list):
        return {"messages": value} if is_dialogue(value) else None
    return value if isinstance(value, dict) else None


def is_of_turns(value: Any) -> bool:
    """Whether the value of a column with the name of turns holds them, or text of them, and no mails."""
    if is_text_of_objects(value):
        return True
    turns = as_turns(value)
    return turns is not None and key_of(turns[0], ROLE_KEYS) != SENDER


def is_dialogue(value: Any) -> bool:
    """Whether a value is turns of which the first has a known role, and so no list of anything else."""
    turns = as_turns(value)
    return turns is not None and role_of(turns[0]) in (*ROLES, *CALL_ROLES, *RESULT_ROLES)


def role_of(turn: Any) -> str:
    """The role that a turn names, in small letters and without blanks and invisible characters; empty where it names
    none.

    >>> role_of({"from": " Human\\u200b "}), role_of({"role": None})
    ('human', '')
    """
    role = turn.get(key_of(turn, ROLE_KEYS)) if isinstance(turn, dict) else None
    return normalise(role).strip().lower() if isinstance(role, str) else ""


def ends_with_prompt(value: Any) -> bool:
    """Whether a value is turns of which the last is the user's, the system's, or the result of a call."""
    turns = as_turns(value)
    role = role_of(turns[-1]) if turns else ""
    return ROLES.get(role) in ("user", "system") or role in RESULT_ROLES


def is_text_of_objects(value: Any) -> bool:
    """Whether a value is text that begins as a list of objects does."""
    return isinstance(value, str) and LIST_OF_OBJECTS.match(value) is not None


def _parsed(text: str) -> Any:
    """The list that a text holds: in JSON, or as Python writes it, as tables do that pandas saved; None without one."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    joined = BETWEEN_ROWS.sub("}, {", text.strip())
    try:
        return ast.literal_eval(text.strip() if "\n" in joined else joined)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def turns_of_texts(value: Any) -> list[dict[str, str]] | None:
    """The turns of a list of texts that the user and the assistant say in turn; None where it is none.

    >>> turns_of_texts(["1 + 1?", "2"])
    [{'role': 'user', 'content': '1 + 1?'}, {'role': 'assistant', 'content': '2'}]
    """
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(text, str) for text in value):
        return None
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(value)]


def keys_beside_turns(value: Any) -> list[str]:
    """The keys of an object around turns ({messages, tools}) that hold something which belongs to no turn."""
    if not isinstance(value, dict) or moss.exchanges(value) or _in_order(value):
        return []
    holds_messages = isinstance(value.get("messages"), list)
    return [
        key
        for key, one in value.items()
        if has_value(one) and (key != "messages" if holds_messages else not isinstance(one, list))
    ]


def key_of(turn: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The key of a turn that is read among several of one meaning: the first that holds something, or is there."""
    return next((key for key in keys if has_value(turn.get(key))), next((key for key in keys if key in turn), keys[0]))


def content_key(turn: Mapping[str, Any]) -> str:
    """The key of a turn with what it says; of a reply of OpenAI's API that refuses, and has no content, `refusal`."""
    key, refusal = key_of(turn, CONTENT_KEYS), turn.get(REFUSAL)
    return REFUSAL if isinstance(refusal, str) and has_value(refusal) and not has_value(turn.get(key)) else key


def is_flag(value: Any) -> bool:
    """Whether a value says yes or no, or how much something weighs."""
    return verdict(value) is not None or number_of(value) is not None


def keys_not_read(turn: Mapping[str, Any]) -> list[str]:
    """The keys of a turn that hold something and are not read.

    >>> keys_not_read({"role": "user", "content": "Hi", "text": "Hello", "name": "Ann"})
    ['text', 'name']
    """
    role = role_of(turn)
    read = {key_of(turn, ROLE_KEYS), content_key(turn), *CALL_KEYS, *FLAG_KEYS}
    if role in RESULT_ROLES:
        read.update(RESULT_KEYS)
    if ROLES.get(role) == "assistant":
        read.add(key_of(turn, THOUGHT_COLUMNS))
    read -= {key for key in FLAG_KEYS if _is_no_flag(key, turn.get(key))}
    return [key for key, value in turn.items() if key not in read and has_value(value)]


def _in_order(value: Any) -> list[Any] | None:
    """The objects in an object whose keys are numbers, {"0": …, "1": …}; None where it is none."""
    if not isinstance(value, dict) or not all(PLACE.fullmatch(str(key)) for key in value):
        return None
    items = [value[key] for key in sorted(value, key=int)]
    return items if items and all(isinstance(item, dict) for item in items) else None


def _rows_of(columns: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of an object of lists; None where the lists differ in length. What is no list belongs to no row."""
    lists = {name: column for name, column in columns.items() if isinstance(column, list)}
    if len(set(map(len, lists.values()))) != 1:
        return None
    return [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]


def _divided(turn: Any, number: int, first: Any) -> Iterator[Any]:
    """The turn, or the two turns of an exchange; before the first one the system's turn, which others may repeat.

    number: of the exchange. first: the system's text in the first one."""
    keys = next((keys for keys in EXCHANGE_KEYS if isinstance(turn, dict) and turn.keys() >= set(keys)), None)
    if keys is None or any(key in turn for key in ROLE_KEYS):
        yield turn
    else:
        system = turn.get("system")
        if number == 0 and isinstance(system, str) and has_value(system):
            yield {"role": "system", "content": system}
        read = (*keys, "system") if isinstance(first, str) and system == first else keys
        beside = {key: value for key, value in turn.items() if key not in read}  # flags, a thought
        others = () if has_value(turn[keys[1]]) else CONTENT_KEYS  # no text but the reply's own is the reply
        unread = {key: beside.pop(key) for key in list(beside) if key in others or _is_no_flag(key, beside[key])}
        yield {**unread, "role": "user", "content": turn[keys[0]]}
        yield {**beside, "role": "assistant", "content": turn[keys[1]]}


def _is_no_flag(key: str, value: Any) -> bool:
    """Whether the key of a flag says neither yes nor no, nor how much a turn weighs: not read, and named."""
    return key in FLAG_KEYS and not (is_flag(value) if key != "label" else verdict(value) is not None)


def _is_turn(turn: Any) -> bool:
    keys = turn.keys() if isinstance(turn, dict) else ()
    return any(key in keys for key in ROLE_KEYS) and any(key in keys for key in (*CONTENT_KEYS, *CALL_KEYS, REFUSAL))


def tools_of(value: Any) -> list[dict[str, Any]] | None:
    """The tools in a column's value, as OpenAI's API takes them: a list, or JSON text of one; None where it holds none.

    Functions by themselves are wrapped. What is null is left out: tables of rows have a cell for every key of any.

    >>> tools_of('[{"name": "tide", "description": null}]')
    [{'type': 'function', 'function': {'name': 'tide'}}]
    """
    if is_text_of_objects(value):
        value = _parsed(value)
    if not isinstance(value, list) or not value:
        return None
    tools: list[dict[str, Any]] = []
    for item in map(without_nulls, value):
        function = item.get("function", item) if isinstance(item, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return None
        tools.append(item if function is not item else {"type": "function", "function": item})
    return tools


def calls_of(value: Any) -> list[Any] | None:
    """The calls of tools in a column's value: a list, or JSON text of one, which may be empty; None for anything else.

    >>> calls_of('[{"name": "tide", "arguments": {"port": "Wick"}}]'), calls_of("[]"), calls_of(["Yes", "No"])
    ([{'name': 'tide', 'arguments': {'port': 'Wick'}}], [], None)
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed(value)
    if not isinstance(value, list):
        return None
    calls = [item for item in value if isinstance(item, dict) and {"name", "arguments"} <= item.keys()]
    return calls if len(calls) == len(value) else None


def without_nulls(value: Any) -> Any:
    """A JSON value without the keys of objects that are null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return list(map(without_nulls, value)) if isinstance(value, list) else value


def verdict(value: Any) -> bool | None:
    """Whether a label says good or bad; None where it says neither.

    >>> verdict(True), verdict("bad"), verdict(0), verdict("sports"), verdict(3)
    (True, False, False, None, None)
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and (number := number_of(value)) is not None:
        value = number
    if isinstance(value, int | float):
        return True if value == 1 else False if value in (0, -1) else None
    if not isinstance(value, str):
        return None
    text = value.strip().lower()
    if text in GOOD_WORDS:
        return True
    if text in BAD_WORDS:
        return False
    return None


def number_of(value: Any) -> float | None:
    """The number that a rating holds, as number or text; None for anything else.

    >>> number_of("4.5"), number_of(3), number_of("N/A"), number_of(True)
    (4.5, 3.0, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def texts_within(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of each column with text, and of those within objects: a.b is b within the column a."""
    for name, value in record.items():
        if isinstance(value, str):
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from texts_within(value, f"{prefix}{name}.")


def lists_within(record: Mapping[str, Any]) -> Iterator[list[Any]]:
    """The lists in columns, and those within objects."""
    for value in record.values():
        if isinstance(value, dict):
            yield from lists_within(value)
        elif isinstance(value, list):
            yield value


def num_characters(value: Any) -> int:
    """Characters of the texts in a list."""
    if isinstance(value, dict | list):
        return sum(map(num_characters, value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, str) else 0


def renamed(record: Mapping[str, Any], columns: Mapping[Column, str]) -> dict[str, Any]:
    """A record whose columns have the names of a recipe's `columns`; the others are marked, so that none is read.

    columns: the column of the record for each name; a.b is b within column a.

    >>> renamed({"q": "1 + 1?", "a": "2", "system": "s"}, {"prompt": "q", "reply": "a"})
    {'prompt': '1 + 1?', 'reply': '2', 'system (not in columns)': 's'}
    """
    named = {name: _value_of(record, column) for name, column in columns.items()}
    read = {column if column in record else column.split(".")[0] for column in columns.values()}
    others = {f"{column} (not in columns)": value for column, value in record.items() if column not in read}
    return {**{name: value for name, value in named.items() if value is not None}, **others}


def _value_of(record: Mapping[str, Any], column: str) -> Any:
    """The value of a column; where none has the name, a.b is b within column a. None where there is neither."""
    if column in record:
        return record[column]
    outer, dot, inner = column.partition(".")
    value = record.get(outer)
    return _value_of(value, inner) if dot and isinstance(value, dict) else None
