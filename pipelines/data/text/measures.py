"""Statistics of texts for filters, deduplication and decontamination, from the UTF-8 bytes of many texts in one pass.

    texts (Arrow) ──hash_texts──► words and lines as 64-bit hashes, counts of characters ──► Documents

A *word* is a Chinese character (or kana), or a run of anything else between blanks that has a letter or digit.
So Chinese and English texts are measured by the same rules. Words are compared without case and punctuation,
lines without blanks. Everything is compiled by numba: splitting words in Python costs a hundred times more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa

from pipelines.data.text.character_tables import (
    BROKEN,
    CHINESE,
    DIGIT,
    FNV_OFFSET,
    FNV_PRIME,
    LETTER,
    PUNCTUATION,
    SPACE,
    SYMBOL,
    character_tables,
    code_signs,
    english_words,
)

# (words, Chinese characters) of n-grams that prose hardly ever repeats, and of those that it may repeat now and then.
# Eight English words have as much content as thirteen Chinese characters.
NGRAM = (8, 13)
TOP_NGRAM = (4, 6)
MIN_RUN_CHARACTERS = 6  # "aaaaaa", "哈哈哈哈哈哈": from this length on a run counts as repeated
# Columns without blanks, a Chinese character taking two: 40 characters of English, 15 of Chinese. Unrelated texts may
# have shorter lines in common.
LONG_LINE_WIDTH = 30
WIDE_FROM = 0x2E80  # Chinese, Japanese and Korean characters and full-width signs take two columns
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplication by it is one to one, and spreads bits upwards

COUNTS = (
    "characters",  # all that is not blank
    "words",
    "letters",
    "chinese",
    "digits",
    "symbols",  # neither letters, digits nor punctuation
    "broken",  # U+FFFD and private-use characters: traces of a wrong decoding
    "spaced_words",  # words that are not Chinese characters
    "spaced_word_characters",  # letters and digits in them
    "alphabetic_words",  # words with a letter, Chinese characters among them
    "lines",  # with a letter or digit: neither blank lines nor rulers
    "bullet_lines",
    "ellipsis_lines",
    "width",  # columns of all that is not blank: a Chinese character takes two
    "duplicate_line_width",  # of lines that repeat an earlier line
    "duplicate_ngram_words",  # covered by n-grams of NGRAM words that repeat an earlier one
    "top_ngram_words",  # covered by the most frequent n-gram of TOP_NGRAM words
    "repeated_characters",  # letters and digits in runs of one character
    "japanese",  # kana, and characters of Japanese alone, among the Chinese characters
    "english_words",  # of the words, those that English alone has often
    "operators",  # symbols in ASCII, as code has them
    "code_lines",  # of `lines`, those that look like a line of code
)


@dataclass(frozen=True)
class HashedTexts:
    """Words and lines of many documents, one after the other; document d has [starts[d], starts[d + 1])."""

    counts: np.ndarray  # int64[documents, len(COUNTS)]
    words: np.ndarray  # uint64: the hash of each word
    word_starts: np.ndarray  # int64[documents + 1]
    lines: np.ndarray  # uint64: the hash of each line that is not blank
    line_widths: np.ndarray  # int32: columns of its characters without blanks
    line_starts: np.ndarray  # int64[documents + 1]

    def long_lines(self) -> pa.ListArray:
        """Returns the hashes of each document's long lines, for decontamination of held-out text."""
        long = self.line_widths >= LONG_LINE_WIDTH
        starts = np.concatenate([[0], np.cumsum(long)])[self.line_starts]
        return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(self.lines[long], pa.uint64()))


