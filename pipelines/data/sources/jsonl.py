"""JSON lines: one object on each line, plain or gzipped. Ranges of a large plain file are read in parallel."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from pydantic import Field

from pipelines.data.sources.files import RAW_CHARACTERS, RecordSource, type_name
from pipelines.data.sources.source import BadRow, Part, Row
from pipelines.errors import UserError

RANGE_BYTES = 16 << 20  # about a second of cleaning for one core: enough ranges for many, few enough to be cheap
GZIP_RATIO = 3  # typical compression of text


class Jsonl(RecordSource):
    """Rows from .jsonl, .ndjson and .jsonl.gz files."""

    kind: str = Field(default="jsonl", description="Kind of the source: JSON lines, one object on each line")
    suffixes: ClassVar = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")

    def parts(self) -> list[Part]:
        """Divides each plain file into ranges of whole lines; a gzipped file is one part, as it is read in order."""
        parts: list[Part] = []
        for file in self.files():
            for start, stop, line in _ranges(file):
                gzipped = file.suffix == ".gz"
                parts.append(
                    Part(
                        index=len(parts),
                        where=self.display_path(file),
                        group=file.name,
                        bytes=(stop - start) * (GZIP_RATIO if gzipped else 1),
                        args={"file": str(file), "start": start, "stop": stop, "line": line},
                    )
                )
        return parts

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Yields one row for each line that is not blank. Row numbers are the file's line numbers."""
        for number, line in lines(Path(part.args["file"]), part.args["start"], part.args["stop"], part.args["line"]):
            record = _parse(line)
            if isinstance(record, str):
                raw = line.decode(errors="replace")[:RAW_CHARACTERS]
                yield BadRow(row=number, problem=record, raw=raw)
            else:
                yield self.to_row(number, record)


def lines(file: Path, start: int, stop: int, line: int) -> Iterator[tuple[int, bytes]]:
    """Yields (number in the file, line) of each line that is not blank. Raises UserError if gzip data is damaged."""
    with _open(file) as stream:
        if file.suffix != ".gz":
            stream.seek(start)
        position = start
        try:
            for number, text in enumerate(stream, start=line):
                position += len(text)
                if number == 1:
                    text = text.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
                if text.strip():
                    yield number, text
                if file.suffix != ".gz" and position >= stop:
                    return
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{file}: damaged or not gzip ({error}); expected a complete .gz file") from None


def _open(file: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


def _parse(line: bytes) -> dict[str, Any] | str:
    """Returns the object on a line, or the problem with the line."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return f"not UTF-8 ({error.reason} at byte {error.start}); expected UTF-8 text"
    except ValueError as error:
        return f"not JSON ({error}); expected one object a line"
    except RecursionError:
        return "not JSON (nested too deeply); expected one object a line"
    return record if isinstance(record, dict) else f"the line holds {type_name(record)}; expected an object"


def _ranges(file: Path) -> Iterator[tuple[int, int, int]]:
    """Yields (first byte, byte after the last, number of the first line) of each range."""
    size = file.stat().st_size
    if file.suffix == ".gz" or size <= RANGE_BYTES:
        yield 0, size, 1
        return
    with file.open("rb") as stream:
        start, line = 0, 1
        while start < size:
            chunk = stream.read(RANGE_BYTES)
            chunk += stream.readline()  # a range ends with a line
            yield start, start + len(chunk), line
            start, line = start + len(chunk), line + chunk.count(b"\n")
