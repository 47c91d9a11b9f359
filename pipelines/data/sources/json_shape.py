"""One look at the bytes of many JSON lines, for what `json_texts` has to know of them before they are parsed together.

whole lines ──one pass──► number of lines, doubts
"""

from __future__ import annotations

import functools

import numba
import numpy as np

UNEXPECTED, HAS_ESCAPE, HAS_INFINITY = 1, 2, 4  # doubts, added up
FEED, QUOTE, MINUS, LETTER_I, LETTER_N, BRACKET, BACKSLASH, BRACE, END = b'\n"-IN[\\{}'


def look(lines: bytes, key: bytes, max_open: int) -> tuple[int, int]:
    """Returns (number of lines, doubts).

    UNEXPECTED: a line is no object by its first and last sign, or has over max_open brackets; there are not as many of
    the key, in quotes, as lines; or there is -NaN. HAS_ESCAPE, HAS_INFINITY: there is \\u00, or Inf."""
    signs, of_key = np.frombuffer(lines, np.uint8), np.frombuffer(b'"%s"' % key, np.uint8)
    is_object = lines.startswith(b"{") and lines.endswith(b"}\n")
    return _look(signs, of_key, _looked_at(), max_open) if is_object else (0, UNEXPECTED)


@functools.cache
def _looked_at() -> np.ndarray:
    """bool[256]: the bytes at which `_look` stops."""
    table = np.zeros(256, np.bool_)
    table[[FEED, QUOTE, LETTER_I, LETTER_N, BRACKET, BACKSLASH, BRACE]] = True
    return table


@numba.njit(cache=True)
def _look(lines: np.ndarray, key: np.ndarray, looked_at: np.ndarray, max_open: int) -> tuple[int, int]:
    num_lines = num_keys = num_open = doubts = position = 0
    while position < len(lines):
        while not looked_at[lines[position]]:  # the last byte is a line feed
            position += 1
        sign = lines[position]
        if sign == QUOTE:
            num_keys += _has(lines, position, key)
        elif sign == FEED:
            num_lines, num_open = num_lines + 1, 0
            if lines[position - 1] != END or (position + 1 < len(lines) and lines[position + 1] != BRACE):
                doubts |= UNEXPECTED
        elif sign in (BRACE, BRACKET):
            num_open += 1
            if num_open > max_open:
                doubts |= UNEXPECTED
        elif position + 3 < len(lines):
            second, third, fourth = lines[position + 1], lines[position + 2], lines[position + 3]
            if sign == BACKSLASH and second == ord("u") and third == ord("0") and fourth == ord("0"):
                doubts |= HAS_ESCAPE
            elif sign == LETTER_I and second == ord("n") and third == ord("f"):
                doubts |= HAS_INFINITY
            elif (
                sign == LETTER_N
                and second == ord("a")
                and third == LETTER_N
                and position
                and lines[position - 1] == MINUS
            ):
                doubts |= UNEXPECTED
        position += 1
    return num_lines, doubts if num_keys == num_lines else doubts | UNEXPECTED


@numba.njit(cache=True)
def _has(lines: np.ndarray, position: int, word: np.ndarray) -> bool:
    """Whether a word stands at a place."""
    place = 0
    while place < len(word) and position + place < len(lines) and lines[position + place] == word[place]:
        place += 1
    return place == len(word)
