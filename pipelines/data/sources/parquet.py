"""Parquet files: each row group is read by itself, and only its required columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.sources.files import RecordSource
from pipelines.data.sources.source import BadRow, Part, Row
from pipelines.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet

BATCH_ROWS = 1024


class Parquet(RecordSource):
    """Rows of .parquet files."""

    kind: str = Field(default="parquet", description="Kind of the source: Parquet files")
    suffixes: ClassVar = (".parquet",)

    def parts(self) -> list[Part]:
        """Divides the source into one part for each row group.

        Raises UserError if a file is damaged or lacks a column."""
        parts: list[Part] = []
        for file in self.files():
            with open_parquet(file) as table:
                self._check_columns(file, table.schema_arrow.names)
                row = 1
                for group in range(table.num_row_groups):
                    meta = table.metadata.row_group(group)
                    args = {"file": str(file), "row_group": group, "row": row}
                    parts.append(Part(index=len(parts), where=self.display_path(file), group=file.name,
                                      bytes=meta.total_byte_size, args=args))  # fmt: skip
                    row += meta.num_rows
        return parts

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Yields the rows, numbered from 1 within their file."""
        import pyarrow

        file = Path(part.args["file"])
        columns = self.required_columns() if self.rows == "text" else None
        number = part.args["row"]
        with open_parquet(file) as table:
            try:
                for batch in table.iter_batches(BATCH_ROWS, row_groups=[part.args["row_group"]], columns=columns):
                    for record in batch.to_pylist():
                        yield self.to_row(number, record)
                        number += 1
            except (OSError, pyarrow.ArrowException) as error:
                raise UserError(
                    f"{file}: damaged near row {number} ({error}); expected a complete Parquet file"
                ) from None

    def encoding_of(self, file: Path) -> str | None:
        return None

    def _check_columns(self, file: Path, columns: list[str]) -> None:
        for column in self.required_columns():
            if column not in columns:
                raise UserError(
                    f"{file}: no column {column!r}; the file has: {', '.join(columns)}. Name the column with text:"
                )


def open_parquet(file: Path) -> pyarrow.parquet.ParquetFile:
    """Opens a Parquet file. Raises UserError if it is none, or damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{file}: not a Parquet file or damaged ({error})") from None
