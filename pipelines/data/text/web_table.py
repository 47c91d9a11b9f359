"""The table of chunks that were seen: what stands between blanks, and the words into which each is cut.

    text ──blanks──► chunks ──hash──► number of the chunk ──► its words: hashes, lengths, kinds

A language has few frequent chunks, so nearly all are in the table already, and finding them is compiled. The table is
of a process, and is emptied when it is large: it depends on the texts before, what is found of a text does not, but
for a chunk that is taken for another: of one not seen before, with odds of 2 in 100 billion (36 bits of its hash, and
its place).
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from pipelines.data.text.character_tables import FNV_OFFSET, FNV_PRIME
from pipelines.data.text.measures import MIX, buffers, decode
from pipelines.data.text.web_words import (
    CHINESE_SIGN,
    COMPOUNDS,
    LINE_END,
    SENTENCE_SIGNS,
    STOP_WORDS,
    cut_chunk,
    is_chinese,
    is_punctuation,
    is_sign,
)

BLANK, LINE, LETTER, PIECE, IDEOGRAPH = 1, 2, 4, 8, 16  # classes of characters, added up
SIGN, WITH_LETTER, CHINESE, END, PUNCTUATION = 1, 2, 4, 8, 16  # kinds of words, added up
MAX_CHUNKS = 1 << 18  # of the table: some 30 MB
KIND_BITS, STOP_BITS = 5, 6  # of the traits of a word, from the lowest on; what is above them is its length
KIND_MASK, STOP_MASK = (1 << KIND_BITS) - 1, (1 << STOP_BITS) - 1
STOP_NUMBERS = {word: number for number, word in enumerate(sorted(STOP_WORDS["en"] | STOP_WORDS["zh"]), start=1)}
STOPS_EN, STOPS_ZH = (sum(1 << STOP_NUMBERS[word] for word in STOP_WORDS[language]) for language in ("en", "zh"))
CHUNK = np.uint64((1 << 28) - 1)  # the bits of a slot for the number of a chunk: of a batch, those of half a gigabyte


class Table:
    """The chunks that were seen, by number, and the words of each: those of chunk c end at word_ends[c + 1]."""

    def __init__(self) -> None:
        self._empty()

    def _empty(self) -> None:
        self._slots = np.zeros(1 << 16, np.uint64)  # a hash table: of a chunk 1 + its number, and bits of its hash
        self._keys = np.zeros(0, np.uint64)  # the hashes of all chunks
        self._pieces = np.full(0x10000, -1, np.int32)  # of single characters of Chinese texts, without a hash
        self.word_ends = np.zeros(1, np.int64)
        self.words = np.zeros((0, 2), np.int64)  # the hash of each, and its traits: one access to memory for both
        known = pa.array([*COMPOUNDS, *STOP_NUMBERS], pa.string())  # letters alone, and yet not what they look like
        self.cut(*buffers(known), np.zeros(len(known), np.bool_), only_letters=False)

    def cut(
        self, data: np.ndarray, offsets: np.ndarray, is_zh_D: np.ndarray, *, only_letters: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (number of each chunk, its first byte, int64[documents + 1]: chunks before each document's end).

        only_letters: whether new chunks of letters alone are words, without a look at them."""
        if len(self.word_ends) > MAX_CHUNKS:
            self._empty()
        chunks_C, starts_C, ends_D, new_M5, self._slots = _cut(
            data, offsets, is_zh_D, classes(), self._pieces, self._slots, self._keys
        )
        if len(new_M5):
            self._add(data, new_M5, (new_M5[:, 3] & LETTER != 0) & only_letters)
        return chunks_C, starts_C, ends_D

    def _add(self, data: np.ndarray, new_M5: np.ndarray, is_word_M: np.ndarray) -> None:
        """Adds chunks, (first byte, end, characters, classes of all of them, hash), some of which are words."""
        cut = [cut_chunk(data[start:end].tobytes().decode()) for start, end in new_M5[~is_word_M, :2].tolist()]
        sizes_M = np.ones(len(new_M5), np.int64)
        sizes_M[~is_word_M] = [len(words) for words in cut]
        ends_M = np.cumsum(sizes_M)
        is_cut_W = np.ones(int(ends_M[-1]), np.bool_)
        is_cut_W[ends_M[is_word_M] - 1] = False
        words = [word for of_chunk in cut for word in of_chunk]
        _, _, characters_M, classes_M, hashes_M = new_M5[is_word_M].T
        ideographs_M = (characters_M == 1) & (classes_M & IDEOGRAPH != 0)
        added_W2 = np.empty((len(is_cut_W), 2), np.int64)
        added_W2[~is_cut_W, 0] = hashes_M
        added_W2[~is_cut_W, 1] = _traits(characters_M, 0, WITH_LETTER + CHINESE * ideographs_M)
        added_W2[is_cut_W, 0] = _hashes(*buffers(pa.array(words, pa.string()))).view(np.int64)
        added_W2[is_cut_W, 1] = [_traits(len(word), STOP_NUMBERS.get(word, 0), _kind(word)) for word in words]
        self.words = np.concatenate([self.words, added_W2])
        self._keys = np.concatenate([self._keys, new_M5[:, 4].astype(np.uint64)])
        self.word_ends = np.concatenate([self.word_ends, self.word_ends[-1] + ends_M])