def hash_texts(texts: pa.Array, *, count_repetition: bool = True) -> HashedTexts:
    """Splits an Arrow array of strings, none of them null, into words and lines, and hashes them.

    count_repetition: whether what is repeated is counted, too; otherwise those of COUNTS are 0."""
    data, offsets = buffers(texts)
    # A word takes at least two bytes (a letter and a blank; a Chinese character three), and so does a line.
    capacity = len(data) // 2 + len(texts) + 1
    words, lines = np.empty(capacity, np.uint64), np.empty(capacity, np.uint64)
    widths = np.empty(capacity, np.int32)
    rulers = np.zeros(capacity, np.bool_)  # lines without a letter or digit, which tables may repeat
    counts = np.zeros((len(texts), len(COUNTS)), np.int64)
    word_starts, line_starts = np.zeros(len(texts) + 1, np.int64), np.zeros(len(texts) + 1, np.int64)
    classes, bullets, japanese = character_tables()
    if len(texts):
        _hash_words(data, offsets, classes, japanese, english_words(), counts, words, word_starts)
        _hash_lines(data, offsets, classes, bullets, code_signs(), counts, lines, widths, rulers, line_starts)
        if count_repetition:
            _count_repetition(words, word_starts, lines, widths, rulers, line_starts, counts)
    words, lines, widths = words[: word_starts[-1]], lines[: line_starts[-1]], widths[: line_starts[-1]]
    return HashedTexts(counts, words, word_starts, lines, widths, line_starts)


def are_blank(texts: pa.Array) -> np.ndarray:
    """Whether each text has no `characters`. bool[texts]."""
    return _are_blank(*buffers(texts), character_tables()[0])


def buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns (uint8 bytes, int64 offsets) of an Arrow array of strings, without copying the bytes."""
    texts = texts.cast(pa.large_string())
    _, offsets, data = texts.buffers()
    offsets = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(b"" if data is None else data, np.uint8), offsets  # both read-only: one type for numba


# Columns of a row of counts, as constants that numba folds in.
(CHARACTERS, WORDS, LETTERS, CHINESE_CHARACTERS, DIGITS, SYMBOLS, BROKEN_CHARACTERS, SPACED_WORDS,
 SPACED_WORD_CHARACTERS, ALPHABETIC_WORDS, LINES, BULLET_LINES, ELLIPSIS_LINES, WIDTH, DUPLICATE_LINE_WIDTH,
 DUPLICATE_NGRAM_WORDS, TOP_NGRAM_WORDS, REPEATED, JAPANESE_CHARACTERS, ENGLISH_WORD_COUNT, OPERATORS,
 CODE_LINES) = range(len(COUNTS))  # fmt: skip


@numba.njit(cache=True)
def decode(data: np.ndarray, position: int) -> tuple[int | np.int64, int]:
    """Returns (code point, number of bytes) of the UTF-8 character at `position`; Arrow's strings are valid UTF-8."""
    first = np.int64(data[position])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return ((first & 0x1F) << 6) | (data[position + 1] & 0x3F), 2
    if first < 0xF0:
        return ((first & 0x0F) << 12) | (np.int64(data[position + 1] & 0x3F) << 6) | (data[position + 2] & 0x3F), 3
    high = ((first & 0x07) << 18) | (np.int64(data[position + 1] & 0x3F) << 12)
    return high | (np.int64(data[position + 2] & 0x3F) << 6) | (data[position + 3] & 0x3F), 4


@numba.njit(cache=True)
def _character_class(code: int | np.int64, classes: np.ndarray) -> int | np.int64:
    """Returns the class of a code point, from the table `classes` for the Basic Multilingual Plane."""
    if code < 0x10000:
        return np.int64(classes[code])
    if 0x20000 <= code < 0x40000:
        return CHINESE
    return SYMBOL if code < 0xF0000 else BROKEN  # emoji and rare scripts; private use


@numba.njit(cache=True)
def _are_blank(data: np.ndarray, offsets: np.ndarray, classes: np.ndarray) -> np.ndarray:
    result = np.ones(len(offsets) - 1, np.bool_)
    for document in range(len(result)):
        position = offsets[document]
        while result[document] and position < offsets[document + 1]:
            code, size = decode(data, position)
            result[document] = _character_class(code, classes) == SPACE
            position += size
    return result


