"""Parquet files: each row group is read by itself, and only its required columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipelines.data.sources.arrow_records import batch_rows, check_names, column_names, records
from pipelines.data.sources.files import FileProblem, RecordSource
from pipelines.data.sources.source import TEXT_ROWS, BadRow, Row

if TYPE_CHECKING:
    import pyarrow.parquet


class Parquet(RecordSource):
    """Rows of .parquet files."""

    kind: str = Field(default="parquet", description="Kind of the source: Parquet files")
    suffixes: ClassVar = (".parquet",)

    def pieces(self, file: Path) -> Iterator[dict[str, Any]]:
        """Divides a file into its row groups. Raises FileProblem if it is damaged."""
        with open_parquet(file) as table:
            row = 1
            for group in range(table.num_row_groups):
                meta = table.metadata.row_group(group)
                yield {"bytes": meta.total_byte_size, "row_group": group, "row": row, "rows": meta.num_rows}
                row += meta.num_rows

    def file_columns(self, file: Path) -> list[str]:
        """The names in the file's schema. Raises FileProblem if it is damaged."""
        with open_parquet(file) as table:
            return column_names(table.schema_arrow)

    def read_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row | BadRow]:
        """Yields the rows, numbered from 1 within their file."""
        import pyarrow

        group, number = args["row_group"], args["row"]
        with open_parquet(file) as table:
            meta = table.metadata.row_group(group)
            columns = self.required_columns()
            select = self.rows in TEXT_ROWS and set(columns) <= set(column_names(table.schema_arrow))
            size = batch_rows(meta.num_rows, meta.total_byte_size)
            try:
                for batch in table.iter_batches(size, row_groups=[group], columns=columns if select else None):
                    for record in records(batch, self.max_row_bytes, self.too_long):
                        bad = isinstance(record, str)
                        yield BadRow(row=number, problem=record) if bad else self.to_row(number, record)
                        number += 1
            except (OSError, pyarrow.ArrowException) as error:
                problem = f"damaged near row {number} ({error}); expected a complete Parquet file"
                yield BadRow(row=number, problem=f"{problem}. What follows it in row group {group + 1} is lost")


def open_parquet(file: Path) -> pyarrow.parquet.ParquetFile:
    """Opens a Parquet file. Raises FileProblem if it is none, or damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        check_names(table.schema_arrow)
        return table
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise FileProblem(f"not a Parquet file or damaged ({error}); expected a complete Parquet file") from None
