"""Reads a corpus artifact: Parquet parts of documents with the columns id, source, group, language, text.

Streams record batches; never holds a whole corpus in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("train", "held_out")


def parts(corpus: Path, split: str) -> list[Path]:
    """Lists the Parquet parts of a split, in order."""
    return sorted((corpus / split).glob("*.parquet"))


def batches(corpus: Path, split: str, columns: Sequence[str] = ("language", "text")) -> Iterator[pa.RecordBatch]:
    """Yields record batches of a split in document order."""
    for part in parts(corpus, split):
        yield from pq.ParquetFile(part).iter_batches(columns=list(columns), batch_size=4096)
