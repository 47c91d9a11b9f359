"""Fitting a conversation into the model's context: parse its messages, add the persona, keep the newest turns.

    request's messages ──parse_messages──► {role, content} ──with_persona──► ──fit_prompt──► Prompt(messages, token ids)

A turn is a user's message with the replies to it, and is kept or left out as a whole. Pure functions: prompts are
rendered, and their tokens counted, by the `encode` that the caller passes (the model's chat template).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.tokens.chat_messages import text_of_parts

Message = dict[str, str]
"""{"role": system | user | assistant, "content": text}"""
Encode = Callable[[Sequence[Message]], list[int]]
"""Renders a conversation as the token ids of a prompt."""
# Fields of a message that no prompt holds: a client sends replies back as it got them.
UNUSED_FIELDS = ("name", "refusal", "reasoning", "reasoning_content", "annotations")
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


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


def parse_messages(value: Sequence[dict[str, Any]]) -> list[Message]:
    """Checks the `messages` of a request: roles, texts, and at the end a user's message, or the assistant's reply to
    one. Raises InvalidPrompt.

    >>> parse_messages([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [
    ...     {"type": "text", "text": "Hello"}]}])
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hello'}]
    """
    messages = [_parse_message(item, f"messages[{index}]") for index, item in enumerate(value)]
    if messages[-1]["role"] == "system" or all(message["role"] != "user" for message in messages):
        raise InvalidPrompt("messages: expected a message of the user at the end, for the model to reply to, or the "
                            "assistant's reply to one, for the model to continue")  # fmt: skip
    return messages


def _parse_message(value: dict[str, Any], path: str) -> Message:
    role, content = value.get("role"), value.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidPrompt(f"{path}.role: expected one of {', '.join(ROLES)}", f"{path}.role")
    for name, other in value.items():
        if other and name not in ("role", "content", *UNUSED_FIELDS):
            reason = "this model calls no tools" if name in ("tool_calls", "function_call") else "not supported here"
            raise InvalidPrompt(f"{path}.{name}: {reason}; leave it out", f"{path}.{name}", "unsupported_parameter")
    return {"role": ROLES[role], "content": _parse_content(content, f"{path}.content")}


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
    """Splits off the system message, if any, and groups the rest into turns, each of which begins with a user's message
    (the first may lack one)."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns: list[list[Message]] = []
    for message in messages[len(system) :]:
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return system, turns


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