@numba.njit(cache=True)
def _hash_words(
    data: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    japanese: np.ndarray,
    english: np.ndarray,
    counts: np.ndarray,
    words: np.ndarray,
    word_starts: np.ndarray,
) -> None:
    """Fills `words` and `word_starts` with the hashes of words, and `counts` with those of words and characters."""
    num_words = 0
    for document in range(len(offsets) - 1):
        position, stop = offsets[document], offsets[document + 1]
        count = counts[document]
        word, word_size, word_letters = FNV_OFFSET, 0, 0
        characters = letters = digits = 0  # counted here, not in memory: nearly every character is one of these
        run_code, run = -1, 0
        while position <= stop:
            code, size = decode(data, position) if position < stop else (10, 1)  # a text ends like a line
            position += size
            kind = _character_class(code, classes)
            alphanumeric = kind in (LETTER, DIGIT)
            # A blank, a Chinese character or a full-width sign ends the word before it.
            if kind in (SPACE, CHINESE) or (code >= WIDE_FROM and not alphanumeric):
                if word_size:
                    words[num_words] = word
                    num_words += 1
                    count[SPACED_WORDS] += 1
                    count[SPACED_WORD_CHARACTERS] += word_size
                    count[ALPHABETIC_WORDS] += word_letters > 0
                    count[ENGLISH_WORD_COUNT] += english[word & np.uint64(len(english) - 1)] == word
                word, word_size, word_letters = FNV_OFFSET, 0, 0
            if kind == SPACE:
                continue
            characters += 1
            run, run_code = (run + 1 if code == run_code else 1), code
            if alphanumeric:
                low = code + 32 if 65 <= code <= 90 else code
                word = (word ^ np.uint64(low)) * FNV_PRIME
                word_size += 1
                word_letters += kind == LETTER
                letters += kind == LETTER
                digits += kind == DIGIT
            elif kind == CHINESE:
                words[num_words] = (FNV_OFFSET ^ np.uint64(code)) * FNV_PRIME
                num_words += 1
                count[CHINESE_CHARACTERS] += 1
                count[JAPANESE_CHARACTERS] += code < 0x10000 and japanese[code]
                count[ALPHABETIC_WORDS] += 1
            elif kind == SYMBOL:
                count[SYMBOLS] += 1
                count[OPERATORS] += code < 0x80
            elif kind == BROKEN:
                count[BROKEN_CHARACTERS] += 1
            if (alphanumeric or kind == CHINESE) and run >= MIN_RUN_CHARACTERS:
                count[REPEATED] += MIN_RUN_CHARACTERS if run == MIN_RUN_CHARACTERS else 1
        word_starts[document + 1] = num_words
        count[CHARACTERS], count[LETTERS], count[DIGITS] = characters, letters, digits
        count[WORDS] = num_words - word_starts[document]


