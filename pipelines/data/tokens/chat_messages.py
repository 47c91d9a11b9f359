"""Messages before a chat template renders them: the text of a message's parts, and where a system turn goes.

    [{"type": "text", "text": …}, …] ──text_of_parts──► text
    system, user, assistant, … ──fold_system──► user (system's text, blank line, user's text), assistant, …

Training and serving both use these functions, so that one conversation has the same tokens in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, str]
"""{"role": system | user | assistant | tool, "content": text}

An assistant's turn that calls tools has them in "tool_calls": JSON text of a list in the form of OpenAI's API, whose
arguments are objects. A tool's turn, the result of a call, may have its "tool_call_id" and the tool's "name"."""


TEXT_PARTS = ("text", "input_text", "output_text")  # types of parts that hold text


def text_of_part(part: Any) -> str | None:
    """The text of a part of a message: an object of a type that holds text, which is the default, or text itself; None
    where it is no text."""
    if isinstance(part, dict):
        part = part.get("text") if (part.get("type") or "text") in TEXT_PARTS else None
    return part if isinstance(part, str) else None


def reply_message(text: str, calls: str = "") -> Message:
    """The assistant's turn of a reply. calls: those of tools in it, as a Message has them; empty for none."""
    return {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})


def said(message: Message) -> str:
    """All that a message says: its text, and its calls as JSON text."""
    calls = message.get("tool_calls", "")
    return f"{message['content']}\n{calls}" if message["content"] and calls else message["content"] or calls


def join_parts(texts: Sequence[str]) -> str:
    """The text of a message from those of its parts: a line break between two of them."""
    return "\n".join(texts)


def text_of_parts(parts: Sequence[Any]) -> str | None:
    """The text of a message whose content is a list of parts; None unless all of them are text.

    >>> text_of_parts([{"type": "text", "text": "Name this bird."}, {"type": "text", "text": "It is blue."}])
    'Name this bird.\\nIt is blue.'
    """
    texts = [text_of_part(part) for part in parts]
    return None if None in texts else join_parts([text for text in texts if text is not None])


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """The messages without system turns: the text of each, and a blank line, begin the next user's turn; where none
    follows, it is a user's turn.

    >>> fold_system([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    [{'role': 'user', 'content': 'Be brief.\\n\\nWhy?'}]
    """
    folded: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            folded.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            folded.append(message)
    return [*folded, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else folded
