"""Thoughts: what a model writes between <think> and </think> before the reply that its reader sees.

Only what opens a reply is a thought: those that it opens itself, one after the other, or one that its prompt opened,
so that the reply holds </think> alone. Marks that stand later are text: a reply may write about them.

    reply ──read_opening──► Opening(thought, where the text begins) | Place, while later text may still decide it
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

OPEN, CLOSE = "<think>", "</think>"
SPACE = re.compile(r"\s*")
OPENED = re.compile(rf"(?:\s*{OPEN})*\s*")  # how a thought begins, also one that is opened twice
# Backticks with the name of a language at most, or tildes; up to a mark alone, as what follows it is not known in time.
FENCE = rf"^[ \t]*(?:`{{3,}}(?=[^`\n]*?(?:$|{OPEN}|{CLOSE}))|~{{3,}})"
CODE_AND_MARKS = re.compile(rf"(?P<fence>{FENCE})|`+|\n|{OPEN}|{CLOSE}", re.MULTILINE)
WORDS_FOLLOW = re.compile(r"[^\S\n]+(?!</?think>)\S")  # after a mark that is a word of a sentence
SENTENCE_ENDS = ".!?…。！？"
QUOTES = "\"'`“‘「『（([{<="  # what stands directly before a mark that is quoted
SENTENCE_GOES_ON = (*SENTENCE_ENDS, *",;:)]}，；：）")  # what stands directly after a mark that is a word
FIRST_WIDE = "\u2e80"  # from here on scripts write without spaces
LINE_WINDOW = 200  # characters before a mark that are looked at


@dataclass(frozen=True)
class Place:
    """How far the opening of a reply is read.

    begin: index up to which nothing is visible. inside: a thought is open there. searched: index up to which it is not
    closed."""

    begin: int = 0
    inside: bool = False
    searched: int = 0


@dataclass(frozen=True)
class Opening:
    """The opening of a reply, up to the index `text`. start, end: of what the last thought says; equal without one.
    mark: index of the mark that opens it, below 0 where the prompt did. is_half: it is never closed."""

    text: int
    mark: int = -1
    start: int = 0
    end: int = 0
    is_half: bool = False


def read_opening(
    text: str, place: Place, *, complete: bool = True, prefix: str = "", marks: bool = True, first: bool = False
) -> Opening | Place:
    """The opening of a reply; while later text may still decide it, the place from which to go on.

    text: the reply so far; complete: whether that is all of it. prefix: text that the template writes before a reply,
    an empty thought for instance. marks: whether marks open and close thoughts. first: the reply's text begins after
    the first thought that says something."""
    opening = Opening(0)
    while True:
        if place.inside:
            end, searched = _end_of_thought(text, place, complete=complete)
            if end < 0 and not complete:
                return replace(place, searched=searched)
            thought = _thought(text, place.begin, end)
            if end < 0 or (first and thought.start < thought.end):
                return thought
            opening = thought if thought.start < thought.end else opening
            place = Place(end + len(CLOSE))
        start = _after_space(text, place.begin)
        beginnings = [each for each in (prefix, *((OPEN, CLOSE) if marks else ())) if each]
        is_cut = any(_may_become(text, start, each) for each in beginnings)
        if is_cut and not complete:
            return place
        if prefix and text.startswith(prefix, start):
            place = Place(start + len(prefix))
            continue
        is_mark = marks and _is_mark(text, start, complete=complete)
        if is_mark is None:
            return place
        if not is_mark:
            cut_off = place.begin > 0 and is_cut and len(text) - start > 1
            return replace(opening, text=len(text) if cut_off else start if place.begin else 0)
        inside = text.startswith(OPEN, start)
        begin = start if inside else start + len(CLOSE)
        place = Place(begin, inside, searched=begin)


def _thought(text: str, begin: int, end: int) -> Opening:
    """The thought that is open at an index. end: index of the mark that closes it; below 0 where none does."""
    is_half = end < 0
    end = len(text) if is_half else end
    match = OPENED.match(text, begin, end)
    start = match.end() if match else begin
    return Opening(len(text) if is_half else end + len(CLOSE), text.rfind(OPEN, begin, start), start, end, is_half)


def _is_mark(text: str, start: int, *, complete: bool) -> bool | None:
    """Whether a mark at an index before any text opens a thought, or closes one once more; None while later text may
    decide it. The text of a reply may begin with a mark that closes one: where words of its line follow."""
    if text.startswith(OPEN, start):
        return True
    if not text.startswith(CLOSE, start):
        return False
    after = start + len(CLOSE)
    following = _after_space(text, after)
    if not complete and any(_may_become(text, following, each) for each in (OPEN, CLOSE)):
        return None
    return WORDS_FOLLOW.match(text, after) is None


def _end_of_thought(text: str, place: Place, *, complete: bool) -> tuple[int, int]:
    """The index of the mark that closes a thought, below 0 without one; and the index from which to search on.

    A mark in code that opens a thought itself, or that is a whole span of code, is a part of what the thought says."""
    unclosed = max(place.searched, len(text) - len(CLOSE) + 1)
    if text.find(CLOSE, place.searched) < 0:
        return -1, unclosed
    for start, mark, in_code, is_opened in _marks(text, place.begin):
        after = start + len(CLOSE)
        if mark == OPEN or is_opened:
            continue
        if in_code and after == len(text) and not complete:
            return -1, start
        if not in_code or not text.startswith("`", after):
            return start, start
    return -1, unclosed


def _marks(text: str, start: int = 0) -> Iterator[tuple[int, str, bool, bool]]:
    """(index, mark, whether it stands in code, whether that code opens a thought before it) of the marks in a text.

    Code: fences, and spans, which end with their line."""
    fence, span, is_opened = "", "", False
    for match in CODE_AND_MARKS.finditer(text, start):
        token = match.group()
        if token in (OPEN, CLOSE):
            in_code = fence + span != ""
            yield match.start(), token, in_code, is_opened and token == CLOSE
            is_opened = in_code and token == OPEN
        elif match["fence"]:
            kind = token.lstrip()[0]
            fence, span = ("" if fence == kind else fence or kind), ""
        elif not fence:
            span = "" if token in ("\n", span) else span or token
        is_opened = is_opened and fence + span != ""


def _after_space(text: str, start: int) -> int:
    match = SPACE.match(text, start)
    return match.end() if match else start


def _may_become(text: str, start: int, opening: str) -> bool:
    """Whether the text from an index on is a beginning of something, not yet all of it."""
    return len(text) - start < len(opening) and opening.startswith(text[start:])


@dataclass(frozen=True)
class Divided:
    """A whole reply: what opens it, its thought, the mark that closes that, its text; together they are the reply. Of
    several thoughts `thought` is all from the first to the last, with the marks between.

    thoughts: what each of them says. is_half: the last one is never closed."""

    opening: str
    thought: str
    closing: str
    text: str
    thoughts: tuple[str, ...] = ()
    is_half: bool = False

    @property
    def is_given(self) -> bool:
        """Whether a thought is closed that the prompt opened."""
        return OPEN not in self.opening and CLOSE in self.opening + self.closing

    @property
    def is_plain(self) -> bool:
        """Whether the reply has one thought, which is opened and closed once."""
        return len(self.thoughts) == 1 and (self.opening.strip(), self.closing.strip()) == (OPEN, CLOSE)


def divide(reply: str) -> Divided:
    """Divides a whole reply into its thoughts and its text.

    >>> [divide(reply).thoughts for reply in ("<think>2 + 2</think>4", "2 + 2.</think>4", "`<think>` … `</think>`")]
    [('2 + 2',), ('2 + 2.',), ()]
    """
    if OPEN not in reply and CLOSE not in reply:
        return Divided("", "", "", reply)
    opening, found = _next_thought(reply, Place(inside=_is_given(reply))), list[Opening]()
    while opening.is_half or opening.start < opening.end:
        found.append(opening)
        if opening.is_half:
            break
        opening = _next_thought(reply, Place(opening.text))
    if not found:
        return Divided(reply[: opening.text], "", "", reply[opening.text :])
    start, end = found[0].start, found[-1].end
    thoughts = tuple(reply[each.start : each.end].strip() for each in found)
    closing, text = reply[end : opening.text], reply[opening.text :]
    return Divided(reply[:start], reply[start:end], closing, text, thoughts, opening.is_half)


def with_thoughts(thoughts: Sequence[str], text: str) -> str:
    """A reply of its thoughts, as one, and its text; where either is missing the other alone.

    >>> with_thoughts(["2 + 2"], "4")
    '<think>\\n2 + 2\\n</think>\\n\\n4'
    """
    thought = "\n\n".join(thoughts)
    return "\n\n".join([*([f"{OPEN}\n{thought}\n{CLOSE}"] if thought else []), *([text] if text else [])])


def _next_thought(reply: str, place: Place) -> Opening:
    """The next thought of a whole reply that says something."""
    opening = read_opening(reply, place, first=True)
    assert isinstance(opening, Opening), "the reply is complete"
    return opening


def _is_given(reply: str) -> bool:
    """Whether a reply begins inside a thought that its prompt opened: it closes one that it does not open."""
    for start, mark, in_code, _ in _marks(reply):
        if mark == OPEN and not in_code:
            return False
        if mark == CLOSE and not in_code and _ends_text(reply[max(0, start - LINE_WINDOW) : start], reply, start):
            return True
    return False


def _ends_text(before: str, reply: str, start: int) -> bool:
    """Whether the mark at an index closes a thought, rather than being a word of the reply: it stands directly after
    text of which no sentence goes on, on a line of its own, or after a sentence. before: the text before it."""
    line = before.rpartition("\n")[2]
    said = line.rstrip()
    ends = said == "" or said[-1] in SENTENCE_ENDS
    if not ends and reply.startswith(SENTENCE_GOES_ON, start + len(CLOSE)):
        return False
    if said and said == line:
        return said[-1] in SENTENCE_ENDS or (said[-1] < FIRST_WIDE and said[-1] not in QUOTES)
    return ends and WORDS_FOLLOW.match(reply, start + len(CLOSE)) is None


def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought."""
    return prompt.rstrip().endswith(OPEN)


def thought_of(content: str) -> str:
    """The thought of a message as a template gets it, without its marks; empty where it has none."""
    before, close, _ = content.partition(CLOSE)
    return before.rpartition(OPEN)[2].strip() if close else ""


def is_half(content: str) -> bool:
    """Whether a message as a template gets it opens a thought and never closes it."""
    return content.lstrip().startswith(OPEN) and CLOSE not in content


def after_opening(content: str) -> str:
    """What a model writes after a prompt that opened a thought, for a message: its thought from there on, or an empty
    one, and the rest.

    >>> after_opening("<think>\\nTwo and two.\\n</think>\\n\\n4"), after_opening("4")
    ('Two and two.\\n</think>\\n\\n4', '\\n</think>\\n\\n4')
    """
    if CLOSE not in content:
        return f"\n{CLOSE}\n\n{content}"
    return content.lstrip().removeprefix(OPEN).lstrip()
