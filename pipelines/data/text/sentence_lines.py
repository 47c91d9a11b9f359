"""The lines that C4's filter keeps of many texts at once, from their UTF-8 bytes.

texts (Arrow), counts of their lines (web_counts.py) ──one pass──► what is kept of each, and its sentences
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa

from pipelines.data.text.measures import buffers, decode
from pipelines.data.text.web_counts import WebCounts, line_ends
from pipelines.data.text.web_table import BLANK, LINE, class_of, classes
from pipelines.data.text.web_words import content_words

DOT, FEED, RETURN = 0x2E, 0x0A, 0x0D


@dataclass(frozen=True)
class KeptLines:
    """What is kept of texts."""

    sentences_D: np.ndarray  # int64: counted up to the least number that is asked for
    is_whole_D: np.ndarray  # bool: all lines are kept as they are
    kept_L: np.ndarray  # bool: of all lines
    line_ends_D: np.ndarray  # int64[documents + 1]: lines before the end of each text
    data: np.ndarray  # uint8: the lines that are kept, without blanks around them, joined by line feeds
    ends_D: np.ndarray  # int64[documents + 1]: bytes of `data` before the end of each text

    def text(self, place: int) -> str:
        """What is kept of a text."""
        return self.data[self.ends_D[place] : self.ends_D[place + 1]].tobytes().decode().strip()

    def lines(self, place: int) -> tuple[int, ...]:
        """The numbers of the lines that are kept of a text."""
        return tuple(np.flatnonzero(self.kept_L[self.line_ends_D[place] : self.line_ends_D[place + 1]]).tolist())


def kept_lines(
    texts: pa.Array, web: WebCounts, *, ends: Sequence[str], min_sentences: int, min_words: int, max_characters: int
) -> KeptLines:
    """Which lines of texts have so many words, none of them too long, and end in one of these signs, if there are any.

    web: the counts of the texts."""
    data, offsets = buffers(texts)
    of_ends = np.zeros(0x10000, np.bool_)
    of_ends[[ord(sign) for sign in ends]] = True
    ends_L, line_ends_D = line_ends(data, offsets, classes())
    words_L = content_words(web.counts_L[:, 1], web.counts_L[:, 2], "zh")
    columns = _kept_lines(
        data, offsets, ends_L, line_ends_D, web.is_zh_D, web.line_bounds_D[:, 0], web.counts_L[:, 0], words_L,
        classes(), of_ends, len(ends) > 0, min_sentences, min_words, max_characters,
    )  # fmt: skip
    sentences_D, is_whole_D, kept_L, kept, ends_D = columns
    return KeptLines(sentences_D, is_whole_D, kept_L, line_ends_D, kept, ends_D)


@numba.njit(cache=True)
def _kept_lines(
    data: np.ndarray,
    offsets: np.ndarray,
    ends_L: np.ndarray,
    line_ends_D: np.ndarray,
    is_zh_D: np.ndarray,
    first_counts_D: np.ndarray,
    sentences_C: np.ndarray,
    words_C: np.ndarray,
    classes: np.ndarray,
    of_ends: np.ndarray,
    needs_end: bool,
    min_sentences: int,
    min_words: int,
    max_characters: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The columns of KeptLines. first_counts_D: of each text the place of its first line in the columns _C."""
    num_documents = len(offsets) - 1
    sentences_D, is_whole_D = np.zeros(num_documents, np.int64), np.ones(num_documents, np.bool_)
    kept_L, ends_D = np.zeros(len(ends_L), np.bool_), np.zeros(num_documents + 1, np.int64)
    kept, size = np.empty(offsets[-1] - offsets[0] + len(ends_L) + 1, np.uint8), 0
    for document in range(num_documents):
        begin, is_zh, is_first = offsets[document], is_zh_D[document], True
        first_line, first_byte = line_ends_D[document], size
        for line in range(first_line, line_ends_D[document + 1]):
            place = first_counts_D[document] + line - first_line
            start, end, num_words, longest, last, is_same = _line(data, begin, ends_L[line], classes)
            begin = ends_L[line]
            if data[begin - 1] == RETURN and begin < offsets[document + 1] and data[begin] == FEED:
                begin += 1
            few = num_words < min_words and (not is_zh or words_C[place] < min_words)
            is_kept = not few and (is_zh or longest <= max_characters)
            if needs_end and is_kept:
                is_kept = last < 0x10000 and of_ends[last] and not _ends_in_dots(data, start, end)
            is_whole_D[document] &= is_kept and is_same
            if is_kept:
                if sentences_D[document] < min_sentences:
                    sentences_D[document] += sentences_C[place]
                if not is_first:
                    kept[size] = FEED
                    size += 1
                is_first = False
                kept[size : size + end - start] = data[start:end]
                size += end - start
            kept_L[line] = is_kept
        if is_whole_D[document]:
            size = first_byte  # nobody reads it
        ends_D[document + 1] = size
    return sentences_D, is_whole_D, kept_L, kept[:size], ends_D


@numba.njit(cache=True)
def _ends_in_dots(data: np.ndarray, start: int, end: int) -> bool:
    return end - start >= 3 and data[end - 1] == DOT and data[end - 2] == DOT and data[end - 3] == DOT


@numba.njit(cache=True)
def _line(
    data: np.ndarray, begin: int, stop: int, classes: np.ndarray
) -> tuple[int, int, int, int, int | np.int64, bool]:
    """(first byte, end, words between blanks, characters of the longest, last character) of a line without blanks
    around it, and whether there are none but its end."""
    position, start, end, before_last = begin, stop, begin, stop
    num_words, characters, longest, last = 0, 0, 0, np.int64(0)
    while position < stop:
        code, size = decode(data, position)
        kind = class_of(code, classes)
        if kind & BLANK:
            if kind & LINE and position + size == stop:
                before_last = position
            characters = 0
        else:
            num_words += characters == 0
            characters += 1
            longest = max(longest, characters)
            start, last = min(start, position), code
            end = position + size
        position += size
    start = min(start, end)
    return start, end, num_words, longest, last, start == begin and end == before_last
