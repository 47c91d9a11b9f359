"""Calls of tools in a conversation: whether and how a chat template writes them and their results.

    one call and its result ──rendered in each style──► CallStyle | None
    messages ──with_calls, in that style──► messages as the template takes them

Templates differ: most take the arguments of a call as an object, some (DeepSeek V3) as JSON text; some (Llama 3.1) take
one call a turn, or leave out the text beside a call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.data.tokens.chat_messages import Message

Render = Callable[[Sequence[Mapping[str, Any]]], str | None]
"""Renders messages; None where the template refuses them."""

USER = {"role": "user", "content": "hello"}
# Texts that no template writes by itself: names, an argument, a result, text beside a call.
FIRST, SECOND, ARGUMENT, RESULT, BESIDE = "0x5a", "0x5b", "0x5c", "0x5d", "0x5e"
MARK = re.compile(r"</?[A-Za-z][\w-]*>|\[/?[A-Z][A-Z_]+\]")  # in a template's text: <tool_response>, [TOOL_RESULTS]
CALL_IDS = ("call00001", "call00002")  # of nine letters and digits, as Mistral's templates expect


@dataclass(frozen=True)
class CallStyle:
    """How a chat template takes calls.

    arguments_as_text: as JSON text, not as an object. several: the template takes several calls in one turn.
    writes_beside: it writes the text beside a call. written: a conversation with one call, of FIRST with ARGUMENT, as
    the template writes it."""

    arguments_as_text: bool
    several: bool = True
    writes_beside: bool = True
    written: str = ""


def call_style(render: Render, turn_end: str) -> CallStyle | None:
    """The style in which a template writes calls and results; None where it writes them in none, or ends a turn that
    calls without turn_end, after which a model would not stop."""
    for style in (CallStyle(arguments_as_text=False), CallStyle(arguments_as_text=True)):
        text = _written(render, style, (FIRST,), "")
        if text is None or not all(marker in text for marker in (FIRST, ARGUMENT, RESULT)):
            continue
        if str({"x": ARGUMENT}) in text:  # Python's writing of an object, which is no JSON: it takes text
            continue
        if turn_end not in text[text.index(FIRST) : text.rindex(RESULT)]:
            continue
        two, beside = _written(render, style, (FIRST, SECOND), ""), _written(render, style, (FIRST,), BESIDE)
        several, writes_beside = two is not None and FIRST in two and SECOND in two, BESIDE in (beside or "")
        return replace(style, several=several, writes_beside=writes_beside, written=text)
    return None


def _written(render: Render, style: CallStyle, names: Sequence[str], content: str) -> str | None:
    """A conversation with a call of each name in one turn, and their results, as the template writes it."""
    calls = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": {"x": ARGUMENT}}}
        for call_id, name in zip(CALL_IDS, names, strict=False)
    ]
    turn = {"role": "assistant", "content": content, "tool_calls": json.dumps(calls)}
    results = [
        {"role": "tool", "content": RESULT, "tool_call_id": call_id, "name": name}
        for call_id, name in zip(CALL_IDS, names, strict=False)
    ]
    return render([USER, with_calls(turn, style), *results])


def uses_tools(messages: Sequence[Message]) -> bool:
    """Whether any message calls a tool or holds the result of a call."""
    return any(message["role"] == "tool" or "tool_calls" in message for message in messages)


def with_calls(
    message: Message, style: CallStyle, broken: Callable[[str], str] = lambda text: text
) -> Mapping[str, Any]:
    """A message as the template takes it: its calls, which are JSON text in a conversation, as a list.

    broken: what becomes of each text in a call, so that it cannot write special tokens."""
    if "tool_calls" not in message:
        return message
    calls = json.loads(message["tool_calls"])
    for call in calls:
        if "id" in call:
            call["id"] = broken(call["id"])
        arguments = broken_texts(call["function"]["arguments"], broken)
        text = json.dumps(arguments, ensure_ascii=False) if style.arguments_as_text else arguments
        call["function"] = {"name": broken(call["function"]["name"]), "arguments": text}
    return {**message, "tool_calls": calls}


def broken_texts(value: Any, broken: Callable[[str], str]) -> Any:
    """A JSON value with `broken` applied to each of its texts, those of keys too."""
    if isinstance(value, dict):
        return {broken(str(key)): broken_texts(item, broken) for key, item in value.items()}
    if isinstance(value, list):
        return [broken_texts(item, broken) for item in value]
    return broken(value) if isinstance(value, str) else value
