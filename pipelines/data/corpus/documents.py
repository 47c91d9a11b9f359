"""Schemas of the tables of a corpus: documents, and rows that were set aside."""

from __future__ import annotations

import pyarrow as pa

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


def document_of(id: str) -> str:
    """Returns the id of the whole document that a part is from; of a document that was not split its own.

    >>> document_of("books/0/7.2"), document_of("books/0/7")
    ('books/0/7', 'books/0/7')
    """
    origin, _, row = id.rpartition("/")
    return f"{origin}/{row.partition('.')[0]}"


def utf8_bytes(text: str) -> int:
    """Returns the length of the text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
