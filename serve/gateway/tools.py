"""Tools that a model may call: which models call them, what a request offers, and what the guard reads of calls.

    chat template ──call_parser──► name of vLLM's parser that reads the calls which the template writes; None for none
    request's tools, tool_choice ──offered──► Tools: what the template, vLLM and the guard get of them
    calls of a reply ──check_calls──► the guard's verdict, before any of them is sent
    results of tools ──neutral_results──► the same conversation, without orders to the model and marks of turns in them

The server calls no tool itself: a client gets the calls, runs them, and sends their results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.guard.classifier import Verdict
from pipelines.data.guard.injection import as_data, neutral, without_marks
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.chat_calls import ARGUMENT, FIRST
from serve.gateway.asgi import ApiError
from serve.gateway.conversation import MAX_DEPTH, Message, check_characters, children, each_key_once, is_deeper
from serve.gateway.fields import CalledTools, ChatFields, NamedTool, Tool
from serve.gateway.guard import CONTEXT_CHARACTERS, Guard, begin_reply
from serve.gateway.reading import read


@dataclass(frozen=True)
class _Format:
    """A form of calls. pattern: matches a call of FIRST as a template writes it; parser: vLLM's, which reads it;
    tokens: those that the parser expects in the vocabulary."""

    pattern: str
    parser: str
    tokens: tuple[str, ...] = ()


# vLLM's parsers of other forms (GLM, Gemma, Qwen's XML) also rewrite replies without calls, so they are left out.
FORMATS = (
    _Format(rf'<tool_call>\s*\{{"name": "{FIRST}", "arguments": \{{"x": "{ARGUMENT}"\}}\}}\s*</tool_call>', "hermes"),
    _Format(rf'\{{"name": "{FIRST}", "parameters": \{{"x": "{ARGUMENT}"\}}\}}', "llama3_json", ("<|python_tag|>",)),
)


def call_parser(chat: Chat) -> str | None:
    """The name of vLLM's parser (`tool_call_parser`) that reads the calls which a model's chat template writes; None
    where there is none, or the template does not write which tools there are."""
    style = chat.call_style if chat.takes_tools else None
    if style is None:
        return None
    has_token = chat.encoder.tokenizer.token_to_id
    return next(
        (each.parser for each in FORMATS
         if re.search(each.pattern, style.written) and all(has_token(token) is not None for token in each.tokens)),
        None,
    )  # fmt: skip


@dataclass(frozen=True)
class Tools:
    """The tools that a reply may call. text: as the chat template gets them, as JSON text; empty for none; body: the
    fields of vLLM's request; checked: what the guard reads; ignored: number of tools that the model does not get."""

    text: str = ""
    body: dict[str, Any] | None = None
    checked: str = ""
    ignored: int = 0


def offered(fields: ChatFields, chat: Chat) -> Tools:
    """The tools of a request. Raises ApiError where it demands a call that this model cannot make, and for tools that
    are no functions, or that no call can be made of, where the model calls tools.

    A client that lets a model choose (`auto`, the default) expects text as well as calls, and agents offer their tools
    with every request: a model that calls none replies in text, whatever their form. One that demands a call could do
    nothing with that."""
    choice, tools = fields.tool_choice, fields.tools or []
    functions = _functions_ignored(fields)
    if choice == "none" or (choice in (None, "auto") and not tools):
        return Tools(ignored=functions)
    if call_parser(chat) is None:
        if choice not in (None, "auto"):
            raise ApiError(400, 'tools: this model calls no tools, and tool_choice demands a call; leave tool_choice '
                           'out, or send "auto" or "none", and the reply is text',
                           param="tools" if tools else "tool_choice", code="unsupported_parameter")  # fmt: skip
        return Tools(ignored=len(tools) + functions)
    tools = read(CalledTools, {"tools": tools}).tools
    _check_offer(fields, tools)
    dumped = [tool.model_dump(exclude_none=True) for tool in tools]
    body: dict[str, Any] = {"tools": dumped, "tool_choice": _dumped(choice or "auto")}
    if fields.parallel_tool_calls is False or not (chat.call_style and chat.call_style.several):
        body["parallel_tool_calls"] = False  # a template that writes one call a turn could not write several back
    keys = _keys([tool.function.parameters for tool in tools])
    return Tools(json.dumps(dumped, ensure_ascii=False), body, "\n".join((*_texts(dumped), *keys)), functions)


def _functions_ignored(fields: ChatFields) -> int:
    """The number of functions that a request offers as OpenAI's API had them before tools. Raises ApiError where it
    demands a call of one."""
    chosen = fields.function_call
    if chosen not in (None, "none", "auto"):
        raise ApiError(400, "function_call: demands a call in the form that tools replaced; send tools and tool_choice",
                       param="functions" if fields.functions else "function_call",
                       code="unsupported_parameter")  # fmt: skip
    return len(fields.functions or []) if chosen != "none" else 0


