"""What the reader of a reply sees of it: not what the chat template itself puts before it, nor its thoughts.

A template decides what becomes of thoughts. Some keep what a message holds; some (Qwen 3) take the thoughts out of
earlier turns and write an empty thought where the last turn has none; some (DeepSeek R1) end a prompt with <think>, so
that a reply begins inside a thought. thoughts.py divides a reply's text; chat.py finds out what a template does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

from pipelines.data.tokens.thoughts import CLOSE, OPEN, Opening, Place, read_opening


@dataclass(frozen=True)
class Concealment:
    """What a reader does not see of a reply: all that the template puts at its beginning, and marks within it.

    prefix: text that the template writes before a reply, an empty thought for instance; empty for none. in_thought:
    prompts end inside a thought. takes_out: the template takes thoughts out of earlier turns. marks: texts that are
    taken out wherever they stand: special tokens that an engine writes."""

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

    def read(self, text: str, place: Place, *, complete: bool) -> Opening | Place:
        """The opening of a reply; while later text may still decide it, the place from which to go on.

        text: the reply so far; complete: whether that is all of it."""
        return read_opening(
            text, place, complete=complete, prefix=self.prefix, marks=self.knows_thoughts, first=self.shows_thoughts
        )

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
    _place: Place = field(init=False)

    def __post_init__(self) -> None:
        self._place = Place(inside=self.concealment.in_thought)

    def append(self, chunk: str, *, last: bool = False) -> str:
        """Adds a chunk; returns the text that became visible. last: the reply is complete."""
        self.pending += chunk
        plain = ""
        if self.begin is None:
            opening = self.concealment.read(self.pending, self._place, complete=last)
            if isinstance(opening, Place):
                self._place = opening
                return ""
            plain, self.pending = self._opened(opening)
        shown, self.pending = self.concealment.without_marks(self.pending, complete=last)
        return plain + shown

    def _opened(self, opening: Opening) -> tuple[str, str]:
        """The thought that is shown as it stands, and the text after it, once the opening of the reply is known.

        Of a thought that is never closed nothing is shown; where thoughts are, it is, without the mark."""
        thought = self.pending[opening.start : opening.end]
        if opening.is_half:
            thought = _without_half_a_mark(thought)
        is_shown = self.concealment.shows_thoughts and thought != ""
        if opening.is_half:
            self.begin, self.thought = (opening.start, "") if is_shown else (opening.text, thought)
            return "", self.pending[self.begin :]
        self.begin = opening.mark if is_shown else opening.text
        return self.pending[self.begin : opening.text], self.pending[opening.text :]


def _without_half_a_mark(thought: str) -> str:
    """A thought without space around it, and without the beginning of the mark within which it was cut off."""
    thought = thought.strip()
    cut = thought.rfind("</")
    return thought[:cut].rstrip() if cut >= 0 and CLOSE.startswith(thought[cut:]) else thought


def visible(text: str, concealment: Concealment) -> str:
    """The visible part of a whole reply.

    >>> visible("Two and two.</think> It is `</think>`.", Concealment(in_thought=True))
    'It is `</think>`.'
    """
    return GrowingReply(concealment).append(text, last=True)
