"""Records of Arrow tables (Parquet files, Hugging Face data sets), with text that is stored as bytes read as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pipelines.data.sources.files import FileProblem

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 1024
BATCH_BYTES = 64 << 20  # of a batch in memory, where rows are large


def batch_rows(num_rows: int, num_bytes: int) -> int:
    """Rows to read at once, of a table with so many rows and bytes."""
    return max(1, min(BATCH_ROWS, BATCH_BYTES * num_rows // max(1, num_bytes)))


def column_names(schema: pyarrow.Schema) -> list[str]:
    """Lists a table's columns, and a.b for each column b within a column a."""
    return [name for field in schema for name in _names(field, "")]


def check_names(schema: pyarrow.Schema) -> None:
    """Raises FileProblem for a name that two columns have, of which a row could hold but one; UnicodeDecodeError for
    one that is no text."""
    column_names(schema)
    doubled = sorted(name for name, times in Counter(schema.names).items() if times > 1)
    if doubled:
        raise FileProblem(f"the schema has {', '.join(doubled)} more than once; give each column its own name")


def records(
    batch: pyarrow.RecordBatch, max_row_bytes: int, too_long: Callable[[int], str]
) -> Iterator[dict[str, Any] | str]:
    """Yields each row as a record, or the problem with it.

    Values are validated before anything else is done with them, even measured: those of a damaged file may point
    outside of its memory. Rows of more than max_row_bytes never become Python objects, which would take several times
    the memory. too_long: the problem with a row of so many bytes."""
    import pyarrow

    has_bytes, is_valid = any(_has_bytes(field.type) for field in batch.schema), True
    rows: Iterable[dict[str, Any] | str] | None = None
    try:
        batch.validate(full=True)
        if batch.nbytes <= max_row_bytes:
            rows = batch.to_pylist(maps_as_pydicts="lossy")  # a key twice: the last
    except (pyarrow.ArrowInvalid, UnicodeDecodeError):  # find the rows
        is_valid = False
    if rows is None:
        rows = (_row(batch, number, is_valid, max_row_bytes, too_long) for number in range(batch.num_rows))
    for row in rows:
        yield _with_text(row) if has_bytes and isinstance(row, dict) else row


def _row(
    batch: pyarrow.RecordBatch, number: int, is_valid: bool, max_row_bytes: int, too_long: Callable[[int], str]
) -> dict[str, Any] | str:
    """A row of a batch as `records` yields it. is_valid: whether the batch is."""
    columns = [(name, column.slice(number, 1)) for name, column in zip(batch.schema.names, batch.columns, strict=True)]
    damage = None if is_valid else next(filter(None, (_damage(*column) for column in columns)), None)
    if damage is not None:
        return damage
    size = sum(_value_bytes(value) for _, value in columns)
    if size > max_row_bytes:
        return too_long(size)
    record: dict[str, Any] = {}
    for name, value in columns:
        try:
            record[name] = value[0].as_py(maps_as_pydicts="lossy")
        except UnicodeDecodeError as error:
            return f"column {name!r} is not UTF-8 ({error.reason} at byte {error.start}); expected UTF-8 text"
    return record


def _damage(name: str, value: pyarrow.Array) -> str | None:
    """What is wrong with a column's value, if it is damaged."""
    import pyarrow

    try:
        value.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        what = "is not UTF-8" if "UTF8" in str(error) else "is damaged"
        return f"column {name!r} {what} ({error}); expected a value of its type, text in UTF-8"
    return None


def _value_bytes(column: pyarrow.Array) -> int:
    """Bytes of a valid array of one row, without those of other rows that it shares memory with: other values of a
    dictionary, other texts in the buffers of views."""
    import pyarrow
    from pyarrow import types

    kind = column.type
    if isinstance(column, pyarrow.ExtensionArray):
        return _value_bytes(column.storage)
    if types.is_dictionary(kind):
        indices = column.indices.drop_null().to_pylist()
        return sum(_value_bytes(column.dictionary.slice(index, 1)) for index in indices)
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return column.cast(pyarrow.large_string() if types.is_string_view(kind) else pyarrow.large_binary()).nbytes
    if types.is_struct(kind):
        return sum(map(_value_bytes, column.flatten()))
    if types.is_map(kind):
        start, end = column.offsets[0].as_py(), column.offsets[len(column)].as_py()
        return sum(_value_bytes(side.slice(start, end - start)) for side in (column.keys, column.items))
    if types.is_nested(kind) and hasattr(column, "flatten"):
        return _value_bytes(column.flatten())
    return column.nbytes


def _with_text(value: Any) -> Any:
    """A value in which bytes that are UTF-8 are text; other bytes, such as images, stay bytes."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8-sig")
        except UnicodeDecodeError:
            return value
    if isinstance(value, dict):
        return {name: _with_text(inner) for name, inner in value.items()}
    return [_with_text(inner) for inner in value] if isinstance(value, list) else value


def _names(field: pyarrow.Field, prefix: str) -> Iterator[str]:
    from pyarrow import types

    yield prefix + field.name
    if types.is_struct(field.type):
        for inner in field.type:
            yield from _names(inner, f"{prefix}{field.name}.")


def _has_bytes(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _has_bytes(kind.value_type)
    if types.is_nested(kind):
        return any(_has_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind) or \
        types.is_fixed_size_binary(kind)  # fmt: skip