def _check_offer(fields: ChatFields, tools: Sequence[Tool]) -> None:
    """Raises ApiError for tools that no call can be made of, or beside what would show one before it is checked."""
    names = [tool.function.name for tool in tools]
    for number, tool in enumerate(tools):
        place = f"tools[{number}].function"
        if names[number] in names[:number]:
            raise ApiError(400, f"{place}.name: {names[number]} is the name of an earlier tool too; expected one of "
                           f"its own for each", param=f"{place}.name")  # fmt: skip
        if is_deeper(tool.function.parameters, MAX_DEPTH):
            raise ApiError(400, f"{place}.parameters: is nested more than {MAX_DEPTH} levels deep; expected fewer",
                           param=f"{place}.parameters")  # fmt: skip
        check_characters(json.dumps(tool.model_dump(), ensure_ascii=False), place)
    choice = fields.tool_choice
    if not names:
        raise ApiError(400, "tools: missing, and tool_choice demands a call of one; send tools", param="tools")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise ApiError(400, f"tool_choice.function.name: {choice.function.name} is none of the tools; expected one of "
                       f"{', '.join(names)[:200]}", param="tool_choice.function.name")  # fmt: skip
    if fields.logprobs:
        raise ApiError(400, "logprobs: not together with tools, whose calls they would show; leave one out",
                       param="logprobs", code="unsupported_parameter")  # fmt: skip
    has_form = fields.structured_outputs is not None or (
        fields.response_format is not None and fields.response_format.type != "text"
    )
    if has_form and choice not in (None, "auto"):
        name = "response_format" if fields.response_format else "structured_outputs"
        raise ApiError(400, f"{name}: not together with a tool_choice that demands a call, which has a form of its "
                       f"own; leave one out", param=name, code="unsupported_parameter")  # fmt: skip


def _dumped(choice: str | NamedTool) -> Any:
    return choice if isinstance(choice, str) else choice.model_dump()


def _texts(value: Any) -> Iterator[str]:
    """The texts in a JSON value, but for keys."""
    if isinstance(value, str):
        yield value
    for child in children(value):
        yield from _texts(child)


def _keys(value: Any) -> Iterator[str]:
    """The keys of a JSON value, at any depth."""
    yield from value if isinstance(value, dict) else ()
    for child in children(value):
        yield from _keys(child)


# ---- calls -----------------------------------------------------------------------------------------------------------


def stored_calls(calls: Sequence[dict[str, Any]]) -> str:
    """Calls of a reply, as vLLM writes them, in the form of a message's `tool_calls` (chat_messages.Message): JSON
    text, with arguments as an object where they are one."""
    return json.dumps(
        [{"id": call.get("id") or "", "type": "function",
          "function": {"name": call["function"].get("name") or "", "arguments": _arguments(call)}} for call in calls],
        ensure_ascii=False,
    ) if calls else ""  # fmt: skip


def _arguments(call: dict[str, Any]) -> Any:
    """The arguments of a call: the object that their JSON text says, or the text where it is none.

    A key that repeats leaves the text too: a client gets all of it, an object would hold the last value alone."""
    text = call["function"].get("arguments") or ""
    try:
        value = json.loads(text, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError):  # cut off, for instance
        return text
    return value if isinstance(value, dict) and not is_deeper(value, MAX_DEPTH) else text


def call_texts(stored: str) -> list[str]:
    """The texts that the guard reads of calls in a message's `tool_calls`: names, keys and texts of the arguments."""
    functions = [call["function"] for call in (json.loads(stored) if stored else [])]
    arguments = [function["arguments"] for function in functions]
    return [*(function["name"] for function in functions), *_keys(arguments), *_texts(arguments)]


def check_calls(guard: Guard, reply: str, stored: str) -> Verdict | None:
    """The guard's verdict on a reply's calls where they must be declined; None where they may be sent.

    Their texts are read as lines, and those of the arguments as going on with the end of the reply's text, since one
    sentence may be split over several. stored: as a message's `tool_calls`."""
    if not stored:
        return None
    before = reply[-CONTEXT_CHARACTERS:]
    values = list(_texts([call["function"]["arguments"] for call in json.loads(stored)]))
    for text in ("\n".join(call_texts(stored)), f"{before} {' '.join(values)}", before + "".join(values)):
        verdict = begin_reply(guard, text).verdict
        if verdict is not None:
            return verdict
    return None


def as_openai(message: Message) -> dict[str, Any]:
    """A message as OpenAI's API has it: calls as a list, with arguments as JSON text."""
    if "tool_calls" not in message:
        return dict(message)
    calls = json.loads(message["tool_calls"])
    for call in calls:
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return {**message, "tool_calls": calls}


# ---- conversations ---------------------------------------------------------------------------------------------------


def neutral_results(messages: Sequence[Message], marks: Sequence[str]) -> tuple[list[Message], int]:
    """The messages without orders to the model in the results of tools, and how many there were.

    A result that held one is marked as data, since it may hold another that reads like any sentence. None can end
    itself: marks: those with which the chat template frames results and turns, as Chat.marks are."""
    made, num_orders = list(messages), 0
    for number, message in enumerate(messages):
        if message["role"] == "tool":
            text, count = neutral(without_marks(message["content"], marks))
            num_orders += count
            made[number] = {**message, "content": as_data(text) if count else text}
    return made, num_orders


def checked(messages: Sequence[Message], tools: Tools = Tools()) -> list[Message]:
    """A conversation as a guard reads it: tools as the system's text, calls as text of the assistant's turn."""
    first: list[Message] = [{"role": "system", "content": tools.checked}] if tools.checked else []
    return [*first, *map(_checked, messages)]


def _checked(message: Message) -> Message:
    return {
        "role": message["role"],
        "content": "\n".join([message["content"], *call_texts(message.get("tool_calls", ""))]),
    }
