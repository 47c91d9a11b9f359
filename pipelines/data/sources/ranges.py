"""Ranges of large plain text files, each read by a task of its own. A range ends where a row ends.

    file ──cut at ends of rows──► parts ──count_rows, in tasks──► parts with the numbers of their first lines ──► rows

What is read of all ranges together is what is read of the file in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr

from pipelines.data.sources import encodings, streams
from pipelines.data.sources.files import FileProblem, TextFileSource
from pipelines.data.sources.source import Part

BLOCK_BYTES = 1 << 20  # read at a time
STEP_BYTES = 1 << 18  # between places of a file before which the lines are counted while it is hashed
RANGE_BYTES = 16 << 20  # about a second of cleaning for one core: enough ranges for many, few enough to be cheap


class RangedSource(TextFileSource):
    """A source of text files of which the large ones are read in ranges."""

    _counted: tuple[Path, int, int] = PrivateAttr(default=(Path(), 0, 1))  # file, byte, number of the line there

    _copies: Mapping[str, str] = PrivateAttr(default={})  # of compressed files, decompressed

    def with_copies(self, copies: Mapping[str, str]) -> Self:
        """A copy of the source that reads ranges of decompressed copies of these compressed files."""
        source = self.model_copy()
        source._copies = copies
        return source

    def is_divisible(self, file: Path) -> bool:
        """Whether ranges of a file, decompressed, can be read by themselves. Raises FileProblem for data that is not
        text."""
        return encodings.lines_stand_alone(self.text_encoding(file))

    def reads_ranges(self, file: Path) -> bool:
        """Whether ranges of a file, decompressed, can be read by themselves."""
        try:
            return self.is_divisible(file)
        except FileProblem:  # its reader reports it
            return False

    def ends_range(self, line: bytes) -> bool:
        """Whether a row ends with this line of a file, of which nothing but the end is known where it is empty."""
        return True

    def pieces(self, file: Path) -> Iterator[dict[str, Any]]:
        """Divides a large plain file into ranges of whole rows; any other file is one piece, read in order."""
        data = Path(self._copies.get(str(file), file))
        size = data.stat().st_size
        if size <= RANGE_BYTES or streams.is_compressed(data) or not self.is_divisible(file):
            yield from super().pieces(file)
            return
        copy = {} if data == file else {"copy": str(data)}
        for start, stop in _ranges(data, size, self.ends_range):
            args = {"start": start, "stop": stop, "end": size, **copy}
            yield {"bytes": stop - start, "first_row": None if start else 1, **args}

    def has_lines(self, file: Path) -> bool:
        """By size and name alone; `pieces` may still find that the file is read in one piece."""
        return not streams.is_compressed(file) and file.stat().st_size > RANGE_BYTES

    def count_rows(self, part: Part, lines_before: Sequence[int] = ()) -> Any:
        """Counts the lines that end in a range of a file, blank ones too; 0 for a whole file.

        With lines_before it reads at most a step before the range's end, and one before its begin where that is not the
        end of the range asked for last."""
        if "start" not in part.args:
            return 0
        file, start, stop = _data(part.args), part.args["start"], part.args["stop"]
        if not lines_before:
            return count_lines(file, start, stop)
        known_file, byte, line = self._counted
        before = line - 1 if (known_file, byte) == (file, start) else _lines_before(file, start, lines_before)
        after = _lines_before(file, stop, lines_before)
        self._counted = (file, stop, after + 1)
        return after - before

    def open_range(self, file: Path, args: dict[str, Any], encoding: str) -> streams.Utf8Stream:
        """Opens the range of a file that a part names, or all of the file."""
        if "start" not in args:
            return streams.open_utf8(file, encoding)
        stop = None if args["stop"] == args["end"] else args["stop"]
        return streams.open_utf8(_data(args), encoding, args["start"], stop)

    def first_line(self, args: dict[str, Any]) -> int:
        """The number of the first line of a range. Where nobody has counted those before it, it counts them."""
        if args["first_row"] is not None:
            return args["first_row"]
        file, start, (before, byte, line) = _data(args), args["start"], self._counted
        if before != file or byte > start:
            byte, line = 0, 1
        line += count_lines(file, byte, start)
        self._counted = (file, start, line)
        return line


def _data(args: Mapping[str, Any]) -> Path:
    """The file that has the bytes of a part."""
    return Path(args.get("copy", args["file"]))


def _ranges(file: Path, size: int, ends_range: Callable[[bytes], bool]) -> Iterator[tuple[int, int]]:
    """Yields (first byte, byte after the last) of each range."""
    with file.open("rb") as stream:
        start = 0
        while start < size:
            stream.seek(start + RANGE_BYTES - 1)
            is_begun = True  # the line that comes next
            while line := stream.readline(BLOCK_BYTES):
                is_whole, is_begun = not is_begun, not line.endswith(b"\n")
                if not is_begun and ends_range(line if is_whole else b""):
                    break
            stop = min(stream.tell(), size)
            yield start, stop
            start = stop


def _lines_before(file: Path, place: int, by_step: Sequence[int]) -> int:
    step = place // STEP_BYTES
    return by_step[step] + count_lines(file, step * STEP_BYTES, place)


def count_lines(file: Path, start: int, stop: int) -> int:
    """Counts the lines that end in a range of a file."""
    num_lines = 0
    with file.open("rb") as stream:
        stream.seek(start)
        while start < stop and (chunk := stream.read(min(BLOCK_BYTES, stop - start))):
            start += len(chunk)
            num_lines += chunk.count(b"\n")
    return num_lines
