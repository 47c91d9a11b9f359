"""Counts the words and sentences of the published filters in many texts at once, from their UTF-8 bytes.

    texts (Arrow) ──blanks──► chunks ──table: cut into words when first seen──► words ──► WebCounts

A chunk is text between blanks, or a Chinese character in a Chinese text. Words are compared by 64-bit hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from pipelines.data.text.measures import buffers, decode
from pipelines.data.text.web_table import (
    CHINESE,
    END,
    KIND_BITS,
    KIND_MASK,
    LINE,
    PUNCTUATION,
    SIGN,
    STOP_BITS,
    STOP_MASK,
    STOPS_EN,
    STOPS_ZH,
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
    counts_D: np.ndarray  # int64[documents, 8]: those of _count
    word_bounds_D: np.ndarray  # int64[documents, 2]: the first of its words, and the one after the last
    line_bounds_D: np.ndarray  # int64[documents, 2]: the same of its lines
    hashes_N: np.ndarray  # uint64: of all words
    lengths_N: np.ndarray  # int32: their characters
    counts_L: np.ndarray  # int64[lines, 3]: those of _count

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
        return np.bitwise_count(self.counts_D[:, 7] & np.where(self.is_zh_D, STOPS_ZH, STOPS_EN)).astype(np.int64)

    def sentences(self, place: int) -> list[int]:
        """Number of sentences of each line of a text."""
        first, stop = self.line_bounds_D[place]
        return self.counts_L[first:stop, 0].tolist()

    def line_words(self, place: int) -> list[float]:
        """Number of words of each line of a Chinese text, which has no blanks to count them by."""
        first, stop = self.line_bounds_D[place]
        return content_words(self.counts_L[first:stop, 1], self.counts_L[first:stop, 2], "zh").tolist()

    def words_of_lines(self, numbers: Sequence[Sequence[int]]) -> np.ndarray:
        """Words of some lines of each text, and Chinese characters among them. int64[documents, 2]."""
        sizes_D = [len(of_text) for of_text in numbers]
        lines = np.repeat(self.line_bounds_D[:, 0], sizes_D) + np.array([*chain.from_iterable(numbers)], np.int64)
        sums = np.cumsum(np.concatenate([np.zeros((1, 2), np.int64), self.counts_L[lines, 1:]]), axis=0)
        return np.diff(sums[np.cumsum([0, *sizes_D])], axis=0)


def web_texts(texts: pa.Array, languages: Sequence[str]) -> WebCounts:
    """Returns the counts of each text of an Arrow array of strings. languages: a text is Chinese if its one is zh."""
    data, offsets = buffers(texts)
    is_zh_D = np.array([language == "zh" for language in languages], np.bool_)
    of_process = table()
    chunks_C, starts_C, chunk_ends_D = of_process.cut(data, offsets, is_zh_D)
    ends_L, line_ends_D = line_ends(data, offsets, classes())
    counts_D, word_ends_D, counts_L, hashes_N, lengths_N = _count(
        chunks_C,
        starts_C,
        chunk_ends_D,
        ends_L,
        line_ends_D,
        of_process.word_ends,
        of_process.words,
    )
    return WebCounts(
        is_zh_D,
        counts_D,
        np.stack([word_ends_D[:-1], word_ends_D[1:]], axis=1),
        np.stack([line_ends_D[:-1], line_ends_D[1:]], axis=1),
        hashes_N,
        lengths_N,
        counts_L,
    )


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
def _num_words(chunks_C: np.ndarray, word_ends: np.ndarray) -> int:
    number = 0
    for chunk in chunks_C:
        number += word_ends[chunk + 1] - word_ends[chunk]
    return int(number)


@numba.njit(cache=True)
def _count(
    chunks_C: np.ndarray,
    starts_C: np.ndarray,
    chunk_ends_D: np.ndarray,
    ends_L: np.ndarray,
    line_ends_D: np.ndarray,
    word_ends: np.ndarray,
    words: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Counts all words of all chunks in one pass; the last two arguments are columns of the table.

    Returns (int64[documents, 8]: words, Chinese characters among them; without signs words, Chinese characters,
    characters; of these with a letter words, Chinese characters; bits of stop words. int64[documents + 1]: words before
    the end of each. int64[lines, 3]: sentences (see web_words.num_sentences), words, Chinese characters among them.
    Hashes and lengths of all words)."""
    num_words = _num_words(chunks_C, word_ends)
    hashes_N, lengths_N = np.empty(num_words, np.uint64), np.empty(num_words, np.int32)
    counts_D, word_ends_D = np.zeros((len(line_ends_D) - 1, 8), np.int64), np.zeros(len(line_ends_D), np.int64)
    counts_L, place = np.zeros((len(ends_L), 3), np.int64), 0
    counts_L[:, 0] = 1
    for document in range(len(counts_D)):
        line, chunk_place, stop = line_ends_D[document], chunk_ends_D[document], chunk_ends_D[document + 1]
        chinese = real = real_chinese = characters = lettered = lettered_chinese = bits = 0
        while chunk_place < stop:
            while starts_C[chunk_place] >= ends_L[line]:
                line += 1
            end, first, sentences, has_ended, chinese_before = ends_L[line], place, 1, False, chinese
            while chunk_place < stop and starts_C[chunk_place] < end:
                chunk = chunks_C[chunk_place]
                chunk_place += 1
                for word in range(word_ends[chunk], word_ends[chunk + 1]):
                    kind, length = words[word, 1] & KIND_MASK, words[word, 1] >> (KIND_BITS + STOP_BITS)
                    is_chinese = np.int64(kind & CHINESE != 0)
                    is_real = np.int64(kind & SIGN == 0)
                    is_lettered = is_real & np.int64(kind & WITH_LETTER != 0)
                    chinese += is_chinese
                    real += is_real
                    real_chinese += is_real & is_chinese
                    characters += is_real * length
                    lettered += is_lettered
                    lettered_chinese += is_lettered & is_chinese
                    bits |= 1 << (words[word, 1] >> KIND_BITS & STOP_MASK)
                    if kind & END:
                        has_ended = True
                    elif has_ended and not kind & PUNCTUATION:
                        sentences, has_ended = sentences + 1, False
                    hashes_N[place], lengths_N[place] = np.uint64(words[word, 0]), length
                    place += 1
            counts_L[line, 0], counts_L[line, 1], counts_L[line, 2] = sentences, place - first, chinese - chinese_before
        word_ends_D[document + 1] = place
        count = counts_D[document]
        count[0], count[1], count[2], count[3] = place - word_ends_D[document], chinese, real, real_chinese
        count[4], count[5], count[6], count[7] = characters, lettered, lettered_chinese, bits
    return counts_D, word_ends_D, counts_L, hashes_N, lengths_N
