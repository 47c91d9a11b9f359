"""Parquet files, read a row group at a time and only the columns that are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.data.sources.files import RecordSource
from pipelines.data.sources.source import BadRow, Part, Row
from pipelines.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet

BATCH_ROWS = 1024


class Parquet(RecordSource):
    """Rows of .parquet files."""

    kind: str = "parquet"
    suffixes: ClassVar = (".parquet",)

    def parts(self) -> list[Part]:
        """A part a row group. Raises UserError if a file is damaged or lacks a column."""
        parts: list[Part] = []
        for file in self.files():
            with _open(file) as table:
                self._check_columns(file, table.schema_arrow.names)
                row = 1
                for group in range(table.num_row_groups):
                    meta = table.metadata.row_group(group)
                    args = {"file": str(file), "row_group": group, "row": row}
                    parts.append(Part(index=len(parts), where=self.shown(file), group=file.name,
                                      bytes=meta.total_byte_size, args=args))  # fmt: skip
                    row += meta.num_rows
        return parts

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Rows numbered from 1 in their file."""
        import pyarrow

        file = Path(part.args["file"])
        columns = self.columns() if self.rows == "text" else None
        number = part.args["row"]
        with _open(file) as table:
            try:
                for batch in table.iter_batches(BATCH_ROWS, row_groups=[part.args["row_group"]], columns=columns):
                    for record in batch.to_pylist():
                        yield self.row(number, record)
                        number += 1
            except (OSError, pyarrow.ArrowException) as error:
                raise UserError(f"{file}: damaged near row {number} ({error}); expected a whole Parquet file") from None

    def _check_columns(self, file: Path, names: list[Any]) -> None:
        for column in self.columns():
            if column not in names:
                raise UserError(
                    f"{file}: no column {column!r}; the file has: {', '.join(names)}. Name the column with text:"
                )


def _open(file: Path) -> pyarrow.parquet.ParquetFile:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{file}: not a Parquet file or damaged ({error})") from None
