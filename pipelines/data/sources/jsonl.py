"""JSON lines: one object on each line, plain or compressed. Ranges of a large plain file are read in parallel.

A file of this kind may also be one JSON document, an array of objects: `json_documents` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import Field

from pipelines.data.sources import cells, encodings, json_documents, json_texts, streams
from pipelines.data.sources.cells import as_record
from pipelines.data.sources.encodings import BOM
from pipelines.data.sources.files import (
    MAX_ROW_BYTES,
    RAW_CHARACTERS,
    RecordSource,
    type_name,
    value_of,
)
from pipelines.data.sources.ranges import RangedSource
from pipelines.data.sources.record_formats import reads_alike
from pipelines.data.sources.source import TEXT_ROWS, BadRow, Part, Row, Texts
from pipelines.data.sources.unique_keys import TwoValues, UniqueKeysDecoder, decoder


class Jsonl(RangedSource, RecordSource):
    """Rows from .jsonl and .ndjson files."""

    kind: str = Field(default="jsonl", description="Kind of the source: JSON lines, one object on each line")
    suffixes: ClassVar = streams.with_compressed(".jsonl", ".ndjson")

    def is_divisible(self, file: Path) -> bool:
        return super().is_divisible(file) and not self.is_document(file)

    def read_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row | BadRow]:
        """Yields one row for each line that is not blank. Row numbers are the file's line numbers.

        Of a JSON document: one row for each object, numbered by its position."""
        encoding = self.text_encoding(file)
        if "start" not in args and self.is_document(file):
            yield from self._document_rows(file, encoding)
            return
        yield from cast("Iterator[Row | BadRow]", self._line_rows(file, args, encoding, None))

    def read_texts(self, part: Part) -> Iterator[Row | BadRow | Texts]:
        column = self.text if self.rows in TEXT_ROWS and len(self.required_columns()) == 1 else None
        plain = column is not None and column.isalnum() and column.isascii() and self.max_row_bytes >= MAX_ROW_BYTES
        return self._read(part, self._texts_of_piece) if plain else self.read(part)

    def _texts_of_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row | BadRow | Texts]:
        encoding = self.text_encoding(file)
        if "start" not in args and self.is_document(file):
            return self._document_rows(file, encoding)
        return self._line_rows(file, args, encoding, json_texts.Reader(self.text))

    def _line_rows(
        self, file: Path, args: dict[str, Any], encoding: str, texts: json_texts.Reader | None
    ) -> Iterator[Row | BadRow | Texts]:
        """Yields the rows of lines. texts: what reads many lines together, where all of them are as expected."""
        number = self.first_line(args) - 1
        unique_keys = self._decoder()
        with self.open_range(file, args, encoding) as stream:
            lines, single_bytes = streams.bounded_lines(stream, self.max_row_bytes), 0  # to be read line by line
            while True:
                if texts is not None and single_bytes <= 0:
                    together, single_bytes = texts.begin(stream.peek())
                    if together is not None:
                        stream.read(single_bytes)
                        yield Texts(number + 1, together)
                        number, single_bytes = number + len(together), 0
                        continue
                line, size = next(lines, (b"", 0))
                if not line or (stream.damage and not line.endswith(b"\n")):
                    break
                number, single_bytes = number + 1, single_bytes - size
                if line.startswith(BOM):  # of a file that was joined to others
                    line = line.removeprefix(BOM)
                if line.strip():
                    yield self._line_row(number, line, size, encoding, unique_keys)
            if stream.damage:
                yield BadRow(row=number + 1, problem=f"{stream.damage}; what follows line {number} is lost")

    def _decoder(self) -> UniqueKeysDecoder:
        """The decoder of rows, in which no key that is read has two values in one object."""
        if self.rows not in TEXT_ROWS:
            return UniqueKeysDecoder(None, self._reads_alike)
        columns = self.required_columns()
        return decoder(tuple(dict.fromkeys(key for column in columns for key in (column, *column.split(".")))))

    def _reads_alike(self, one: Any, other: Any) -> bool:
        """Whether two JSON values are rows that differ in nothing that is read."""
        rows = [record for value in (one, other) if (record := as_record(value)) is not None]
        if len(rows) < 2 or any(value_of(rows[0], name) != value_of(rows[1], name) for name in self.required_columns()):
            return False
        first, second = (cells.renamed(record, self.columns) if self.columns else record for record in rows)
        return reads_alike(first, second, self.rows)

    def _line_row(self, number: int, line: bytes, size: int, encoding: str, decoder: UniqueKeysDecoder) -> Row | BadRow:
        record = self.too_long(size) if size > self.max_row_bytes else _parse(line, encoding, decoder)
        if isinstance(record, str):
            return BadRow(row=number, problem=record, raw=line.decode(errors="replace")[:RAW_CHARACTERS])
        return self.to_row(number, record)

    def names_beside_rows(self, file: Path) -> list[str]:
        """What a JSON document holds beside its rows, by name. Raises FileProblem for data that is not text."""
        if not self.is_document(file):
            return []
        with streams.open_utf8(file, self.text_encoding(file)) as stream:
            return json_documents.names_beside_rows(stream, self.max_row_bytes)

    def is_document(self, file: Path) -> bool:
        """Whether a file is one JSON document. Raises FileProblem for data that is not text."""
        with streams.open_utf8(file, self.text_encoding(file)) as stream:
            lines = file.name.lower().endswith(Jsonl.suffixes)
            return json_documents.is_document(stream, lines_expected=lines)

    def _document_rows(self, file: Path, encoding: str) -> Iterator[Row | BadRow]:
        with streams.open_utf8(file, encoding) as stream:
            number = 0
            prompts = self.rows == "prompts"  # of an evaluation set all is what no training text may have
            values = json_documents.values(stream, self.max_row_bytes, self._decoder(), all_lists=prompts)
            for number, value in enumerate(values, 1):
                record = as_record(value)
                if record is not None:
                    yield self.to_row(number, record)
                elif isinstance(value, json_documents.Damaged) and not stream.damage:
                    raw = value.raw[:RAW_CHARACTERS]
                    yield BadRow(row=number, problem=value.problem, raw=raw, reason=value.reason)
                elif not isinstance(value, json_documents.Damaged):
                    problem = f"the array holds {type_name(value)}; expected objects"
                    yield BadRow(row=number, problem=problem, raw=str(value)[:RAW_CHARACTERS])
            if stream.damage:
                yield BadRow(row=number + 1, problem=f"{stream.damage}; what follows row {number} is lost")


def _parse(line: bytes, encoding: str, decoder: UniqueKeysDecoder) -> dict[str, Any] | str:
    """Returns the object on a line, or the problem with the line. A comma may follow the object, as in a list."""
    try:
        text = line.decode()
        try:
            value = decoder.decode(text)
        except json.JSONDecodeError:
            if not text.rstrip().endswith(("},", "],")):
                raise
            value = decoder.decode(text.rstrip()[:-1])
    except UnicodeDecodeError as error:
        return encodings.not_in(encoding, f"{error.reason} at byte {error.start}")
    except TwoValues as error:
        return str(error)
    except ValueError as error:
        return f"not JSON ({error}); expected one object a line"
    except RecursionError:
        return "not JSON (nested too deeply); expected one object a line"
    record = as_record(value)
    return record if record is not None else f"the line holds {type_name(value)}; expected an object"
