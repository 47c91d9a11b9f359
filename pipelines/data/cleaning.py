"""Rows become clean documents: normalised, measured, filtered, and marked with what finds their duplicates.

    Row ──normalise──► text ──cut──► measures ──filters──► kept documents + key, signature, long lines
    BadRow ──► rejected                          └──► counts of what was dropped, and why

Works a batch at a time, so that memory does not grow with the source. No Ray here: a stage decides where it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipelines.data import minhash
from pipelines.data.documents import DOCUMENTS, REJECTED, Columns, language_of
from pipelines.data.filters import Filter, judge
from pipelines.data.measures import Cut, cut, measured
from pipelines.data.normalise import normalise
from pipelines.data.sources.source import BadRow, Part, Row, Source

BATCH_BYTES = 8 << 20  # of text cleaned at once: large enough for columns to pay, small beside a worker's memory


@dataclass
class Cleaned:
    """What came of some rows."""

    documents: pa.Table  # of `schema`: DOCUMENTS and what finds duplicates
    rejected: pa.Table  # of REJECTED
    counts: Counter[str] = field(default_factory=Counter)  # documents/read, bytes/read, rows/bad, documents/dropped_*


def schema(permutations: int) -> pa.Schema:
    """DOCUMENTS, and for deduplication: text_bytes, key (16 bytes), signature, hashes of long lines."""
    marks = [
        pa.field("text_bytes", pa.int64()),
        pa.field("key", pa.binary(16)),
        pa.field("signature", pa.binary(4 * permutations)),
        pa.field("long_lines", pa.list_(pa.uint64())),
    ]
    return pa.schema([*DOCUMENTS, *marks])


def clean(
    name: str, source: Source, parts: Sequence[Part], filters: list[Filter], permutations: int
) -> Iterator[Cleaned]:
    """Reads parts of a source and yields what came of them, batch by batch, in order.

    name: the source's, in the recipe. Raises UserError if a file cannot be read at all."""
    for columns, rejected, num_bad in _batches(name, source, parts):
        yield Cleaned(*_clean(name, columns, rejected, filters, permutations), num_bad)  # type: ignore[misc]
