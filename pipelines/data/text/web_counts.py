"""Counts the words and sentences of the published filters in many texts at once, from their UTF-8 bytes.

    texts (Arrow) ──blanks──► chunks ──table: cut into words when first seen──► words ──► WebCounts

A chunk is text between blanks, or a Chinese character in a Chinese text. Words are compared by 64-bit hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from pipelines.data.text.measures import buffers, decode
from pipelines.data.text.web_table import (
    CHINESE,
    END,
    LINE,
    PUNCTUATION,
    SIGN,
    STOP_BITS_EN,
    STOP_BITS_ZH,
    WITH_LETTER,
    class_of,
    classes,
    table,
)
from pipelines.data.text.web_words import content_words


@dataclass(frozen=True)
class WebCounts:
    """What the published filters count in many texts, by columns. Words of Chinese are those of `content_words`."""

    is_zh_D: np.ndarray
    counts_D: np.ndarray  # int64[documents, 8]: those of _count_words
    word_bounds_D: np.ndarray  # int64[documents, 2]: the first of its words, and the one after the last
    line_bounds_D: np.ndarray  # int64[documents, 2]: the same of its lines
    hashes_N: np.ndarray  # uint64: of all words
    lengths_N: np.ndarray  # int32: their characters
    counts_L: np.ndarray  # int64[lines, 3]: those of _count_sentences

    def take(self, places: np.ndarray) -> WebCounts:
        """The counts of the texts at these places."""
        return replace(self, **{name: getattr(self, name)[places]
                                for name in ("is_zh_D", "counts_D", "word_bounds_D", "line_bounds_D")})  # fmt: skip

    def words(self, language: str) -> np.ndarray:
        """Words of each text, all of which are in this language. float64 of Chinese, else int64, [documents]."""
        return content_words(self.counts_D[:, 0], self.counts_D[:, 1], language)

    def real_words(self, language: str) -> np.ndarray:
        """Those of `words` that are no signs of punctuation."""
        return content_words(self.counts_D[:, 2], self.counts_D[:, 3], language)

    def lettered_words(self, language: str) -> np.ndarray:
        """Those of the real words that have a letter."""
        return content_words(self.counts_D[:, 5], self.counts_D[:, 6], language)

    @property
    def real_characters(self) -> np.ndarray:
        """Characters of the real words. int64[documents]."""
        return self.counts_D[:, 4]

    @property
    def stop_words(self) -> np.ndarray:
        """Number of different stop words of its language in each text. int64[documents]."""
        return np.bitwise_count(self.counts_D[:, 7] & np.where(self.is_zh_D, STOP_BITS_ZH, STOP_BITS_EN)).astype(
            np.int64
        )

    def sentences(self, place: int) -> list[int]:
        """Number of sentences of each line of a text."""
        first, stop = self.line_bounds_D[place]
        return self.counts_L[first:stop, 0].tolist()

    def line_words(self, place: int) -> list[float]:
        """Number of words of each line of a Chinese text, which has no blanks to count them by."""
        first, stop = self.line_bounds_D[place]
        return content_words(self.counts_L[first:stop, 1], self.counts_L[first:stop, 2], "zh").tolist()

    def words_of_lines(self, place: int, numbers: Sequence[int]) -> np.ndarray:
        """Words of some lines of a text, and Chinese characters among them. int64[2]."""
        return self.counts_L[self.line_bounds_D[place, 0] + np.array(numbers, np.int64), 1:].sum(axis=0)


def web_texts(texts: pa.Array, languages: Sequence[str]) -> WebCounts:
    """Returns the counts of each text of an Arrow array of strings. languages: a text is Chinese if its one is zh."""
    data, offsets = buffers(texts)
    is_zh_D = np.array([language == "zh" for language in languages], np.bool_)
    of_process = table()
    chunks_C, starts_C, chunk_ends_D = of_process.cut(data, offsets, is_zh_D)
    words_N, word_ends_C = _words_of(chunks_C, of_process.word_ends)
    ends_L, line_ends_D = line_ends(data, offsets, classes())
    word_ends_D = word_ends_C[chunk_ends_D]
    return WebCounts(
        is_zh_D,
        _count_words(words_N, word_ends_D, of_process.lengths, of_process.kinds, of_process.stops),
        np.stack([word_ends_D[:-1], word_ends_D[1:]], axis=1),
        np.stack([line_ends_D[:-1], line_ends_D[1:]], axis=1),
        of_process.hashes[words_N],
        of_process.lengths[words_N],
        _count_sentences(words_N, _bounds(word_ends_C[_num_before(starts_C, ends_L)]), of_process.kinds),
    )


def _bounds(ends: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], ends])


@numba.njit(cache=True)
def _words_of(chunks_C: np.ndarray, word_ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (numbers of the words of all chunks, int64[chunks + 1]: words before the end of each)."""
    ends_C = np.zeros(len(chunks_C) + 1, np.int64)
    for place in range(len(chunks_C)):
        ends_C[place + 1] = ends_C[place] + word_ends[chunks_C[place] + 1] - word_ends[chunks_C[place]]
    words, number = np.empty(ends_C[-1], np.int64), 0
    for chunk in chunks_C:
        for word in range(word_ends[chunk], word_ends[chunk + 1]):
            words[number] = word
            number += 1
    return words, ends_C