table = functools.cache(Table)  # of a process


def _traits(length: Any, stop: int, kind: Any) -> Any:
    """The length, number among the stop words (0: none) and kind of words in one number each."""
    return length << (KIND_BITS + STOP_BITS) | stop << KIND_BITS | kind


@functools.lru_cache(1 << 14)
def _kind(word: str) -> int:
    return (
        SIGN * is_sign(word)
        + WITH_LETTER * any(map(str.isalpha, word))
        + CHINESE * is_chinese(word)
        + END * (word in SENTENCE_SIGNS)
        + PUNCTUATION * is_punctuation(word)
    )


@functools.cache
def classes() -> np.ndarray:
    """uint8[65536]: the class of each character of the Basic Multilingual Plane, as Python's str methods see it."""
    classes = np.zeros(0x10000, np.uint8)
    signs = "".join(map(chr, range(0x10000)))
    line_ends, pieces = (set(pattern.findall(signs)) for pattern in (LINE_END, CHINESE_SIGN))
    for code, sign in enumerate(signs):
        is_ideograph = code >= 0x3005 and unicodedata.category(sign) == "Lo"
        classes[code] = (
            BLANK * sign.isspace() + LETTER * sign.isalpha() + IDEOGRAPH * is_ideograph
            + LINE * (sign in line_ends) + PIECE * (sign in pieces)
        )  # fmt: skip
    return classes


@numba.njit(cache=True)
def class_of(code: int | np.int64, classes: np.ndarray) -> int | np.int64:
    if code < 0x10000:
        return np.int64(classes[code])
    return PIECE if 0x20000 <= code < 0x40000 else 0  # letters among them: cut_chunk looks at them


@numba.njit(cache=True)
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(32))) * MIX
    return value ^ (value >> np.uint64(29))


