"""What the cell of a record holds: nothing, turns of a conversation, a verdict on a reply, a number."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from pipelines.data.sources.column_names import CALL_KEYS, CONTENT_KEYS, EXCHANGE_KEYS, MISSING_TEXTS, ROLE_KEYS

LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")  # how JSON text of turns begins


def has_value(value: Any) -> bool:
    """Whether a column holds something: not null, not NaN, not empty. 0 and false are something."""
    if isinstance(value, str):
        return value.strip() not in MISSING_TEXTS
    if isinstance(value, float):
        return not math.isnan(value)
    return value is not None and (not isinstance(value, list | dict | tuple) or len(value) > 0)


def as_turns(value: Any) -> list[Any] | None:
    """The turns in a column's value: a list, JSON text of one, or an object of lists; None where it holds no turns.

    Objects that hold a whole exchange ({human, assistant}) are divided into two turns."""
    if isinstance(value, str) and LIST_OF_OBJECTS.match(value):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    if isinstance(value, dict) and any(isinstance(value.get(key), list) for key in ROLE_KEYS):
        value = _rows_of(value)
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return None
    turns = list(chain.from_iterable(_divided(turn) for turn in value))
    return turns if _is_turn(turns[0]) else None


def _rows_of(columns: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of an object of lists; None where the lists differ in length. What is no list belongs to no row."""
    lists = {name: column for name, column in columns.items() if isinstance(column, list)}
    if len(set(map(len, lists.values()))) != 1:
        return None
    return [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]


def _divided(turn: Any) -> Iterator[Any]:
    """The turn, or the two turns of an exchange."""
    keys = next((keys for keys in EXCHANGE_KEYS if isinstance(turn, dict) and turn.keys() >= set(keys)), None)
    if keys is None or any(key in turn for key in ROLE_KEYS):
        yield turn
    else:
        yield {"role": "user", "content": turn[keys[0]]}
        yield {"role": "assistant", "content": turn[keys[1]]}


def _is_turn(turn: Any) -> bool:
    keys = turn.keys() if isinstance(turn, dict) else ()
    return any(key in keys for key in ROLE_KEYS) and any(key in keys for key in (*CONTENT_KEYS, *CALL_KEYS))


def tools_of(value: Any) -> list[dict[str, Any]] | None:
    """The tools in a column's value, as OpenAI's API takes them: a list, or JSON text of one; None where it holds none.

    Functions by themselves are wrapped. What is null is left out: tables of rows have a cell for every key of any.

    >>> tools_of('[{"name": "tide", "description": null}]')
    [{'type': 'function', 'function': {'name': 'tide'}}]
    """
    if isinstance(value, str) and LIST_OF_OBJECTS.match(value):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list) or not value:
        return None
    tools: list[dict[str, Any]] = []
    for item in map(without_nulls, value):
        function = item.get("function", item) if isinstance(item, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return None
        tools.append(item if function is not item else {"type": "function", "function": item})
    return tools


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
    if isinstance(value, int | float):
        return True if value == 1 else False if value in (0, -1) else None
    if not isinstance(value, str):
        return None
    text = value.strip().lower()
    if text in ("true", "1", "yes", "good", "up", "thumbs_up", "desirable", "chosen", "correct", "👍"):
        return True
    if text in ("false", "0", "-1", "no", "bad", "down", "thumbs_down", "undesirable", "rejected", "incorrect", "👎"):
        return False
    return None


def number_of(value: Any) -> float | None:
    """The number that a rating holds, as number or text; None for anything else.

    >>> number_of("4.5"), number_of(3), number_of("N/A"), number_of(True)
    (4.5, 3.0, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