@numba.njit(cache=True)
def _hash_lines(
    data: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    bullets: np.ndarray,
    code_signs: np.ndarray,
    counts: np.ndarray,
    lines: np.ndarray,
    widths: np.ndarray,
    rulers: np.ndarray,
    line_starts: np.ndarray,
) -> None:
    """Fills `lines`, `widths`, `rulers` and `line_starts` for lines that are not blank, and `counts` of lines."""
    num_lines = 0
    for document in range(len(offsets) - 1):
        position, stop = offsets[document], offsets[document + 1]
        count = counts[document]
        line, width, has_word, bullet, dots = FNV_OFFSET, 0, False, False, 0
        is_code, last = False, SPACE
        while position <= stop:
            code, size = decode(data, position) if position < stop else (10, 1)
            position += size
            if code == 10:
                if width:
                    lines[num_lines], widths[num_lines], rulers[num_lines] = line, width, not has_word
                    num_lines += 1
                count[WIDTH] += width
                count[LINES] += has_word
                count[BULLET_LINES] += has_word and bullet
                count[ELLIPSIS_LINES] += has_word and dots >= 3
                count[CODE_LINES] += has_word and is_code
                line, width, has_word, bullet, dots = FNV_OFFSET, 0, False, False, 0
                is_code, last = False, SPACE
                continue
            kind = _character_class(code, classes)
            # An operator anywhere, or a bracket directly after a name: f(x), a[1].
            if kind >= PUNCTUATION and code < 0x80:
                is_code |= code_signs[code] == 1 or (code_signs[code] == 2 and last in (LETTER, DIGIT))
            last = kind
            if kind == SPACE:
                continue
            if width == 0:
                bullet = code < 0x10000 and bullets[code] == 1
            has_word |= kind in (LETTER, DIGIT, CHINESE)
            dots = dots + 1 if code == 46 else (3 if code == 0x2026 else 0)
            line = (line ^ np.uint64(code)) * FNV_PRIME
            width += 2 if code >= WIDE_FROM else 1
        line_starts[document + 1] = num_lines


@numba.njit(cache=True)
def insert(keys: np.ndarray, stamps: np.ndarray, stamp: int, key: np.uint64) -> tuple[np.int64, bool]:
    """Inserts a key into an open-addressing hash table. Returns (its slot, whether it was already in the table).

    A slot is free unless it has the current stamp, so a new stamp empties the table."""
    mask = len(keys) - 1
    slot = np.int64((key * MIX) >> np.uint64(32)) & mask
    while stamps[slot] == stamp and keys[slot] != key:
        slot = (slot + 1) & mask
    existed = stamps[slot] == stamp
    keys[slot], stamps[slot] = key, stamp
    return slot, existed


@numba.njit(cache=True)
def _count_repetition(
    words: np.ndarray,
    word_starts: np.ndarray,
    lines: np.ndarray,
    widths: np.ndarray,
    rulers: np.ndarray,
    line_starts: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Fills `counts` of the lines and n-grams that occur more than once in a document."""
    largest = max(np.diff(word_starts).max(), np.diff(line_starts).max())
    capacity = 16
    while capacity < 2 * largest:
        capacity *= 2
    keys, stamps = np.zeros(capacity, np.uint64), np.full(capacity, -1, np.int64)
    occurrences = np.zeros(capacity, np.int64)
    for document in range(len(counts)):
        document_words = words[word_starts[document] : word_starts[document + 1]]
        num_words = len(document_words)
        count = counts[document]
        for line in range(line_starts[document], line_starts[document + 1]):
            if not rulers[line] and insert(keys, stamps, 3 * document, lines[line])[1]:
                count[DUPLICATE_LINE_WIDTH] += widths[line]
        script = 1 if 2 * count[CHINESE_CHARACTERS] > num_words else 0
        length = NGRAM[script]
        covered = 0  # words before this position are already counted
        for first in range(num_words - length + 1):
            if insert(keys, stamps, 3 * document + 1, ngram_hash(document_words, first, length))[1]:
                count[DUPLICATE_NGRAM_WORDS] += first + length - max(first, covered)
                covered = first + length
        length, max_occurrences = TOP_NGRAM[script], 1
        for first in range(num_words - length + 1):
            slot, existed = insert(keys, stamps, 3 * document + 2, ngram_hash(document_words, first, length))
            occurrences[slot] = occurrences[slot] + 1 if existed else 1
            max_occurrences = max(max_occurrences, occurrences[slot])
        if max_occurrences > 1:
            count[TOP_NGRAM_WORDS] = min(max_occurrences * length, num_words)


@numba.njit(cache=True)
def ngram_hash(words: np.ndarray, first: int, length: int) -> np.uint64:
    """Hashes `length` words from `first` on, in their order."""
    value = FNV_OFFSET
    for index in range(first, first + length):
        value = (value ^ words[index]) * MIX
        value ^= value >> np.uint64(29)
    return value
