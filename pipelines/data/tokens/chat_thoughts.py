"""Thoughts: what a model writes between <think> and </think> before the reply that its reader sees.

A chat template decides what becomes of them. Some keep what a message holds; some (Qwen 3) take the thoughts out of
earlier turns and write an empty thought where the last turn has none; some (DeepSeek R1) end a prompt with <think>, so
that a reply begins inside a thought. Here is how a reply's text divides; chat.py finds out what a template does.
"""

from __future__ import annotations

from dataclasses import dataclass

OPEN, CLOSE = "<think>", "</think>"


def thought_of(content: str) -> str:
    """The thought of a message, without its tags; empty where it has none."""
    before, close, _ = content.partition(CLOSE)
    return before.rpartition(OPEN)[2].strip() if close else ""


def is_half(content: str) -> bool:
    """Whether a message opens a thought at its beginning and never closes it."""
    return content.lstrip().startswith(OPEN) and CLOSE not in content


def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought."""
    return prompt.rstrip().endswith(OPEN)


def after_opening(content: str) -> str:
    """What a model writes after a prompt that opened a thought, for a message: its thought from there on, or an empty
    one, and the rest.

    >>> after_opening("<think>\\nTwo and two.\\n</think>\\n\\n4"), after_opening("4")
    ('Two and two.\\n</think>\\n\\n4', '\\n</think>\\n\\n4')
    """
    if CLOSE not in content:
        return f"\n{CLOSE}\n\n{content}"
    return content.lstrip().removeprefix(OPEN).lstrip()


@dataclass(frozen=True)
class Concealment:
    """What a reader does not see at the beginning of a reply: all that the template puts there.

    prefix: text that the template writes before a reply, an empty thought for instance; empty for none. in_thought:
    prompts end inside a thought. takes_out: the template takes thoughts out of earlier turns."""

    prefix: str = ""
    in_thought: bool = False
    takes_out: bool = False

    def end(self, text: str, *, complete: bool) -> int | None:
        """Index at which the visible part of a reply begins; None while later text may still decide it.

        text: the reply so far; complete: whether that is all of it."""
        begin = len(text) - len(text.lstrip())
        hidden = self._hidden_end(text, begin, complete)
        if hidden is None or hidden == 0:
            return hidden
        visible = len(text) - len(text[hidden:].lstrip())
        return visible if complete or visible < len(text) else None

    def _hidden_end(self, text: str, begin: int, complete: bool) -> int | None:
        """As `end`, before the space that follows what is hidden."""
        if self.in_thought or (self.takes_out and text.startswith(OPEN, begin)):
            close = text.find(CLOSE, begin)
            if close >= 0:
                return close + len(CLOSE)
            return len(text) if complete else None  # cut off within a thought: nothing of it is shown
        if self.prefix and text.startswith(self.prefix, begin):
            return begin + len(self.prefix)
        openings = [opening for opening in (self.prefix, OPEN if self.takes_out else "") if opening]
        undecided = any(opening.startswith(text[begin:]) for opening in openings)
        return None if undecided and not complete else 0


ALL_VISIBLE = Concealment()


@dataclass
class GrowingReply:
    """The visible part of one reply while its text comes in chunks."""

    concealment: Concealment
    _text: str = ""  # so far, until it is known where the visible part begins
    begin: int | None = None  # characters that are hidden, once that is known

    def append(self, chunk: str, *, last: bool = False) -> str:
        """Adds a chunk; returns the text that became visible. last: the reply is complete."""
        if self.begin is not None:
            return chunk
        self._text += chunk
        self.begin = self.concealment.end(self._text, complete=last)
        return "" if self.begin is None else self._text[self.begin :]
