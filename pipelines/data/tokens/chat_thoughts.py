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
OPENED = re.compile(rf"(?:\s*{OPEN})*\s*")  # how a thought begins, also one that is opened twice


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
class Beginning:
    """The beginning of a reply. begin: index at which its visible part begins; plain: index up to which that is shown
    as it stands, before marks are taken out; thought: the one that the whole reply never closes."""

    begin: int
    plain: int
    thought: str = ""


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

    @property
    def knows_thoughts(self) -> bool:
        """Whether the template opens thoughts, takes them out, or writes an empty one."""
        return self.in_thought or self.takes_out or OPEN in self.prefix

    @property
    def shows_thoughts(self) -> bool:
        """Whether the template keeps the thoughts that messages hold, so that they are a part of the reply; the empty
        one that it writes itself is none."""
        return not (self.in_thought or self.takes_out)

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

    def beginning(self, text: str, *, complete: bool, place: int = 0) -> Beginning | int:
        """Where the visible part of a reply begins, after all thoughts that stand before it; while later text may still
        decide it, the place up to which nothing is visible, from which to go on.

        text: the reply so far; complete: whether that is all of it. The first </think> closes a thought, however often
        that was opened: models write <think> twice more often than a thought within a thought."""
        begin, is_inside = place, self.in_thought and place == 0
        marks = (OPEN, CLOSE) if self.knows_thoughts else ()
        openings = [opening for opening in (self.prefix, *marks) if opening]
        while True:
            start = len(text) - len(text[begin:].lstrip())
            ahead = text[start:]
            if not complete and any(opening.startswith(ahead) for opening in openings):
                return begin
            if self.prefix and ahead.startswith(self.prefix) and not is_inside:
                begin = start + len(self.prefix)
            elif is_inside or (marks and ahead.startswith(OPEN)):
                close = ahead.find(CLOSE)
                if close < 0:
                    return self._unclosed(text, start) if complete else begin
                thought = OPENED.sub("", ahead[:close], count=1)
                if self.shows_thoughts and thought:
                    opened = ahead.rfind(OPEN, 0, close - len(thought))
                    return Beginning(start + opened, start + close + len(CLOSE))
                begin, is_inside = start + close + len(CLOSE), False
            elif marks and ahead.startswith(CLOSE):  # once more
                begin = start + len(CLOSE)
            else:
                is_cut = begin > 0 and any(len(ahead) > 1 and mark.startswith(ahead) for mark in marks)
                visible = len(text) if is_cut else start if begin else 0
                return Beginning(visible, visible)

    def _unclosed(self, text: str, start: int) -> Beginning:
        """The beginning of a whole reply with a thought from `start` on that it never closes. Nothing of that is shown;
        where thoughts are shown it is, without the mark that opens it."""
        begin = len(text) - len(OPENED.sub("", text[start:], count=1))
        thought = text[begin:].strip()
        cut = thought.rfind("</")
        if cut >= 0 and CLOSE.startswith(thought[cut:]):  # the reply was cut within </think>
            thought = thought[:cut].rstrip()
        if self.shows_thoughts and thought:
            return Beginning(begin, begin)
        return Beginning(len(text), len(text), thought)


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
    _place: int = 0  # up to which nothing is visible

    def append(self, chunk: str, *, last: bool = False) -> str:
        """Adds a chunk; returns the text that became visible. last: the reply is complete."""
        self.pending += chunk
        plain = ""
        if self.begin is None:
            beginning = self.concealment.beginning(self.pending, complete=last, place=self._place)
            if isinstance(beginning, int):
                self._place = beginning
                return ""
            self.begin, self.thought = beginning.begin, beginning.thought
            plain, self.pending = self.pending[self.begin : beginning.plain], self.pending[beginning.plain :]
        shown, self.pending = self.concealment.without_marks(self.pending, complete=last)
        return plain + shown


def visible(text: str, concealment: Concealment) -> str:
    """The visible part of a whole reply.

    >>> visible("Two and two.</think> It is</think> 4.", Concealment(in_thought=True, marks=(CLOSE,)))
    'It is 4.'
    """
    return GrowingReply(concealment).append(text, last=True)
