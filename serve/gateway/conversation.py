"""Fitting a conversation into the model's context: parse its messages, add the persona, keep the newest turns.

    request's messages ──parse_messages──► {role, content} ──with_persona──► ──fit_prompt──► Prompt(messages, token ids)

A turn is a user's message with the replies to it, and is kept or left out as a whole. Pure functions: prompts are
rendered, and their tokens counted, by the `encode` that the caller passes (the model's chat template).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.sources.column_names import REFUSAL
from pipelines.data.tokens.chat_messages import join_turns, runs, text_of_parts

Message = dict[str, str]
"""{"role": system | user | assistant | tool, "content": text}, with tool_calls and tool_call_id as
chat_messages.Message has them."""
Encode = Callable[[Sequence[Message]], list[int]]
"""Renders a conversation as the token ids of a prompt."""
# Fields of a message that no prompt holds: a client sends replies back as it got them.
UNUSED_FIELDS = ("name", "refusal", "reasoning", "reasoning_content", "annotations")
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_ID_CHARACTERS = 100  # of a call
MAX_DEPTH = 32  # of arguments and schemas: templates, grammars and the guard read them recursively


class InvalidPrompt(ValueError):
    """A prompt that the model cannot take. param: its path in the request; code: OpenAI's error code, if any."""

    def __init__(self, message: str, param: str = "messages", code: str | None = None):
        super().__init__(message)
        self.param, self.code = param, code


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model gets it. turns_left_out: number of the oldest turns that did not fit."""

    messages: list[Message]
    token_ids: list[int]
    turns_left_out: int = 0


def parse_messages(value: Sequence[dict[str, Any]], *, calls_tools: bool = False) -> list[Message]:
    """Checks the `messages` of a request: roles, texts, a message of the user, and where the model calls tools the
    results of calls. Several in a row of one role are one, and a later one of the system's without text is left out, as
    in training. Raises InvalidPrompt.

    >>> parse_messages([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [
    ...     {"type": "text", "text": "Hello"}]}])
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hello'}]
    """
    messages = [_parse_message(item, f"messages[{index}]", calls_tools) for index, item in enumerate(value)]
    _match_results(messages)
    if all(message["role"] != "user" for message in messages):
        raise InvalidPrompt("messages: expected a message of the user, for the model to reply to")
    first, *others = messages  # the first stands in the persona's place, even without text
    return join_turns([first, *(each for each in others if each["role"] != "system" or each["content"].strip())])


def _parse_message(value: dict[str, Any], path: str, calls_tools: bool) -> Message:
    role, content = value.get("role"), value.get("content")
    if not content and role == "assistant":
        content = value.get(REFUSAL) or content  # a client got it in the place of a reply
    roles = ROLES | ({"tool": "tool"} if calls_tools else {})
    if not isinstance(role, str) or role not in roles:
        reason = "; this model calls no tools" if role == "tool" else ""
        raise InvalidPrompt(f"{path}.role: expected one of {', '.join(roles)}{reason}", f"{path}.role")
    own = {"assistant": "tool_calls", "tool": "tool_call_id"}.get(role) if calls_tools else None
    for name, other in value.items():
        if other and name not in ("role", "content", own, *UNUSED_FIELDS):
            calls = name in ("tool_calls", "function_call") and not calls_tools
            reason = "this model calls no tools" if calls else "not supported here"
            raise InvalidPrompt(f"{path}.{name}: {reason}; leave it out", f"{path}.{name}", "unsupported_parameter")
    if own == "tool_calls" and value.get("tool_calls"):
        calls = _parse_calls(value["tool_calls"], f"{path}.tool_calls")
        text = _parse_content(content or "", f"{path}.content")
        return {"role": "assistant", "content": text, "tool_calls": json.dumps(calls, ensure_ascii=False)}
    text = _parse_content(content, f"{path}.content")
    if role == "tool":
        call_id = _parse_id(value.get("tool_call_id"), path, "tool_call_id")
        return {"role": "tool", "content": text, "tool_call_id": call_id}
    return {"role": ROLES[role], "content": text}


def _parse_calls(value: Any, path: str) -> list[dict[str, Any]]:
    """The calls of an assistant's message, with arguments as an object."""
    if not isinstance(value, list):
        raise InvalidPrompt(f"{path}: expected a list of calls", path)
    return [_parse_call(call, f"{path}[{number}]") for number, call in enumerate(value)]


def _parse_call(call: Any, path: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        raise InvalidPrompt(f'{path}: expected a call: {{"id": …, "type": "function", "function": {{"name": …, '
                            f'"arguments": …}}}}', path)  # fmt: skip
    name, text = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise InvalidPrompt(f"{path}.function.name: expected the function's name, as text", f"{path}.function.name")
    place = f"{path}.function.arguments"
    try:
        arguments = json.loads(check_characters(text, place)) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict) or is_deeper(arguments, MAX_DEPTH):
        raise InvalidPrompt(f"{place}: expected JSON text of an object, at most {MAX_DEPTH} levels deep, such as "
                            f'"{{}}"', place)  # fmt: skip
    check_characters(json.dumps(arguments, ensure_ascii=False), place)
    function = {"name": check_characters(name, f"{path}.function.name"), "arguments": arguments}
    return {"id": _parse_id(call.get("id"), path, "id"), "type": "function", "function": function}


