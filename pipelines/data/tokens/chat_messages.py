"""Messages before a chat template renders them: the text of a message's parts, and which messages are one turn.

    [{"type": "text", "text": …}, …] ──text_of_parts──► text
    user, user, assistant, … ──join_turns──► user (both texts), assistant, …

Training and serving both use these functions, so that one conversation has the same tokens in both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.data.sources.column_names import REFUSAL
from pipelines.data.tokens.thoughts import divide, with_thoughts

Message = Mapping[str, str]
"""{"role": system | user | assistant | tool, "content": text}

An assistant's turn that calls tools has them in "tool_calls": JSON text of a list in the form of OpenAI's API, whose
arguments are objects. A tool's turn, the result of a call, may have its "tool_call_id" and the tool's "name"."""


TEXT_PARTS = ("text", "input_text", "output_text")  # types of parts that hold text


def text_of_part(part: Any) -> str | None:
    """The text of a part of a message: an object of a type that holds text, which is the default, or text itself; None
    where it is no text."""
    if isinstance(part, dict):
        kind = part.get("type") or "text"
        part = part.get("text") if kind in TEXT_PARTS else part.get(REFUSAL) if kind == REFUSAL else None
    return part if isinstance(part, str) else None


def reply_message(text: str, calls: str = "") -> Message:
    """The assistant's turn of a reply. calls: those of tools in it, as a Message has them; empty for none."""
    return {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})


def said(message: Message) -> str:
    """All that a message says: its text, and its calls as JSON text."""
    calls = message.get("tool_calls", "")
    return f"{message['content']}\n{calls}" if message["content"] and calls else message["content"] or calls


def runs(messages: Sequence[Message], marks: Sequence[object] = ()) -> Iterator[tuple[int, int]]:
    """Yields (start, end) of the messages that are one turn, in order: those that follow each other in one role, but
    for results of tools, a text after a call, and messages whose marks differ."""
    start, has_calls = 0, False
    for end, message in enumerate(messages):
        last = messages[start]
        goes_on = message["role"] == last["role"] != "tool" and not (has_calls and message["content"].strip())
        if end > start and not (goes_on and (not marks or marks[end] == marks[start])):
            yield start, end
            start, has_calls = end, False
        has_calls = has_calls or "tool_calls" in message
    if messages:
        yield start, len(messages)


def joined(run: Sequence[Message]) -> dict[str, str]:
    """The one message of those that `runs` tells to be one turn: their thoughts, their texts, their calls.

    >>> joined([{"role": "user", "content": "Hi"}, {"role": "user", "content": "Are you there? "}])
    {'role': 'user', 'content': 'Hi\\nAre you there?'}
    """
    if len(run) == 1:
        return dict(run[0])
    content = join_parts([text for each in run if (text := each["content"].strip())])
    replies = [divide(each["content"]) for each in run if each["role"] == "assistant"]
    if any(reply.thoughts for reply in replies[1:]) and not any(reply.is_half for reply in replies):
        text = join_parts([text for reply in replies if (text := reply.text.strip())])
        content = with_thoughts([thought for reply in replies for thought in reply.thoughts], text)
    calls = join_calls(*(each["tool_calls"] for each in run if "tool_calls" in each))
    return {**run[0], "content": content} | ({"tool_calls": calls} if calls else {})


def join_turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The messages, those that follow each other in one role as one: user and assistant take turns, and a model learns
    no other conversations."""
    return [joined(messages[start:end]) for start, end in runs(messages)]


def join_calls(*calls: str) -> str:
    """All calls of several texts as one text."""
    lists = [json.loads(text) for text in calls if text]
    return json.dumps([call for several in lists for call in several], ensure_ascii=False) if lists else ""


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
