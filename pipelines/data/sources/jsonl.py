"""JSON lines: one object a line, plain or gzipped. A large plain file is cut into ranges that are read in parallel."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from pipelines.data.sources.files import RAW_CHARACTERS, RecordSource, type_name
from pipelines.data.sources.source import BadRow, Part, Row
from pipelines.errors import UserError

RANGE_BYTES = 16 << 20  # about a second of cleaning for one core: enough ranges for many, few enough to be cheap
GZIP_RATIO = 3  # text shrinks about threefold


class Jsonl(RecordSource):
    """Rows from .jsonl, .ndjson and .jsonl.gz files."""

    kind: str = "jsonl"
    suffixes: ClassVar = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")

    def parts(self) -> list[Part]:
        """Ranges of whole lines of each plain file; a gzipped file is one part, for it can only be read in order."""
        parts: list[Part] = []
        for file in self.files():
            for start, stop, line in _ranges(file):
                zipped = file.suffix == ".gz"
                parts.append(
                    Part(
                        index=len(parts),
                        where=self.shown(file),
                        group=file.name,
                        bytes=(stop - start) * (GZIP_RATIO if zipped else 1),
                        args={"file": str(file), "start": start, "stop": stop, "line": line},
                    )
                )
        return parts

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """One row a line; blank lines are passed over. Row numbers are the file's line numbers."""
        for number, line in lines(Path(part.args["file"]), part.args["start"], part.args["stop"], part.args["line"]):
            record = _parse(line)
            if isinstance(record, str):
                raw = line.decode(errors="replace")[:RAW_CHARACTERS]
                yield BadRow(row=number, problem=record, raw=raw)
            else:
                yield self.row(number, record)


def lines(file: Path, start: int, stop: int, line: int) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers in the file. Raises UserError if gzip data is damaged."""
    with _opened(file) as stream:
        if file.suffix != ".gz":
            stream.seek(start)
        at = start
        try:
            for number, text in enumerate(stream, start=line):
                at += len(text)
                if number == 1:
                    text = text.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
                if text.strip():
                    yield number, text
                if file.suffix != ".gz" and at >= stop:
                    return
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{file}: damaged or not gzip ({error}); expected a whole .gz file") from None


def _opened(file: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


def _parse(line: bytes) -> dict[str, Any] | str:
    """The object a line holds, or what is wrong with the line."""
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
    """(first byte, byte after the last, number of the first line) of each range."""
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
