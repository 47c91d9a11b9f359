"""System turns in a conversation: which of them a chat template takes where they stand; the others are the user's.

    system, user, assistant, … ──fold_system──► user (system's text, blank line, user's text), assistant, …

Templates differ: some (Gemma) take none, some the first turn's alone, and refuse another (Qwen 3.5), leave out its text
(gpt-oss) or write it at the beginning (DeepSeek), where replies learnt without it would follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipelines.data.tokens.chat_messages import Message

Prompt = Callable[[Sequence[Message]], str | None]
"""Renders a prompt; None where the template refuses it."""

USER = {"role": "user", "content": "hello"}
EARLIER, SYSTEM = "0x5d", "0x5e"  # texts that no template writes by itself


@dataclass(frozen=True)
class SystemTurns:
    """Which system turns a template takes: that at the beginning, those after other turns."""

    first: bool
    late: bool

    def folded(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages with the system turns folded that the template does not take; the same ones where it takes
        all."""
        places = [place for place, message in enumerate(messages) if message["role"] == "system"]
        if all(self.late if place else self.first for place in places):
            return messages
        kept = 1 if self.first and places[0] == 0 else 0
        return [*messages[:kept], *fold_system(messages[kept:])]


def system_turns(prompt: Prompt) -> SystemTurns:
    """The system turns that a template takes: it writes their texts, and after the turns before them."""
    turn, user, reply = ({"role": role, "content": text} for role, text in
                         (("system", SYSTEM), ("user", EARLIER), ("assistant", EARLIER)))  # fmt: skip
    text = prompt([turn, USER])
    first = prompt([USER]) is None if text is None else SYSTEM in text
    late = ((prompt(messages) or "").partition(EARLIER)[2] for messages in ([user, turn], [USER, reply, turn, USER]))
    return SystemTurns(first, first and all(SYSTEM in text for text in late))


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """The messages with system turns as the user's; the user's turns that are in a row then are one, with a blank line
    between two texts.

    >>> fold_system([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    [{'role': 'user', 'content': 'Be brief.\\n\\nWhy?'}]
    """
    folded: list[Message] = []
    for is_users, group in groupby(messages, lambda message: message["role"] in ("system", "user")):
        run = list(group)
        text = "\n\n".join(message["content"] for message in run)
        folded += [{**run[0], "role": "user", "content": text}] if is_users else run
    return folded
