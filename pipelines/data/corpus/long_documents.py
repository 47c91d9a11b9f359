"""Splits documents that are too long, such as books, into parts of about equal length, at the best places.

    text ──paragraphs, sentences──► pieces ──cuts──► parts: before a heading, else a paragraph, a line, a sentence

Length is content: the words of a text, and its Chinese characters as so many words as they say (CHARACTERS_PER_WORD).
A cut is the best boundary near its place, so two editions of a book that differ in a paragraph are mostly cut alike,
and their parts are recognised as near duplicates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipelines.data.corpus.filters.filter import MaxWords
from pipelines.data.text.document_stats import document_stats
from pipelines.data.text.languages import CHARACTERS_PER_WORD
from pipelines.data.text.measures import COUNTS, hash_texts
from pipelines.data.text.web_counts import web_texts

HEADING = re.compile(
    r"#{1,3} \S"
    r"|(?:chapter|part|book|volume|section|act|canto|letter|scene) (?:\d{1,3}|[ivxlc]{1,8}|one|two|three|four|five|six|"
    r"seven|eight|nine|ten|eleven|twelve|\w{3,5}teen|(?:twent|thirt|fort|fift)y[\w-]*|the \w{4,12})\b.{0,60}$"
    r"|第 ?[\d零〇一二三四五六七八九十百千]{1,6} ?[章回節节卷部篇集幕折].{0,40}$"
    r"|[卷篇][\d一二三四五六七八九十百]{1,4}.{0,40}$"
    r"|(?:preface|prologue|epilogue|序|序言|前言|楔子|尾聲|尾声|後記|后记)$",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+|(?<=[。！？；…])[」』”’）]*")
WINDOW = 0.1  # a cut is at most so far from its ideal place, in parts: the best boundary there is chosen
HEADING_START, PARAGRAPH, LINE, WITHIN = 3, 2, 1, 0  # boundaries, the better the higher


def split_beyond(text: str, language: str, limits: MaxWords) -> list[str]:
    """Returns the parts of a text, none of which is beyond a limit; a text that is beyond none is its only part.

    language: empty if it is to be detected."""
    result = [text] if limits.content is None else split(text, limits.content)
    if limits.en is None or limits.zh is None or len(text) <= min(limits.en, limits.zh):  # a character a word at least
        return result
    if not language:
        (language,) = document_stats(pa.array([text], pa.string()), [""], garbled=[0]).with_languages().languages
    max_words = limits.zh if language == "zh" else limits.en
    return [part for one in result for part in _split_web(one, language, max_words)]


def _split_web(text: str, language: str, max_words: int) -> Iterator[str]:
    """Yields the parts of a text, none of more than `max_words` words as the published filters count them."""
    texts, parts = pa.array([text], pa.string()), [text]
    if len(text) > max_words and (words := float(web_texts(texts, [language]).real_words(language)[0])) > max_words:
        parts = split(text, max(1, int(max_words * float(content_words([text])[0]) / words)))
    if len(parts) == 1:  # short enough, or of symbols alone
        yield text
        return
    for part in parts:  # where words have more signs than in the rest, one may still be too long
        yield from _split_web(part, language, max_words)


def split(text: str, max_words: int) -> list[str]:
    """Returns the parts of a text, none of more than `max_words` words; a text that is not longer is its only part."""
    if len(text) <= max_words:  # a word has a character at least
        return [text]
    total = float(content_words([text])[0])
    if total <= max_words:
        return [text]
    num_parts = math.ceil(total * (1 + 3 * WINDOW) / max_words)  # both ends may be off, and words may be cut in two
    window = WINDOW * total / num_parts
    pieces = list(_pieces(text, window))
    starts = np.concatenate([[0.0], np.cumsum(content_words([piece for piece, _ in pieces]))])
    ranks = np.array([rank for _, rank in pieces])
    cuts = [0]
    for number in range(1, num_parts):
        cuts.append(_best_cut(starts, ranks, total * number / num_parts, window, after=cuts[-1]))
    parts = ["".join(piece for piece, _ in pieces[a:b]) for a, b in zip(cuts, [*cuts[1:], len(pieces)], strict=True)]
    return [part.rstrip().lstrip("\n") for part in parts if part.strip()]


def content_words(texts: list[str]) -> np.ndarray:
    """Returns float64[texts]: words of each, its Chinese characters counting as the words that say the same."""
    counts = hash_texts(pa.array(texts, pa.string())).counts
    spaced, chinese = counts[:, COUNTS.index("spaced_words")], counts[:, COUNTS.index("chinese")]
    return spaced + chinese / CHARACTERS_PER_WORD


def _best_cut(starts: np.ndarray, ranks: np.ndarray, ideal: float, window: float, *, after: int) -> int:
    """Index of the piece that begins a part: the best boundary in the window around the ideal place, then the nearest.

    starts: words before each piece, and before the end."""
    first = max(int(np.searchsorted(starts, ideal - window)), after + 1)
    stop = max(int(np.searchsorted(starts, ideal + window, side="right")), first + 1)
    candidates = range(first, min(stop, len(ranks)))
    return max(candidates, key=lambda index: (ranks[index], -abs(starts[index] - ideal)), default=len(ranks))


def _pieces(text: str, max_words: float) -> Iterator[tuple[str, int]]:
    """Yields the lines of a text, long ones cut further, with the kind of boundary before each. Together: the text."""
    blank = True
    lines = text.splitlines(keepends=True)
    for line, words in zip(lines, content_words(lines).tolist(), strict=True):
        stripped = line.strip()
        rank = HEADING_START if HEADING.match(stripped) else PARAGRAPH if blank else LINE
        blank = not stripped
        # A character has a word at most.
        for piece in [line] if words <= max_words else _cut_line(line, max(1, int(max_words))):
            yield piece, rank
            rank = WITHIN


def _cut_line(line: str, characters: int) -> Iterator[str]:
    """Cuts a line into pieces of at most so many characters: after a sentence, else at a blank, else anywhere."""
    start = 0
    while len(line) - start > characters:
        piece = line[start : start + characters]
        sentences = [match.end() for match in SENTENCE_END.finditer(piece)]
        length = sentences[-1] if sentences else piece.rfind(" ") + 1 or characters
        yield piece[:length]
        start += length
    yield line[start:]
