"""Cuts a document into passages: by its headings, then at the ends of sentences, with an overlap.

    text ──headings──► sections ──ends of lines and sentences──► units ──filled up to max_words──► passages

A passage never goes beyond its section, and knows the headings above it. Lengths are in words; of Chinese, 1.6
characters count as a word, about as much text as one in English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.data.text.languages import CHARACTERS_PER_WORD

MAX_WORD_CHARACTERS = 40  # what is longer is no word (Base64, a table's rule) and counts as several
LONGEST_WORD = 4000  # a longer one goes in pieces, so that each cut reads little
HEADING = re.compile(r"(#{1,6})[ \t]+(.*)")
FENCE = re.compile(r"[ \t]*(```|~~~)")
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
HAN_CHARACTER = re.compile(f"[{HAN}]")
WORDS = re.compile(rf"([{HAN}])|[^\s{HAN}]{{1,{LONGEST_WORD}}}")
# The end of a unit: of a line, or of a sentence in either language with what closes its quotation.
UNIT_END = re.compile(r"\n+|[。！？；][”’」』）\"]*|[.!?][\"')\]]*[ \t]+")


@dataclass(frozen=True)
class Passage:
    """A part of a document. heading: the headings above it, from the outermost on; begin: its first character."""

    heading: str
    begin: int
    text: str

    @property
    def searched(self) -> str:
        """The text by which it is found."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text


def split(text: str, *, max_words: int, overlap_words: int) -> Iterator[Passage]:
    """Yields the passages of a document, each of at most max_words.

    overlap_words: how much of the end of a passage the next one of its section repeats, at most and in whole units; it
    is less than max_words. All text outside the headings is in some passage."""
    for heading, begin, end in _sections(text):
        units = list(_units(text, begin, end, max_words))
        first = 0
        while first < len(units):
            last, size = first, 0.0
            while last < len(units) and (last == first or size + units[last][2] <= max_words):
                size += units[last][2]
                last += 1
            passage = text[units[first][0] : units[last - 1][1]]
            if passage.strip():
                yield Passage(heading, units[first][0], passage.strip())
            if last == len(units):
                break
            next_first, repeated = last, 0.0
            while next_first - 1 > first and repeated + units[next_first - 1][2] <= overlap_words:
                next_first -= 1
                repeated += units[next_first][2]
            # The overlap gives way where the next unit would not fit after it: each passage brings something new.
            while next_first < last and repeated + units[last][2] > max_words:
                repeated -= units[next_first][2]
                next_first += 1
            first = next_first


def num_words(text: str) -> float:
    """The length of a text in words.

    >>> num_words("two words"), num_words("一共八个汉字呢吧")
    (2.0, 5.0)
    """
    num_han = 0
    if not text.isascii():
        text, num_han = HAN_CHARACTER.subn(" ", text)
    words = text.split()
    long_words = sum(len(word) // MAX_WORD_CHARACTERS for word in words if len(word) >= MAX_WORD_CHARACTERS)
    return num_han / CHARACTERS_PER_WORD + len(words) + long_words


def _sections(text: str) -> Iterator[tuple[str, int, int]]:
    """Yields (headings, begin, end) of the text between headings in Markdown; those within a code block are none."""
    headings: list[tuple[int, str]] = []  # (level, text) of those above
    begin = position = 0
    in_code, has_code = False, "```" in text or "~~~" in text
    for line in text.splitlines(keepends=True):
        in_code ^= has_code and FENCE.match(line) is not None
        match = HEADING.match(line.rstrip("\r\n")) if line[0] == "#" and not in_code else None
        if match:
            yield " > ".join(title for _, title in headings), begin, position
            level = len(match[1])
            title = match[2].rstrip(" \t#")
            headings = [(above, higher) for above, higher in headings if above < level] + [(level, title)]
            begin = position + len(line)
        position += len(line)
    yield " > ".join(title for _, title in headings), begin, len(text)


def _units(text: str, begin: int, end: int, max_words: int) -> Iterator[tuple[int, int, float]]:
    """Yields (begin, end, words) of the sentences and lines of a section; a longer one is cut."""
    while begin < end:
        match = UNIT_END.search(text, begin, end)
        unit_end = match.end() if match else end
        size = num_words(text[begin:unit_end])
        if size <= max_words and unit_end - begin <= LONGEST_WORD:  # nearly all: a cut would read them again
            yield begin, unit_end, size
            begin = unit_end
        while begin < unit_end:
            stop = _cut(text, begin, unit_end, max_words)
            yield begin, stop, num_words(text[begin:stop])
            begin = stop


def _cut(text: str, begin: int, end: int, max_words: int) -> int:
    """Where to cut a text: after as many of its words as are allowed, at its end where all are."""
    size = 0.0
    for match in WORDS.finditer(text, begin, end):
        weight = 1 / CHARACTERS_PER_WORD if match[1] else 1 + (match.end() - match.start()) // MAX_WORD_CHARACTERS
        if size + weight > max_words:
            return match.start() if match.start() > begin else begin + (max_words - 1) * MAX_WORD_CHARACTERS
        size += weight
    return end