@numba.njit(cache=True)
def _num_before(starts_C: np.ndarray, ends_L: np.ndarray) -> np.ndarray:
    """int64[lines]: chunks that start before the end of each line. Both ascend, so one pass finds them."""
    numbers_L, number = np.empty(len(ends_L), np.int64), 0
    for line in range(len(ends_L)):
        while number < len(starts_C) and starts_C[number] < ends_L[line]:
            number += 1
        numbers_L[line] = number
    return numbers_L


@numba.njit(cache=True)
def _may_end_line(byte: Any) -> bool:
    """Whether a byte may begin a line end: a control character, or of U+0085, U+2028 and U+2029."""
    return byte < 0x20 or byte == 0xC2 or byte == 0xE2


@numba.njit(cache=True)
def line_ends(data: np.ndarray, offsets: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (the byte before which each line ends, as str.splitlines has them, lines before each document's end)."""
    capacity = len(offsets)
    for position in range(offsets[0], offsets[-1]):
        capacity += _may_end_line(data[position])
    ends, number = np.empty(capacity, np.int64), 0
    line_ends_D = np.zeros(len(offsets), np.int64)
    for document in range(len(offsets) - 1):
        begin = position = offsets[document]
        stop = offsets[document + 1]
        while position < stop:
            if not _may_end_line(data[position]):  # nearly all, and the later bytes of characters
                position += 1
                continue
            code, size = decode(data, position)
            is_end = (code < 0x20 or code in (0x85, 0x2028, 0x2029)) and class_of(code, classes) & LINE != 0
            if code == 10 and position > offsets[document] and data[position - 1] == 13:
                is_end, begin = False, position + 1  # the second half of \r\n
            position += size
            if is_end:
                ends[number], number, begin = position, number + 1, position
        if begin < stop:
            ends[number], number = stop, number + 1
        line_ends_D[document + 1] = number
    return ends[:number], line_ends_D


@numba.njit(cache=True)
def _count_words(
    words: np.ndarray, ends_D: np.ndarray, lengths: np.ndarray, kinds: np.ndarray, stops: np.ndarray
) -> np.ndarray:
    """int64[documents, 8]: words, Chinese characters among them; without signs words, Chinese characters, characters;
    of these with a letter words, Chinese characters; bits of stop words."""
    counts = np.zeros((len(ends_D) - 1, 8), np.int64)
    for document in range(len(counts)):
        count = counts[document]
        count[0] = ends_D[document + 1] - ends_D[document]
        for word in words[ends_D[document] : ends_D[document + 1]]:
            kind = kinds[word]
            chinese = np.int64(kind & CHINESE != 0)
            real = np.int64(kind & SIGN == 0)
            lettered = real & np.int64(kind & WITH_LETTER != 0)
            count[1] += chinese
            count[2] += real
            count[3] += real & chinese
            count[4] += real * lengths[word]
            count[5] += lettered
            count[6] += lettered & chinese
            count[7] |= stops[word]
    return counts


@numba.njit(cache=True)
def _count_sentences(words: np.ndarray, ends_L: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """int64[lines, 3]: sentences (see web_words.num_sentences), words, Chinese characters among them."""
    counts = np.zeros((len(ends_L) - 1, 3), np.int64)
    for line in range(len(counts)):
        count = counts[line]
        count[0], has_ended = 1, False
        count[1] = ends_L[line + 1] - ends_L[line]
        for word in words[ends_L[line] : ends_L[line + 1]]:
            kind = kinds[word]
            count[2] += kind & CHINESE != 0
            if kind & END:
                has_ended = True
            elif has_ended and not kind & PUNCTUATION:
                count[0] += 1
                has_ended = False
    return counts
