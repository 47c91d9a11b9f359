"""Reads calls of tools and their results from the spellings that data sets use.

    tool_calls, function_call (OpenAI) | a turn from function_call (ShareGPT) ──► JSON text of a list of calls | Problem
        [{"id": …, "type": "function", "function": {"name": …, "arguments": {…}}}]

Arguments become an object, be they one or JSON text of one: that is how chat templates take them. A call that is
written in the text of a reply stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.cells import has_value, without_nulls
from pipelines.data.sources.column_names import CALL_KEYS
from pipelines.data.tokens.chat_messages import join_calls

WRAPPED = re.compile(r"\s*<tool_response>(.*)</tool_response>\s*", re.DOTALL)  # as templates write results


def beside(item: Mapping[str, Any], role: str, place: str) -> str | Problem:
    """The calls that stand beside the content of a turn, as JSON text; empty without any."""
    values = [item[key] for key in CALL_KEYS if has_value(item.get(key))]
    if not values:
        return ""
    if role != "assistant":
        return Problem("tool_call", f"{place} calls a tool; expected calls in the assistant's turns alone")
    calls = [read(value, place) for value in values]
    problem = next((each for each in calls if isinstance(each, Problem)), None)
    return problem or join_calls(*(each for each in calls if isinstance(each, str)))


def read(value: Any, place: str) -> str | Problem:
    """Calls as JSON text, from one call, a list of them, or JSON text of either.

    >>> read('{"name": "tide", "arguments": "{\\\\"port\\\\": \\\\"Wick\\\\"}"}', "turn 2")
    '[{"type": "function", "function": {"name": "tide", "arguments": {"port": "Wick"}}}]'
    """
    parsed = _parsed(value)
    items = parsed if isinstance(parsed, list) else [parsed]
    calls = [_call(item) for item in items]
    if None in calls or not calls:
        unread = items[calls.index(None)] if calls else value
        text = f"{place} has the call {str(unread)[:60]!r}; expected a name, and arguments as an object"
        return Problem("tool_call", text)
    return json.dumps(calls, ensure_ascii=False)


def result_text(value: Any) -> str:
    """The result of a call as text: an object as JSON, nothing as an empty text."""
    if isinstance(value, str):
        wrapped = WRAPPED.fullmatch(value)
        return value if wrapped is None or "<tool_response>" in wrapped.group(1) else wrapped.group(1)
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _call(item: Any) -> dict[str, Any] | None:
    """A call in the form of OpenAI's API; None for what is none."""
    function = _parsed(item.get("function", item)) if isinstance(item, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        return None
    value = next((function[key] for key in ("arguments", "parameters") if has_value(function.get(key))), {})
    arguments = _parsed(value) if isinstance(value, str) else without_nulls(value)
    if not isinstance(arguments, dict):
        return None
    named = {"id": str(item["id"])} if has_value(item.get("id")) else {}
    return {**named, "type": "function", "function": {"name": name, "arguments": arguments}}


def _parsed(value: Any) -> Any:
    """The value of JSON text; None where it is none. Other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
