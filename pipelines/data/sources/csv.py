"""Tables as text: .csv and .tsv files with a header line, in UTF-8."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pipelines.data.sources.files import RAW_CHARACTERS, RecordSource, encodable
from pipelines.data.sources.source import BadRow, Part, Row
from pipelines.errors import UserError

LARGEST_CELL = 1 << 30  # Python's csv stops at 128 KiB, and a cell may hold an article


class Csv(RecordSource):
    """Rows of .csv and .tsv files; the first line names the columns."""

    kind: str = "csv"
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1
    )  # default: a tab in .tsv files, else a comma
    suffixes: ClassVar = (".csv", ".tsv")

    def parts(self) -> list[Part]:
        """A part a file: a quoted cell may hold line ends, so a file cannot be cut without reading it."""
        return [
            Part(index=index, where=self.shown(file), group=file.name, bytes=file.stat().st_size,
                 args={"file": str(file)})
            for index, file in enumerate(self.files())
        ]  # fmt: skip

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """One row a record, numbered by the line on which it ends."""
        file = Path(part.args["file"])
        csv.field_size_limit(LARGEST_CELL)
        # Bytes that are not UTF-8 come through as lone surrogates, so that one bad row does not end the file.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            delimiter = self.delimiter or ("\t" if file.suffix == ".tsv" else ",")
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            names = next(reader, [])
            self._check_header(file, names)
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield BadRow(row=reader.line_num, problem=f"not CSV ({error}); expected cells of a table")
                    continue
                if cells:
                    yield self._row(reader.line_num, names, cells)

    def _check_header(self, file: Path, names: list[str]) -> None:
        for column in self.columns():
            if column not in names:
                raise UserError(
                    f"{file}:1: no column {column!r}; the header has: {', '.join(names)}. Name the column with text:"
                )

    def _row(self, number: int, names: list[str], cells: list[str]) -> Row | BadRow:
        if len(cells) != len(names):
            raw = ",".join(cells).encode(errors="replace").decode()[:RAW_CHARACTERS]
            return BadRow(row=number, problem=f"{len(cells)} cells; expected {len(names)} as in the header", raw=raw)
        if not all(encodable(cell) for cell in cells):
            raw = ",".join(cells).encode(errors="replace").decode()[:RAW_CHARACTERS]
            return BadRow(row=number, problem="not UTF-8; expected UTF-8 text", raw=raw)
        return self.row(number, dict(zip(names, cells, strict=True)))
