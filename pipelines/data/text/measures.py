"""What filters, deduplication and contamination look at, taken from the UTF-8 bytes of many texts in one pass.

    texts (Arrow) ──cut──► words and lines as 64-bit hashes, counts of characters ──► Measured, one a document

A *word* is a Chinese character (or kana), or a run of anything else between blanks that holds a letter or digit.
So texts in Chinese and English are measured by the same rules. Words are compared without case and punctuation,
lines without blanks. Everything is compiled by numba: cutting words in Python costs a hundred times more.
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa

SPACE, LETTER, CHINESE, DIGIT, PUNCTUATION, SYMBOL, BROKEN = range(7)
CHINESE_RANGES = (
    *((0x3005, 0x3007), (0x3040, 0x30FF), (0x3100, 0x312F)),  # 々 and 〇, kana, bopomofo
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),  # ideographs of the Basic Multilingual Plane
)
CODE_SIGNS = "#%&*@\\_/{}[]"  # punctuation to Unicode, signs of code and markup to a reader
BULLETS = "-*+•·●○■□▪►▶※–"
# (words, Chinese characters) of runs that prose hardly ever says twice, and of those that may come back now and then.
# Eight English words say as much as thirteen Chinese characters.
NGRAM = (8, 13)
TOP_NGRAM = (4, 6)
RUN_CHARACTERS = 6  # "aaaaaa", "哈哈哈哈哈哈": from here on a run counts as repeated
# Columns without blanks, a Chinese character taking two: 40 characters of English, 15 of Chinese. Shorter lines may
# well stand in two honest texts.
LONG_LINE_WIDTH = 30
WIDE_FROM = 0x2E80  # Chinese, Japanese and Korean characters and full-width signs take two columns
FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
MIX = np.uint64(0x9E3779B97F4A7C15)

COUNTS = (
    "characters",  # all that is not blank
    "words",
    "letters",
    "chinese",
    "digits",
    "symbols",  # neither letters, digits nor punctuation
    "broken",  # U+FFFD and private-use characters: what a wrong decoding leaves
    "spaced_words",  # words that are not Chinese characters
    "spaced_word_characters",  # letters and digits in them
    "alphabetic_words",  # words with a letter, Chinese characters among them
    "lines",  # with a letter or digit: neither blank ones nor rulers
    "bullet_lines",
    "ellipsis_lines",
    "width",  # columns of all that is not blank: a Chinese character takes two
    "duplicate_line_width",  # of lines that stood before
    "duplicate_ngram_words",  # covered by n-grams of NGRAM words that stood before
    "top_ngram_words",  # covered by the most frequent n-gram of TOP_NGRAM words
    "repeated_characters",  # letters and digits in runs of one character
)


class Measured(NamedTuple):
    """A document as filters see it. Counts are explained at COUNTS."""

    text: str
    language: str
    characters: int
    words: int
    letters: int
    chinese: int
    digits: int
    symbols: int
    broken: int
    spaced_words: int
    spaced_word_characters: int
    alphabetic_words: int
    lines: int
    bullet_lines: int
    ellipsis_lines: int
    width: int
    duplicate_line_width: int
    duplicate_ngram_words: int
    top_ngram_words: int
    repeated_characters: int


@dataclass(frozen=True)
class Cut:
    """Words and lines of many documents, one after the other; document d has [starts[d], starts[d + 1])."""

    counts: np.ndarray  # int64[documents, len(COUNTS)]
    words: np.ndarray  # uint64: a hash a word
    word_starts: np.ndarray  # int64[documents + 1]
    lines: np.ndarray  # uint64: a hash a line that is not blank
    line_widths: np.ndarray  # int32: columns of its characters, blanks not counted
    line_starts: np.ndarray  # int64[documents + 1]

    def long_lines(self) -> pa.ListArray:
        """Of each document the hashes of its long lines: what must not stand in training and held-out text."""
        long = self.line_widths >= LONG_LINE_WIDTH
        starts = np.concatenate([[0], np.cumsum(long)])[self.line_starts]
        return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(self.lines[long], pa.uint64()))


def cut(texts: pa.Array) -> Cut:
    """Cuts an Arrow array of strings, none of them null, into words and lines."""
    data, offsets = buffers(texts)
    # A word takes at least two bytes (a letter and a blank; a Chinese character three), and so does a line.
    room = len(data) // 2 + len(texts) + 1
    words, lines, widths = np.empty(room, np.uint64), np.empty(room, np.uint64), np.empty(room, np.int32)
    rulers = np.zeros(room, np.bool_)  # lines without a letter or digit: as often in a table as its author liked
    counts = np.zeros((len(texts), len(COUNTS)), np.int64)
    word_starts, line_starts = np.zeros(len(texts) + 1, np.int64), np.zeros(len(texts) + 1, np.int64)
    classes, bullets = _tables()
    if len(texts):
        _cut_words(data, offsets, classes, counts, words, word_starts)
        _cut_lines(data, offsets, classes, bullets, counts, lines, widths, rulers, line_starts)
        _repetition(words, word_starts, lines, widths, rulers, line_starts, counts)
    words, lines, widths = words[: word_starts[-1]], lines[: line_starts[-1]], widths[: line_starts[-1]]
    return Cut(counts, words, word_starts, lines, widths, line_starts)


def measured(texts: pa.Array, languages: list[str], pieces: Cut) -> list[Measured]:
    """One record a document, for the filters."""
    rows = zip(texts.to_pylist(), languages, pieces.counts.tolist(), strict=True)
    return [Measured(text, language, *counts) for text, language, counts in rows]


def buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 bytes, int64 offsets) of an Arrow array of strings, without a copy of the bytes."""
    texts = texts.cast(pa.large_string())
    _, offsets, data = texts.buffers()
    offsets = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8), offsets


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """(class, is a bullet) of each character of the Basic Multilingual Plane."""
    classes = np.array([_class(chr(code)) for code in range(0x10000)], np.uint8)
    for first, last in CHINESE_RANGES:
        classes[first : last + 1] = CHINESE
    bullets = np.zeros(0x10000, np.uint8)
    bullets[[ord(sign) for sign in BULLETS]] = 1
    return classes, bullets


