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

MAX_CELL_BYTES = 1 << 30  # the default of Python's csv is 128 KiB, and a cell may hold an article


class Csv(RecordSource):
    """Rows of .csv and .tsv files; the first line names the columns."""

    kind: str = Field(default="csv", description="Kind of the source: .csv and .tsv files with a header line")
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="Character between cells; default: a tab in .tsv files, otherwise a comma",
    )
    suffixes: ClassVar = (".csv", ".tsv")

    def parts(self) -> list[Part]:
        """Divides the source into one part for each file.

        A quoted cell may hold line ends, so a file cannot be divided without reading it."""
        return [
            Part(index=index, where=self.display_path(file), group=file.name, bytes=file.stat().st_size,
                 args={"file": str(file)})
            for index, file in enumerate(self.files())
        ]  # fmt: skip

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Yields one row for each record, numbered by the line on which it ends."""
        file = Path(part.args["file"])
        csv.field_size_limit(MAX_CELL_BYTES)
        # Bytes that are not UTF-8 come through as lone surrogates, so that one bad row does not end the file.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            delimiter = self.delimiter or ("\t" if file.suffix == ".tsv" else ",")
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            columns = next(reader, [])
            self._check_header(file, columns)
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield BadRow(row=reader.line_num, problem=f"not CSV ({error}); expected cells of a table")
                    continue
                if cells:
                    yield self._row(reader.line_num, columns, cells)

    def _check_header(self, file: Path, columns: list[str]) -> None:
        for column in self.required_columns():
            if column not in columns:
                raise UserError(
                    f"{file}:1: no column {column!r}; the header has: {', '.join(columns)}. Name the column with text:"
                )

    def _row(self, number: int, columns: list[str], cells: list[str]) -> Row | BadRow:
        problem = ""
        if len(cells) != len(columns):
            problem = f"{len(cells)} cells; expected {len(columns)} as in the header"
        elif not all(encodable(cell) for cell in cells):
            problem = "not UTF-8; expected UTF-8 text"
        if problem:
            raw = ",".join(cells).encode(errors="replace").decode()[:RAW_CHARACTERS]
            return BadRow(row=number, problem=problem, raw=raw)
        return self.to_row(number, dict(zip(columns, cells, strict=True)))
