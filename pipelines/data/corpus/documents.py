"""Schemas of the tables of a corpus: documents, and rows that were set aside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.sources.files import RAW_CHARACTERS

DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),  # source/part/row, its origin; source/part/row.2: the second part of a long one
        ("source", pa.string()),  # the source's name in the recipe
        ("group", pa.string()),  # held-out data is split by whole groups
        ("language", pa.string()),  # en or zh
        ("text", pa.string()),
        ("meta", pa.map_(pa.string(), pa.string())),
    ]
)
# The columns whose values repeat, for a Parquet file's dictionaries: to look for others costs as much as to write them.
# (Any: pyarrow's types know `use_dictionary` as a bool alone.)
REPEATED: Any = ["source", "group", "language", "meta.key_value.key"]
REPEATED_REJECTED: Any = ["source", "where", "reason", "problem"]
REPEATED_NOT_USED: Any = [*REPEATED_REJECTED, "kept_source", "kept_where"]
QUALITY = pa.field("quality", pa.float32())  # where the recipe has a quality model: log-odds; null: not scored
REJECTED = pa.schema(
    [
        ("source", pa.string()),
        ("where", pa.string()),  # the file or package
        ("row", pa.int64()),  # the line, where lines are rows
        ("reason", pa.string()),  # unreadable, or that of the filter that dropped the document
        ("problem", pa.string()),
        ("raw", pa.string()),  # its first characters
    ]
)
# Of a duplicate, the document that was kept instead; null for other reasons.
SURVIVOR = pa.schema([("kept_source", pa.string()), ("kept_where", pa.string()), ("kept_row", pa.int64())])
NOT_USED = pa.schema([*REJECTED, *SURVIVOR])  # rejected.parquet of a corpus


def document_columns(file: Path | str) -> list[str]:
    """The columns of documents that a Parquet file of them has: those of DOCUMENTS, and `quality`."""
    return [*DOCUMENTS.names, *(name for name in pq.read_schema(file).names if name == QUALITY.name)]


def document_of(id: str) -> str:
    """Returns the id of the whole document that a part is from; that of a whole document as it is.

    >>> document_of("books/0/7.2"), document_of("books/0/7")
    ('books/0/7', 'books/0/7')
    """
    origin, _, row = id.rpartition("/")
    return f"{origin}/{row.partition('.')[0]}"


def rejected_rows(documents: pa.Table, source: str, places: Mapping[str, str], reason: str, problem: str) -> pa.Table:
    """Returns documents of one source that are dropped for this reason, as REJECTED.

    documents: with their ids and texts. places: where each part of the source is, by its number."""
    rows = []
    for document in documents.select(["id", "text"]).to_pylist():
        part, row = document_of(document["id"]).rsplit("/", 2)[1:]  # source/part/row
        rows.append({"source": source, "where": places[part], "row": int(row), "reason": reason,
                     "problem": problem, "raw": document["text"][:RAW_CHARACTERS]})  # fmt: skip
    return pa.Table.from_pylist(rows, REJECTED)


def utf8_bytes(text: str) -> int:
    """Returns the length of the text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