def _class(character: str) -> int:
    category = unicodedata.category(character)
    if category in ("Co", "Cs") or character == "\ufffd":
        return BROKEN
    if category[0] in "CZ":
        return SPACE
    if category[0] in "LM":
        return LETTER
    if category[0] == "N":
        return DIGIT
    return PUNCTUATION if category[0] == "P" and character not in CODE_SIGNS else SYMBOL


# Places in a row of counts, as constants that numba folds in.
(CHARACTERS, WORDS, LETTERS, CHINESE_CHARACTERS, DIGITS, SYMBOLS, BROKEN_CHARACTERS, SPACED_WORDS,
 SPACED_WORD_CHARACTERS, ALPHABETIC_WORDS, LINES, BULLET_LINES, ELLIPSIS_LINES, WIDTH, DUPLICATE_LINE_WIDTH,
 DUPLICATE_NGRAM_WORDS, TOP_NGRAM_WORDS, REPEATED) = range(len(COUNTS))  # fmt: skip


@numba.njit(cache=True)
def _decode(data, at):
    """(code point, bytes it takes) of the UTF-8 character at `at`; Arrow's strings are valid UTF-8."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return ((first & 0x1F) << 6) | (data[at + 1] & 0x3F), 2
    if first < 0xF0:
        return ((first & 0x0F) << 12) | (np.int64(data[at + 1] & 0x3F) << 6) | (data[at + 2] & 0x3F), 3
    high = ((first & 0x07) << 18) | (np.int64(data[at + 1] & 0x3F) << 12)
    return high | (np.int64(data[at + 2] & 0x3F) << 6) | (data[at + 3] & 0x3F), 4


@numba.njit(cache=True)
def _kind(code, classes):
    if code < 0x10000:
        return np.int64(classes[code])
    if 0x20000 <= code < 0x40000:
        return CHINESE
    return SYMBOL if code < 0xF0000 else BROKEN  # emoji and rare scripts; private use


@numba.njit(cache=True)
def _cut_words(data, offsets, classes, counts, words, word_starts):
    """Fills the hashes of words, and the counts of words and characters."""
    num_words = 0
    for document in range(len(offsets) - 1):
        at, stop = offsets[document], offsets[document + 1]
        count = counts[document]
        word, word_size, word_letters = FNV_OFFSET, 0, 0
        run_of, run = -1, 0
        while at <= stop:
            code, size = _decode(data, at) if at < stop else (10, 1)  # a text ends like a line
            at += size
            kind = _kind(code, classes)
            spoken = kind in (LETTER, DIGIT)
            # A blank, a Chinese character or a full-width sign ends the word before it.
            if kind in (SPACE, CHINESE) or (code >= WIDE_FROM and not spoken):
                if word_size:
                    words[num_words] = word
                    num_words += 1
                    count[SPACED_WORDS] += 1
                    count[SPACED_WORD_CHARACTERS] += word_size
                    count[ALPHABETIC_WORDS] += word_letters > 0
                word, word_size, word_letters = FNV_OFFSET, 0, 0
            if kind == SPACE:
                continue
            count[CHARACTERS] += 1
            run = run + 1 if code == run_of else 1
            run_of = code
            if spoken:
                low = code + 32 if 65 <= code <= 90 else code
                word = (word ^ np.uint64(low)) * FNV_PRIME
                word_size += 1
                word_letters += kind == LETTER
                count[LETTERS if kind == LETTER else DIGITS] += 1
            elif kind == CHINESE:
                words[num_words] = (FNV_OFFSET ^ np.uint64(code)) * FNV_PRIME
                num_words += 1
                count[CHINESE_CHARACTERS] += 1
                count[ALPHABETIC_WORDS] += 1
            count[SYMBOLS] += kind == SYMBOL
            count[BROKEN_CHARACTERS] += kind == BROKEN
            if (spoken or kind == CHINESE) and run >= RUN_CHARACTERS:
                count[REPEATED] += RUN_CHARACTERS if run == RUN_CHARACTERS else 1
        word_starts[document + 1] = num_words
        count[WORDS] = num_words - word_starts[document]


@numba.njit(cache=True)
def _cut_lines(data, offsets, classes, bullets, counts, lines, widths, rulers, line_starts):
    """Fills the hashes and widths of lines that are not blank, and the counts of lines."""
    num_lines = 0
    for document in range(len(offsets) - 1):
        at, stop = offsets[document], offsets[document + 1]
        count = counts[document]
        line, width, spoken, bullet, dots = FNV_OFFSET, 0, False, False, 0
        while at <= stop:
            code, size = _decode(data, at) if at < stop else (10, 1)
            at += size
            if code == 10:
                if width:
                    lines[num_lines], widths[num_lines], rulers[num_lines] = line, width, not spoken
                    num_lines += 1
                count[WIDTH] += width
                count[LINES] += spoken
                count[BULLET_LINES] += spoken and bullet
                count[ELLIPSIS_LINES] += spoken and dots >= 3
                line, width, spoken, bullet, dots = FNV_OFFSET, 0, False, False, 0
                continue
            kind = _kind(code, classes)
            if kind == SPACE:
                continue
            if width == 0:
                bullet = code < 0x10000 and bullets[code] == 1
            spoken |= kind in (LETTER, DIGIT, CHINESE)
            dots = dots + 1 if code == 46 else (3 if code == 0x2026 else 0)
            line = (line ^ np.uint64(code)) * FNV_PRIME
            width += 2 if code >= WIDE_FROM else 1
        line_starts[document + 1] = num_lines


@numba.njit(cache=True)
def _slot(keys, stamps, stamp, key):
    """(place of a key in an open-addressing table, whether it was there). A table is emptied by a new stamp."""
    mask = len(keys) - 1
    place = np.int64((key * MIX) >> np.uint64(32)) & mask
    while stamps[place] == stamp and keys[place] != key:
        place = (place + 1) & mask
    found = stamps[place] == stamp
    keys[place], stamps[place] = key, stamp
    return place, found


@numba.njit(cache=True)
def _repetition(words, word_starts, lines, widths, rulers, line_starts, counts):
    """Fills what of each document stands in it more than once."""
    largest = max(np.diff(word_starts).max(), np.diff(line_starts).max())
    room = 16
    while room < 2 * largest:
        room *= 2
    keys, stamps, seen = np.zeros(room, np.uint64), np.full(room, -1, np.int64), np.zeros(room, np.int64)
    for document in range(len(counts)):
        own = words[word_starts[document] : word_starts[document + 1]]
        count = counts[document]
        for place in range(line_starts[document], line_starts[document + 1]):
            if not rulers[place] and _slot(keys, stamps, 3 * document, lines[place])[1]:
                count[DUPLICATE_LINE_WIDTH] += widths[place]
        script = 1 if 2 * count[CHINESE_CHARACTERS] > len(own) else 0
        length = NGRAM[script]
        covered = 0  # words before this place are counted already
        for first in range(len(own) - length + 1):
            if _slot(keys, stamps, 3 * document + 1, ngram(own, first, length))[1]:
                count[DUPLICATE_NGRAM_WORDS] += first + length - max(first, covered)
                covered = first + length
        length, most = TOP_NGRAM[script], 1
        for first in range(len(own) - length + 1):
            place, found = _slot(keys, stamps, 3 * document + 2, ngram(own, first, length))
            seen[place] = seen[place] + 1 if found else 1
            most = max(most, seen[place])
        if most > 1:
            count[TOP_NGRAM_WORDS] = min(most * length, len(own))


@numba.njit(cache=True)
def ngram(words, first, length):
    """A hash of `length` words from `first` on, in their order."""
    mixed = FNV_OFFSET
    for place in range(first, first + length):
        mixed = (mixed ^ words[place]) * MIX
        mixed ^= mixed >> np.uint64(29)
    return mixed
