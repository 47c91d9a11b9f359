"""Counts of the lines and signs of many texts at once, as the published filters have them, from their UTF-8 bytes.

    texts (Arrow), places of some of them ──one pass──► a row of counts for each

Lines and paragraphs are compared by 64-bit hashes of their bytes.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
import pyarrow as pa

from pipelines.data.text.character_tables import FNV_OFFSET, FNV_PRIME
from pipelines.data.text.measures import buffers, decode, insert
from pipelines.data.text.web_table import BLANK, LINE, class_of, classes
from pipelines.data.text.web_words import TERMINAL_SIGNS

NEWLINE, SPACE, BULLET, DASH, DOT, HASH, ELLIPSIS = 0x0A, 0x20, 0x2022, 0x2D, 0x2E, 0x23, 0x2026
PLAIN_SIGN, PLAIN_SPACE = 1, 2


def repeated_pieces(texts: pa.Array, rows: np.ndarray) -> np.ndarray:
    """int64[rows, 6]: paragraphs, those that repeat an earlier one, characters of these; the same of lines.

    Paragraphs are divided by empty lines, and lines by any number of line feeds."""
    data, offsets = buffers(texts)
    return _repeated_pieces(data, offsets, rows, *_line_feeds(data, offsets, rows))


def signs_and_lines(texts: pa.Array, rows: np.ndarray) -> np.ndarray:
    """int64[rows, 5]: signs #; ellipses; lines, as str.splitlines has them; those that begin with a bullet; those that
    end in an ellipsis."""
    return _signs_and_lines(*buffers(texts), rows, classes(), _plain_bytes())


def line_shapes(texts: pa.Array, rows: np.ndarray, short_characters: int) -> np.ndarray:
    """int64[rows, 5]: line feeds; lines between them that are not blank; those that end in a terminal sign; those of so
    many characters at most; characters of those that repeat an earlier one."""
    data, offsets = buffers(texts)
    _, feed_bounds_R2 = _line_feeds(data, offsets, rows)
    return _line_shapes(data, offsets, rows, feed_bounds_R2, classes(), _terminal_signs(), short_characters)


def filled_lines(texts: pa.Array) -> np.ndarray:
    """int64[texts]: lines, as str.splitlines has them, that are not blank."""
    return _filled_lines(*buffers(texts), classes())


def joined_by_spaces(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(uint8: of all texts what stands between blanks, joined by single spaces; int64[texts]: where each ends)."""
    return _joined_by_spaces(*buffers(texts), classes())


def _line_feeds(data: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where line feeds are in all texts; int64[rows, 2]: of these the first in each text, and the one after its last).

    By columns: a look at the bytes one by one takes more time than all that is done with the line feeds."""
    feeds_F = np.flatnonzero(data[: offsets[-1]] == NEWLINE)
    ends = np.searchsorted(feeds_F, offsets)
    return feeds_F, np.stack([ends[rows], ends[rows + 1]], axis=1)


@functools.cache
def _plain_bytes() -> np.ndarray:
    """uint8[256]: PLAIN_SIGN for the signs of ASCII of which nothing is counted, PLAIN_SPACE for a space, else 0."""
    table = np.zeros(256, np.uint8)
    table[0x21:0x7F] = PLAIN_SIGN
    table[[DASH, DOT, HASH]] = 0
    table[SPACE] = PLAIN_SPACE
    return table


@functools.cache
def _terminal_signs() -> np.ndarray:
    """uint8[65536]: 1 for TERMINAL_SIGNS."""
    table = np.zeros(0x10000, np.uint8)
    table[[ord(sign) for sign in TERMINAL_SIGNS]] = 1
    return table


@numba.njit(cache=True)
def _tables(feed_bounds_R2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(slots for the pieces of each text, keys, stamps): a hash table for the text with the most, all slots free."""
    sizes = np.full(len(feed_bounds_R2), 16, np.int64)
    for number in range(len(sizes)):
        while sizes[number] < 2 * (feed_bounds_R2[number, 1] - feed_bounds_R2[number, 0] + 1):
            sizes[number] *= 2
    capacity = sizes.max() if len(sizes) else 0
    return sizes, np.empty(capacity, np.uint64), np.full(capacity, -1, np.int64)


