"""The table of chunks that were seen: what stands between blanks, and the words into which each is cut.

    text ──blanks──► chunks ──hash──► number of the chunk ──► its words: hashes, lengths, kinds

A language has few frequent chunks, so nearly all are in the table already, and finding them is compiled. The table is
of a process, and is emptied when it is large: it depends on the texts before, what is found of a text does not.
"""

from __future__ import annotations

import functools
import unicodedata

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
STOP_BITS = {word: 1 << bit for bit, word in enumerate(sorted(STOP_WORDS["en"] | STOP_WORDS["zh"]))}
STOP_BITS_EN, STOP_BITS_ZH = (sum(STOP_BITS[word] for word in STOP_WORDS[language]) for language in ("en", "zh"))


class Table:
    """The chunks that were seen, by number, and the words of each: those of chunk c end at word_ends[c + 1]."""

    def __init__(self) -> None:
        self._empty()

    def _empty(self) -> None:
        self._slots = np.zeros((1 << 16, 2), np.uint64)  # a hash table: of a chunk its hash, and 1 + its number
        self._pieces = np.full(0x10000, -1, np.int32)  # of single characters of Chinese texts, without a hash
        self.word_ends, self.hashes = np.zeros(1, np.int64), np.zeros(0, np.uint64)
        self.lengths, self.kinds, self.stops = (np.zeros(0, kind) for kind in (np.int32, np.uint8, np.int64))
        known = pa.array([*COMPOUNDS, *STOP_BITS], pa.string())  # letters alone, and yet not what they look like
        self.cut(*buffers(known), np.zeros(len(known), np.bool_), only_letters=False)

    def cut(
        self, data: np.ndarray, offsets: np.ndarray, is_zh_D: np.ndarray, *, only_letters: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (number of each chunk, its first byte, int64[documents + 1]: chunks before each document's end).

        only_letters: whether new chunks of letters alone are words, without a look at them."""
        if len(self.word_ends) > MAX_CHUNKS:
            self._empty()
        chunks_C, starts_C, ends_D, new_M5, self._slots = _cut(
            data, offsets, is_zh_D, classes(), self._pieces, self._slots, len(self.word_ends) - 1
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
        for name, of_words, of_cut in (
            ("hashes", hashes_M.astype(np.int64).view(np.uint64), _hashes(*buffers(pa.array(words, pa.string())))),
            ("lengths", characters_M, [len(word) for word in words]),
            ("kinds", WITH_LETTER + CHINESE * ideographs_M, [_kind(word) for word in words]),
            ("stops", 0, [STOP_BITS.get(word, 0) for word in words]),
        ):
            known = getattr(self, name)
            added = np.empty(len(is_cut_W), known.dtype)
            added[~is_cut_W], added[is_cut_W] = of_words, of_cut
            setattr(self, name, np.concatenate([known, added]))
        self.word_ends = np.concatenate([self.word_ends, self.word_ends[-1] + ends_M])


table = functools.cache(Table)  # of a process


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
def _slot(slots: np.ndarray, key: np.uint64) -> int:
    """The slot of a key in an open-addressing hash table, or the free slot (0 in place of a number) where it belongs.

    Key and number lie together: a look at a slot is one access to memory, which takes longer than all else here."""
    mask = len(slots) - 1
    slot = int(key >> np.uint64(1)) & mask
    while slots[slot, 1] and slots[slot, 0] != key:
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True)
def _doubled(slots: np.ndarray) -> np.ndarray:
    doubled = np.zeros((2 * len(slots), 2), np.uint64)
    for old in range(len(slots)):
        if slots[old, 1]:
            slot = _slot(doubled, slots[old, 0])
            doubled[slot, 0], doubled[slot, 1] = slots[old, 0], slots[old, 1]
    return doubled


@numba.njit(cache=True)
def _cut(
    data: np.ndarray,
    offsets: np.ndarray,
    is_zh_D: np.ndarray,
    classes: np.ndarray,
    pieces: np.ndarray,
    slots: np.ndarray,
    num_chunks: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (numbers of chunks, their first bytes, chunks before the end of each document, new chunks as Table._add
    takes them, the hash table with the new chunks, whose numbers begin with num_chunks)."""
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
            if 2 * (num_chunks + num_new) >= len(slots):
                slots = _doubled(slots)
            slot = _slot(slots, key)
            if not slots[slot, 1]:
                if num_new == len(new):
                    new = np.concatenate((new, np.empty_like(new)))
                slots[slot, 0], slots[slot, 1] = key, np.uint64(num_chunks + num_new + 1)
                new[num_new, 0], new[num_new, 1], new[num_new, 2] = start, position, characters
                new[num_new, 3], new[num_new, 4] = common, np.int64(key)
                num_new += 1
            chunk = np.int32(slots[slot, 1] - np.uint64(1))
            chunks[number], starts[number] = chunk, start
            number += 1
            if is_zh and characters == 1 and common & PIECE:
                code, _ = decode(data, start)
                if code < 0x10000:
                    pieces[code] = chunk
        ends_D[document + 1] = number
    return chunks[:number], starts[:number], ends_D, new[:num_new], slots
