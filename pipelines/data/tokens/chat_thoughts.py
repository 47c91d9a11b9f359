"""Thoughts: what a model writes between <think> and </think> before the reply that its reader sees.

A chat template decides what becomes of them. Some keep what a message holds; some (Qwen 3) take the thoughts out of
earlier turns and write an empty thought where the last turn has none; some (DeepSeek R1) end a prompt with <think>, so
that a reply begins inside a thought. Here is how a reply's text divides; chat.py finds out what a template does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

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
    """What a reader does not see of a reply: all that the template puts at its beginning, and marks within it.

    prefix: text that the template writes before a reply, an empty thought for instance; empty for none. in_thought:
    prompts end inside a thought. takes_out: the template takes thoughts out of earlier turns. marks: texts that are
    taken out wherever they stand, such as a </think> that a model writes once more."""

    prefix: str = ""
    in_thought: bool = False
    takes_out: bool = False
    marks: tuple[str, ...] = ()

    def unclosed_thought(self, text: str) -> str:
        """The thought of a whole reply that opens one, or goes on with it, and never closes it; empty for none."""
        is_thought = self.in_thought or (self.takes_out and text.lstrip().startswith(OPEN))
        return text.lstrip().removeprefix(OPEN).strip() if is_thought and CLOSE not in text else ""

    def without_marks(self, text: str, *, complete: bool) -> tuple[str, str]:
        """Text without marks, and what follows it: its end, as far as later text may make a mark of that.

        complete: whether no text follows."""
        *before, rest = self._pattern.split(text)
        longest = 0 if complete else self._longest - 1
        starts = (start for start in range(max(0, len(rest) - longest), len(rest)) if rest[start] in self._starts)
        tails = (rest[start:] for start in starts)
        tail = next((tail for tail in tails if any(mark.startswith(tail) for mark in self.marks)), "")
        return "".join([*before, rest.removesuffix(tail)]), tail

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Any mark, preferring the longest of those with the same beginning."""
        return re.compile("|".join(map(re.escape, sorted(self.marks, key=len, reverse=True))) or r"(?!)")

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.marks), default=1)

    @cached_property
    def _starts(self) -> frozenset[str]:
        """The first characters of marks: most chunks of a reply have none, and a vocabulary has hundreds of marks."""
        return frozenset(mark[0] for mark in self.marks if mark)

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
    """The visible part of one reply while its text comes in chunks.

    begin: number of characters that are hidden at its beginning, once that is known. pending: text of which later text
    decides whether it is visible. thought: of a complete reply, the one that it never closes."""

    concealment: Concealment
    begin: int | None = None
    pending: str = ""
    thought: str = ""

    def append(self, chunk: str, *, last: bool = False) -> str:
        """Adds a chunk; returns the text that became visible. last: the reply is complete."""
        self.pending += chunk
        if self.begin is None:
            self.begin = self.concealment.end(self.pending, complete=last)
            if self.begin is None:
                return ""
            self.thought = self.concealment.unclosed_thought(self.pending) if last else ""
            self.pending = self.pending[self.begin :]
        shown, self.pending = self.concealment.without_marks(self.pending, complete=last)
        return shown


def visible(text: str, concealment: Concealment) -> str:
    """The visible part of a whole reply.

    >>> visible("Two and two.</think> It is</think> 4.", Concealment(in_thought=True, marks=(CLOSE,)))
    'It is 4.'
    """
    return GrowingReply(concealment).append(text, last=True)
