"""Messages before a chat template renders them: the text of a message's parts, and where a system turn goes.

    [{"type": "text", "text": …}, …] ──text_of_parts──► text
    system, user, assistant, … ──fold_system──► user (system's text, blank line, user's text), assistant, …

Training and serving both use these functions, so that one conversation has the same tokens in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, str]
"""{"role": system | user | assistant, "content": text}"""


def text_of_parts(parts: Sequence[Any]) -> str | None:
    """The text of OpenAI's content parts, a line break between two of them; None unless all of them are text.

    >>> text_of_parts([{"type": "text", "text": "Name this bird."}, {"type": "text", "text": "It is blue."}])
    'Name this bird.\\nIt is blue.'
    """
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        return None
    return "\n".join(str(text) for text in texts)


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
