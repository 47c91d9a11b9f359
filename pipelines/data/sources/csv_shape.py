"""One look at the bytes of a table, as `csv.reader` goes through its characters: where records end, what is no table.

The look begins at a line, of which it is not known whether it stands within quotes: it is looked at both ways.
"""

from __future__ import annotations

import numba
import numpy as np

BEGIN, CELL, QUOTED, AFTER_QUOTE = range(4)  # before a cell, within one, within quotes, after a quote within quotes
FEED, RETURN, QUOTE = b'\n\r"'
# What is known: the state, whether the byte before was a carriage return, lines so far and at the last record's end,
# bytes of the record that is not ended, lines and bytes to the first record's end (no lines yet: -1), the problem.
STATE, HAS_RETURN, LINES, BEGUN, SIZE, FIRST, FIRST_SIZE, PROBLEM = range(8)
IN_FIRST, IN_LATER = 1, 2  # the record with the problem


class Scan:
    """A look at consecutive bytes in UTF-8. delimiter: its byte; has_quotes: whether quotes enclose cells.

    A record of so many bytes or lines that csv may refuse it is a problem, too."""

    def __init__(self, delimiter: int, *, has_quotes: bool, max_bytes: int, max_lines: int) -> None:
        self.rules = delimiter, has_quotes, max_bytes, max_lines
        self.closed, self.open = (np.array([state, 0, 0, 0, 0, -1, 0, 0], np.int64) for state in (BEGIN, QUOTED))

    def add(self, data: bytes) -> None:
        for known in (self.closed, self.open):
            if not known[PROBLEM]:
                _scan(np.frombuffer(data, np.uint8), *self.rules, known)


@numba.njit(cache=True, nogil=True)
def _scan(
    data: np.ndarray, delimiter: int, has_quotes: bool, max_bytes: int, max_lines: int, known: np.ndarray
) -> None:
    state, has_return, lines, begun, size, first, first_size, problem = known
    for byte in data:
        if byte == FEED and has_return:  # of the same end of a line
            has_return = 0
            continue
        has_return = 0
        size += 1
        if byte in (FEED, RETURN):
            if byte == RETURN:
                has_return = 1
                size += 1
            lines += 1
            if state == QUOTED:
                problem = 1 if lines - begun >= max_lines else 0
            elif size <= max_bytes:
                if first < 0:
                    first, first_size = lines, size
                state, begun, size = BEGIN, lines, 0
        elif state == QUOTED:
            if byte == QUOTE:
                state = AFTER_QUOTE
        elif byte == delimiter:
            state = BEGIN
        elif byte == QUOTE and has_quotes and state != CELL:
            state = QUOTED
        elif state == AFTER_QUOTE:
            problem = 1
        else:
            state = CELL
        if problem or size > max_bytes:
            problem = IN_FIRST if first < 0 else IN_LATER
            break
    known[:] = state, has_return, lines, begun, size, first, first_size, problem