def _parse_id(value: Any, path: str, name: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARACTERS:
        raise InvalidPrompt(f"{path}.{name}: expected the call's id, as text of 1 to {MAX_ID_CHARACTERS} characters",
                            f"{path}.{name}")  # fmt: skip
    return check_characters(value, f"{path}.{name}")


def _match_results(messages: list[Message]) -> None:
    """Gives each result the name of its tool. Calls may stand in several messages of the assistant's, which are one.

    Raises InvalidPrompt for a result without a call just before it, for one call with two results, and for a call
    without one."""
    open_calls: dict[str, str] = {}  # name of the tool, by the id of a call without a result so far
    for start, end in runs(messages):
        if messages[start]["role"] != "tool":
            _refuse_open(open_calls, start)
            for number in range(start, end):
                _add_calls(open_calls, messages[number], f"messages[{number}]")
            continue
        path, call_id = f"messages[{start}].tool_call_id", messages[start]["tool_call_id"]
        if call_id not in open_calls:
            raise InvalidPrompt(f"{path}: {call_id} is the id of no call that waits for a result here; expected "
                                f"results right after the assistant's message with their calls, one for each",
                                path)  # fmt: skip
        messages[start]["name"] = open_calls.pop(call_id)
    _refuse_open(open_calls, len(messages))


def _add_calls(open_calls: dict[str, str], message: Message, path: str) -> None:
    for place, call in enumerate(json.loads(message.get("tool_calls", "[]"))):
        if call["id"] in open_calls:
            path = f"{path}.tool_calls[{place}].id"
            raise InvalidPrompt(f"{path}: {call['id']} is the id of an earlier call too; expected one of its own for "
                                f"each", path)  # fmt: skip
        open_calls[call["id"]] = call["function"]["name"]


def _refuse_open(open_calls: dict[str, str], number: int) -> None:
    if open_calls:
        raise InvalidPrompt(f"messages[{number - 1}]: no result follows for the call {next(iter(open_calls))}; "
                            f'expected a message {{"role": "tool", "tool_call_id": …, "content": …}} for each call',
                            f"messages[{number - 1}]")  # fmt: skip


def is_deeper(value: Any, depth: int) -> bool:
    """Whether a JSON value is nested more than `depth` levels deep."""
    level = [value]
    for _ in range(depth):
        level = [child for each in level for child in children(each)]
    return bool(level)


def children(value: Any) -> Sequence[Any]:
    """The values in a JSON object or list; none in any other value."""
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()


def each_key_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values, for json.loads. Raises ValueError where a key repeats: an object would hold
    the last value alone."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key repeats")
    return value


def _parse_content(content: Any, path: str) -> str:
    """The text of a message, whose content is text or a list of text parts."""
    if isinstance(content, list):
        content = text_of_parts(content)
        if content is None:
            raise InvalidPrompt(f"{path}: this model reads text only", path)
    if not isinstance(content, str):
        raise InvalidPrompt(f"{path}: expected text", path)
    return check_characters(content, path)


def check_characters(text: str, path: str) -> str:
    """A text that UTF-8 can write, unchanged. Raises InvalidPrompt for half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidPrompt(f"{path}: half of a surrogate pair is no character", path) from None
    return text


def with_persona(messages: Sequence[Message], persona: str | None) -> list[Message]:
    """The messages after the persona as a system message, unless they begin with one already."""
    if not persona or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [{"role": "system", "content": persona}, *messages]


def split_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """Splits off the system message at the beginning, if any, and groups the rest into turns, each of which begins with
    a user's message, or with the system's just before it (the first may lack one)."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns: list[list[Message]] = []
    for message in messages[len(system) :]:
        if message["role"] != "user" and turns:
            turns[-1].append(message)
            continue
        before = [turns[-1].pop()] if turns and turns[-1][-1]["role"] == "system" else []
        turns.append([*before, message])
    return system, [turn for turn in turns if turn]


def fit_prompt(
    messages: Sequence[Message], *, encode: Encode, max_turns: int, max_prompt_tokens: int, context_tokens: int
) -> Prompt:
    """The system message with as many of the newest turns as fit into max_turns and max_prompt_tokens.

    The last turn alone may take all of context_tokens but one, for the reply. Raises InvalidPrompt where it does not
    fit."""
    system, turns = split_turns(messages)
    fitting, too_many = 1, min(max_turns, len(turns))  # bounds of the binary search: more turns are more tokens
    prompt = _with_newest(system, turns, too_many, encode)
    if len(prompt.token_ids) <= max_prompt_tokens:
        return prompt
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if len(_with_newest(system, turns, middle, encode).token_ids) <= max_prompt_tokens:
            fitting = middle
        else:
            too_many = middle
    prompt = _with_newest(system, turns, fitting, encode)
    if len(prompt.token_ids) >= context_tokens:
        raise InvalidPrompt(
            f"messages: the last turn with the system message takes {len(prompt.token_ids)} tokens; expected at most "
            f"{context_tokens - 1}, which leaves room for a reply in the context of {context_tokens} tokens "
            f"(max_model_len of /v1/models). Shorten it",
            code="context_length_exceeded",
        )
    return prompt


def _with_newest(system: list[Message], turns: list[list[Message]], num_turns: int, encode: Encode) -> Prompt:
    turns_left_out = len(turns) - num_turns
    kept = [*system, *(message for turn in turns[turns_left_out:] for message in turn)]
    return Prompt(kept, encode(kept), turns_left_out)