@numba.njit(cache=True)
def _hashes(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The hashes of whole texts, those of equal chunks."""
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for number in range(len(hashes)):
        position, value = offsets[number], FNV_OFFSET
        while position < offsets[number + 1]:
            code, size = decode(data, position)
            value = (value ^ np.uint64(code)) * FNV_PRIME
            position += size
        hashes[number] = _mixed(value)
    return hashes


@numba.njit(cache=True)
def _next_chunk(
    data: np.ndarray, position: int, stop: int, is_zh: bool, classes: np.ndarray
) -> tuple[int, int, int, int, np.uint64]:
    """(first byte, end, characters, classes that all of them have, hash) of the next chunk; no characters: the end."""
    while position < stop:
        code, size = decode(data, position)
        if not class_of(code, classes) & BLANK:
            break
        position += size
    start, characters, common, value = position, 0, 0xFF, FNV_OFFSET
    while position < stop:
        code, size = decode(data, position)
        of_code = class_of(code, classes)
        is_piece = is_zh and of_code & PIECE != 0
        if of_code & BLANK or (is_piece and characters):
            break
        value = (value ^ np.uint64(code)) * FNV_PRIME
        position += size
        characters += 1
        common &= of_code
        if is_piece:
            break
    return start, position, characters, int(common), _mixed(value)


@numba.njit(cache=True)
def _slot(slots: np.ndarray, key: np.uint64) -> np.uint64:
    """The slot of a key in an open-addressing hash table, or the free slot (0) where it belongs.

    A slot has the number and the bits of the key above it, and stands where the bits below say: what is looked at fits
    in few bytes, as access to memory takes longer than all else here."""
    mask = np.uint64(len(slots) - 1)
    slot = (key >> np.uint64(1)) & mask
    while slots[slot] and (slots[slot] ^ key) > CHUNK:
        slot = (slot + np.uint64(1)) & mask
    return slot


@numba.njit(cache=True)
def _filled(size: int, keys: np.ndarray, new_keys: np.ndarray) -> np.ndarray:
    """A hash table of so many slots, of chunks with these keys, numbered in their order."""
    slots = np.zeros(size, np.uint64)
    for chunk in range(len(keys) + len(new_keys)):
        key = keys[chunk] if chunk < len(keys) else np.uint64(new_keys[chunk - len(keys)])
        slots[_slot(slots, key)] = (key & ~CHUNK) | np.uint64(chunk + 1)
    return slots


@numba.njit(cache=True)
def _cut(
    data: np.ndarray,
    offsets: np.ndarray,
    is_zh_D: np.ndarray,
    classes: np.ndarray,
    pieces: np.ndarray,
    slots: np.ndarray,
    keys: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (numbers of chunks, their first bytes, chunks before the end of each document, new chunks as Table._add
    takes them, the hash table with the new chunks, whose numbers follow those of the chunks with `keys`)."""
    capacity = len(data) // 2 + len(offsets)  # a chunk takes at least two bytes, with the blank after it
    chunks, starts = np.empty(capacity, np.int32), np.empty(capacity, np.int64)
    ends_D = np.zeros(len(offsets), np.int64)
    new, num_new, number = np.empty((1024, 5), np.int64), 0, 0
    for document in range(len(offsets) - 1):
        position, stop = offsets[document], offsets[document + 1]
        is_zh = is_zh_D[document]
        while position < stop:
            if is_zh:
                code, size = decode(data, position)
                if code < 0x10000 and pieces[code] >= 0:
                    chunks[number], starts[number] = pieces[code], position
                    number, position = number + 1, position + size
                    continue
            start, position, characters, common, key = _next_chunk(data, position, stop, is_zh, classes)
            if not characters:
                break
            if 2 * (len(keys) + num_new) >= len(slots):
                slots = _filled(2 * len(slots), keys, new[:num_new, 4])
            slot = _slot(slots, key)
            if not slots[slot]:
                if num_new == len(new):
                    new = np.concatenate((new, np.empty_like(new)))
                slots[slot] = (key & ~CHUNK) | np.uint64(len(keys) + num_new + 1)
                new[num_new, 0], new[num_new, 1], new[num_new, 2] = start, position, characters
                new[num_new, 3], new[num_new, 4] = common, np.int64(key)
                num_new += 1
            chunk = np.int32((slots[slot] & CHUNK) - np.uint64(1))
            chunks[number], starts[number] = chunk, start
            number += 1
            if is_zh and characters == 1 and common & PIECE:
                code, _ = decode(data, start)
                if code < 0x10000:
                    pieces[code] = chunk
        ends_D[document + 1] = number
    return chunks[:number], starts[:number], ends_D, new[:num_new], slots
