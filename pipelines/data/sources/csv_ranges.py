"""Where the records of a table's ranges begin and end, of which a quoted cell may reach from one into the next.

    range ──look, in a task──► what it is if it begins within quotes, and if not ──places──► the lines that are its own

Whether a range begins within quotes, the ranges before it say. A record belongs to the range in which it begins. From
the range on in which a record begins that is none of a table (its quotes are not closed properly), all is read in one
piece, as it is where nothing is divided: what such a record swallows depends on what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from pipelines.data.sources.streams import BUFFER_BYTES, Utf8Stream

MAX_LINES = 1 << 20  # of a record: each takes some 60 bytes of memory besides its characters


class Run(NamedTuple):
    """What a range is if it begins within quotes, or if it does not."""

    num_lines: int
    is_open: bool  # whether a record goes on beyond it
    open_bytes: int  # of that record, and
    open_lines: int  # within the range
    first_lines: int  # to the end of the first record; -1: it does not end in the range
    first_bytes: int
    problem: int  # 1 in the first record, 2 in a later one; 0: none. The figures end there

    @classmethod
    def of(cls, known: Sequence[int]) -> Self:
        """known: as of `csv_shape.Scan`."""
        state, _, lines, begun, size, first, first_size, problem = map(int, known)
        return cls(lines, size > 0 or state != 0, size, lines - begun, first, first_size, problem)


class Place(NamedTuple):
    """What of a table belongs to a range."""

    first_line: int  # the number of the range's first line
    skipped: int  # lines at its beginning that belong to a record before
    last_line: int | None  # the number of the last one; None: that of the file
    last_range: int  # in which that line stands
    is_empty: bool = False

    @property
    def args(self) -> dict[str, Any]:
        """What the range's part says of it beside its first line and its end, of each as little as it can."""
        others = {name: value for name in ("skipped", "is_empty") if (value := getattr(self, name))}
        return {"last_line": self.last_line, **others}


def look(stream: Utf8Stream, delimiter: str, *, has_quotes: bool, max_bytes: int) -> list[Run]:
    """What a range is if it does not begin within quotes, and if it does."""
    from pipelines.data.sources.csv_shape import Scan  # compiled

    scan = Scan(ord(delimiter), has_quotes=has_quotes, max_bytes=max_bytes, max_lines=MAX_LINES)
    while block := stream.read(BUFFER_BYTES):
        scan.add(block)
    return [Run.of(known) for known in (scan.closed.tolist(), scan.open.tolist())]


def places(looks: Sequence[Sequence[Sequence[Any]]], max_bytes: int) -> list[Place]:
    """What of a table belongs to each of its ranges; looks: of `look`, in their order."""
    begins, last = _begins([(Run(*closed), Run(*opened)) for closed, opened in looks], max_bytes)
    found: list[Place] = []
    last_line, last_range = None, len(looks) - 1
    for number in reversed(range(len(looks))):
        begin = begins[number] if number <= last else None
        if begin is None:
            found.append(Place(1, 0, 0, number, is_empty=True))
            continue
        first_line, skipped = begin
        found.append(Place(first_line, skipped, last_line, last_range))
        last_line, last_range = first_line + skipped - 1, number if skipped else number - 1
    return found[::-1]


def _begins(looks: Sequence[tuple[Run, Run]], max_bytes: int) -> tuple[list[tuple[int, int] | None], int]:
    """(number of the first line, lines before the first record) of each range, None of one in which none begins; and
    the last range that has records of its own, with all that follows."""
    begins: list[tuple[int, int] | None] = []
    line, begun, begun_bytes, begun_lines = 1, -1, 0, 0  # the range where the open record begins, -1: there is none
    for number, (closed, opened) in enumerate(looks):
        run = opened if begun >= 0 else closed
        if begun >= 0:
            begun_bytes += run.first_bytes if run.first_lines >= 0 else run.open_bytes
            begun_lines += run.first_lines if run.first_lines >= 0 else run.open_lines
            if run.problem == 1 or begun_bytes > max_bytes or begun_lines >= MAX_LINES:
                return begins, begun
        is_within = begun >= 0 and run.first_lines < 0
        begins.append(None if is_within else (line, run.first_lines if begun >= 0 else 0))
        line += run.num_lines
        if is_within:
            continue
        if run.problem:
            return begins, number
        begun, begun_bytes, begun_lines = (number, run.open_bytes, run.open_lines) if run.is_open else (-1, 0, 0)
    return begins, begun if begun >= 0 else len(looks) - 1
