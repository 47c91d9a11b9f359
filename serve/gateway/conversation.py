"""What of a conversation the model is shown: a persona before it, its newest turns, within a budget of tokens.

    messages as clients send them ──messages_of──► {role, content} ──with_persona──► ──shown──► messages + ids

A turn is a user's message with the replies to it, and is kept or left out as a whole. Pure functions; tokens are
counted, and prompts made, by the model's own chat template (pipelines.data.tokens.chat).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, str]
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class BadConversation(ValueError):
    """Messages that cannot be shown to the model. param: where in the request; code: OpenAI's word for it, if any."""

    def __init__(self, message: str, param: str = "messages", code: str | None = None):
        super().__init__(message)
        self.param, self.code = param, code


@dataclass(frozen=True)
class Shown:
    """What the model sees. left_out: turns, the oldest, that it does not."""

    messages: list[Message]
    ids: list[int]
    left_out: int = 0


def messages_of(given: Any) -> list[Message]:
    """Messages of a request, checked: roles, texts, and somebody who is to be answered.

    >>> messages_of([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [
    ...     {"type": "text", "text": "Hello"}]}])
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hello'}]
    """
    if not isinstance(given, list) or not given:
        raise BadConversation("messages: expected a list with at least one message")
    found = [_message(one, f"messages[{number}]") for number, one in enumerate(given)]
    if found[-1]["role"] != "user":
        raise BadConversation("messages: the last one is the user's, which is to be answered")
    return found


def _message(one: Any, where: str) -> Message:
    if not isinstance(one, dict):
        raise BadConversation(f"{where}: expected an object with role and content", where)
    role, content = one.get("role"), one.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise BadConversation(f"{where}.role: expected one of {', '.join(ROLES)}", f"{where}.role")
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise BadConversation(f"{where}.content: this model reads text only", f"{where}.content")
        content = "".join(map(str, parts))
    if not isinstance(content, str):
        raise BadConversation(f"{where}.content: expected text", f"{where}.content")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise BadConversation(
            f"{where}.content: half of a surrogate pair is no character", f"{where}.content"
        ) from None
    return {"role": ROLES[role], "content": content}


def with_persona(messages: Sequence[Message], persona: str | None) -> list[Message]:
    """The persona goes first, unless the conversation brings a system message of its own."""
    if not persona or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [{"role": "system", "content": persona}, *messages]


def turns_of(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system message, if any, and the turns: each begins with a user's message (the first may lack one)."""
    head = [message for message in messages[:1] if message["role"] == "system"]
    turns: list[list[Message]] = []
    for message in messages[len(head) :]:
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return head, turns


def shown(
    messages: Sequence[Message], *, encode: Callable[[Sequence[Message]], list[int]], max_turns: int, budget_tokens: int
) -> Shown:
    """As many of the newest turns as fit into max_turns and budget_tokens, after the system message.

    encode: a conversation's prompt as ids. Raises BadConversation where even the last turn alone does not fit."""
    head, turns = turns_of(messages)
    fewest, most = 1, min(max_turns, len(turns))
    found = _newest(head, turns, most, encode)
    if len(found.ids) <= budget_tokens:
        return found
    while most - fewest > 1:  # `most` turns are too many; more turns are more tokens
        middle = (fewest + most) // 2
        if len(_newest(head, turns, middle, encode).ids) <= budget_tokens:
            fewest = middle
        else:
            most = middle
    found = _newest(head, turns, fewest, encode)
    if len(found.ids) > budget_tokens:
        raise BadConversation(
            f"messages: the last turn with the system message takes {len(found.ids)} tokens; this model has room for "
            f"{budget_tokens} beside the reply. Shorten it, or ask for a shorter reply with max_tokens",
            code="context_length_exceeded",
        )
    return found


def _newest(
    head: list[Message], turns: list[list[Message]], count: int, encode: Callable[[Sequence[Message]], list[int]]
) -> Shown:
    kept = [*head, *(message for turn in turns[len(turns) - count :] for message in turn)]
    return Shown(kept, encode(kept), len(turns) - count)