@numba.njit(cache=True)
def _repeated_pieces(
    data: np.ndarray, offsets: np.ndarray, rows: np.ndarray, feeds_F: np.ndarray, feed_bounds_R2: np.ndarray
) -> np.ndarray:
    counts = np.zeros((len(rows), 6), np.int64)
    sizes, keys, stamps = _tables(feed_bounds_R2)
    bounds = np.empty((len(keys), 2), np.int64)
    for number in range(len(rows)):
        start, stop, size = int(offsets[rows[number]]), int(offsets[rows[number] + 1]), sizes[number]
        feeds = feeds_F[feed_bounds_R2[number, 0] : feed_bounds_R2[number, 1]]
        for first, min_feeds in ((0, 2), (3, 1)):  # of paragraphs, of lines
            pieces = bounds[: _fill_pieces(feeds, start, stop, min_feeds, bounds)]
            counts[number, first] = len(pieces)
            stamp = 4 * number + 2 * (first // 3)
            if len(pieces) == 1 or _are_unlike(data, pieces, keys[:size], stamps[:size], stamp):
                continue
            for begin, end in pieces:
                value, characters = FNV_OFFSET, 0
                for position in range(begin, end):
                    value = (value ^ np.uint64(data[position])) * FNV_PRIME
                    characters += data[position] & 0xC0 != 0x80
                if insert(keys[:size], stamps[:size], stamp + 1, value)[1]:
                    counts[number, first + 1] += 1
                    counts[number, first + 2] += characters
    return counts


@numba.njit(cache=True)
def _fill_pieces(feeds: np.ndarray, start: int, stop: int, min_feeds: int, bounds: np.ndarray) -> int:
    """Fills in (first byte, end) of each piece of a text: what so many line feeds divide that follow each other, or
    more. Returns their number."""
    number, begin, place = 0, start, 0
    while place < len(feeds):
        end, run = feeds[place], 1
        while place + run < len(feeds) and feeds[place + run] == end + run:
            run += 1
        place += run
        if run >= min_feeds:
            bounds[number, 0], bounds[number, 1] = begin, end
            number, begin = number + 1, end + run
    bounds[number, 0], bounds[number, 1] = begin, stop
    return number + 1


@numba.njit(cache=True)
def _are_unlike(data: np.ndarray, pieces: np.ndarray, keys: np.ndarray, stamps: np.ndarray, stamp: int) -> bool:
    """Whether all pieces differ in their sizes, or in two bytes at their middles and ends; those that do not are to be
    compared as a whole. Few texts have such pieces."""
    for begin, end in pieces:
        size = end - begin
        key = np.uint64(size)
        if size:
            for place in (begin, begin + size // 2, end - 2 if size > 1 else begin, end - 1):
                key = (key << np.uint64(8)) | np.uint64(data[place])
        if insert(keys, stamps, stamp, key)[1]:
            return False
    return True


@numba.njit(cache=True)
def _signs_and_lines(
    data: np.ndarray, offsets: np.ndarray, rows: np.ndarray, classes: np.ndarray, plain: np.ndarray
) -> np.ndarray:
    counts = np.zeros((len(rows), 5), np.int64)
    for number in range(len(rows)):
        position, stop = int(offsets[rows[number]]), int(offsets[rows[number] + 1])
        count = counts[number]
        dots = line_dots = 0  # that end here: in the text; in the line, whatever blanks follow them
        is_open, is_blank, last = False, True, 0
        while position < stop:
            seen = 0
            while position < stop and plain[data[position]]:  # nearly all of English: none of it counts
                seen |= plain[data[position]]
                position += 1
            if seen:
                dots, is_open, last = 0, True, SPACE
                if seen & PLAIN_SIGN:
                    line_dots, is_blank = 0, False
                continue
            code, size = decode(data, position)
            position += size
            kind = class_of(code, classes)
            dots = dots + 1 if code == DOT else 0
            count[0] += code == HASH
            count[1] += (dots > 0 and dots % 3 == 0) or code == ELLIPSIS
            if kind & LINE:
                if code != NEWLINE or last != 0x0D:  # not the second half of \r\n
                    count[2] += 1
                    count[4] += line_dots >= 3
                line_dots, is_open, is_blank = 0, False, True
            elif kind & BLANK:
                is_open = True
            else:
                count[3] += is_blank and code in (BULLET, DASH)
                line_dots = 3 if code == ELLIPSIS else 0 if code != DOT else line_dots + 1 if last == DOT else 1
                is_open, is_blank = True, False
            last = code
        if is_open:
            count[2] += 1
            count[4] += line_dots >= 3
    return counts


@numba.njit(cache=True)
def _line_shapes(
    data: np.ndarray,
    offsets: np.ndarray,
    rows: np.ndarray,
    feed_bounds_R2: np.ndarray,
    classes: np.ndarray,
    terminal: np.ndarray,
    short_characters: int,
) -> np.ndarray:
    counts = np.zeros((len(rows), 5), np.int64)
    sizes, keys, stamps = _tables(feed_bounds_R2)
    for number in range(len(rows)):
        position, stop, size = int(offsets[rows[number]]), int(offsets[rows[number] + 1]), sizes[number]
        count = counts[number]
        value, characters, is_blank, last = FNV_OFFSET, 0, True, 0
        while position <= stop:
            code, width = decode(data, position) if position < stop else (NEWLINE, 1)
            count[0] += code == NEWLINE and position < stop
            position += width
            if code != NEWLINE:
                value = (value ^ np.uint64(code)) * FNV_PRIME
                characters += 1
                is_blank = is_blank and class_of(code, classes) & BLANK != 0
                last = code
                continue
            if not is_blank:
                count[1] += 1
                count[2] += last < 0x10000 and terminal[last] == 1
                count[3] += characters <= short_characters
                if insert(keys[:size], stamps[:size], number, value)[1]:
                    count[4] += characters
            value, characters, is_blank, last = FNV_OFFSET, 0, True, 0
    return counts


@numba.njit(cache=True)
def _filled_lines(data: np.ndarray, offsets: np.ndarray, classes: np.ndarray) -> np.ndarray:
    counts = np.zeros(len(offsets) - 1, np.int64)
    for number in range(len(counts)):
        position, stop, is_filled = offsets[number], offsets[number + 1], False
        while position < stop:
            code, size = decode(data, position)
            position += size
            kind = class_of(code, classes)
            if kind & LINE:
                counts[number] += is_filled
                is_filled = False
            elif not kind & BLANK:
                is_filled = True
        counts[number] += is_filled
    return counts


@numba.njit(cache=True)
def _joined_by_spaces(data: np.ndarray, offsets: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    joined, size = np.empty(offsets[-1] - offsets[0], np.uint8), 0
    ends = np.zeros(len(offsets) - 1, np.int64)
    for number in range(len(ends)):
        position, stop = offsets[number], offsets[number + 1]
        begin, is_after_blank = size, False
        while position < stop:
            code, width = decode(data, position)
            if class_of(code, classes) & BLANK:
                is_after_blank = size > begin
            else:
                if is_after_blank:
                    joined[size] = SPACE
                    size, is_after_blank = size + 1, False
                for byte in range(position, position + width):
                    joined[size] = data[byte]
                    size += 1
            position += width
        ends[number] = size
    return joined[:size], ends
