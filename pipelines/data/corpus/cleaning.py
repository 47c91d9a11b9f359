"""Rows become clean documents: normalised, measured, filtered, and marked with what finds their duplicates.

    Row ──normalise──► text ──cut──► measures ──filters──► kept documents + key, signature, long lines
    BadRow ──► rejected                          └──► counts of what was dropped, and why

Works a batch at a time, so that memory does not grow with the source. No Ray here: a stage decides where it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipelines.data.corpus import minhash
from pipelines.data.corpus.documents import DOCUMENTS, REJECTED, utf8_bytes
from pipelines.data.corpus.filters import Filter, judge
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.data.text.languages import language_by_counts
from pipelines.data.text.measures import Cut, Measured, cut, measured
from pipelines.data.text.normalise import normalise

BATCH_BYTES = 8 << 20  # of text cleaned at once: large enough for columns to pay, small beside a worker's memory
EMPTY = "empty"  # the one reason to drop that is no filter's: there is nothing to read


@dataclass(frozen=True)
class Cleaned:
    """What came of a batch of rows."""

    documents: pa.Table  # of `schema`: those kept, and what finds their duplicates
    rejected: pa.Table  # of REJECTED: rows that could not be read
    counts: Counter[str]  # documents/read, bytes/read, documents/dropped_<reason>, rows/bad


def schema(permutations: int) -> pa.Schema:
    """DOCUMENTS, and for deduplication: text_bytes, key, signature, and the hashes of long lines."""
    marks = [
        pa.field("text_bytes", pa.int64()),
        pa.field("key", pa.binary(16)),
        pa.field("signature", pa.binary(4 * permutations)),
        pa.field("long_lines", pa.list_(pa.uint64())),
    ]
    return pa.schema([*DOCUMENTS, *marks])


def clean(
    name: str, source: Source, parts: Sequence[Part], *, filters: Sequence[Filter], permutations: int
) -> Iterator[Cleaned]:
    """Reads parts of a source and yields what came of them in order; at least one batch, be it empty.

    name: the source's, in the recipe. permutations: length of the MinHash signatures.
    Raises UserError if a file cannot be read at all."""
    batch = _Batch(name, source)
    for part in parts:
        for row in source.read(part):
            batch.add(part, row)
            if batch.text_bytes > BATCH_BYTES:
                yield batch.cleaned(filters, permutations)
                batch = _Batch(name, source)
    yield batch.cleaned(filters, permutations)


@dataclass
class _Batch:
    """Rows of one source on their way into tables."""

    name: str
    source: Source
    documents: list[tuple[Part, Row]] = field(default_factory=list)
    bad: list[tuple[Part, BadRow]] = field(default_factory=list)
    text_bytes: int = 0

    def add(self, part: Part, row: Row | BadRow) -> None:
        if isinstance(row, BadRow):
            self.bad.append((part, row))
            self.text_bytes += utf8_bytes(row.raw)
        else:
            self.documents.append((part, row))
            self.text_bytes += utf8_bytes(row.text)

    def cleaned(self, filters: Sequence[Filter], permutations: int) -> Cleaned:
        texts = pa.array([normalise(row.text) for _, row in self.documents], pa.string())
        pieces = cut(texts)
        judged = measured(texts, [self._language(row) for _, row in self.documents], pieces)
        judged = [document if document.language else _with_language(document) for document in judged]
        reasons = [EMPTY if not document.characters else judge(filters, document).reason for document in judged]
        kept = [place for place, reason in enumerate(reasons) if not reason]
        counts = Counter({"documents/read": len(self.documents), "rows/bad": len(self.bad)})
        counts["bytes/read"] = sum(utf8_bytes(row.text) for _, row in self.documents)
        counts.update(f"documents/dropped_{reason}" for reason in reasons if reason)
        return Cleaned(self._table(kept, judged, pieces, permutations), self._rejected(), counts)

    def _language(self, row: Row) -> str:
        own = row.language or self.source.language
        return "" if own == "auto" else own

    def _table(self, kept: list[int], judged: list[Measured], pieces: Cut, permutations: int) -> pa.Table:
        rows = [self.documents[place] for place in kept]
        texts = [judged[place].text for place in kept]
        taken = np.array(kept, np.int64)
        found = np.ascontiguousarray(minhash.signatures(pieces, permutations)[taken])
        columns = [
            pa.array([f"{self.name}/{part.index}/{row.row}" for part, row in rows], pa.string()),
            pa.array([self.name] * len(rows), pa.string()),
            pa.array([row.group or part.group for part, row in rows], pa.string()),
            pa.array([judged[place].language for place in kept], pa.string()),
            pa.array(texts, pa.string()),
            pa.array([list(row.meta.items()) for _, row in rows], DOCUMENTS.field("meta").type),
            pa.array([utf8_bytes(text) for text in texts], pa.int64()),
            pa.array([minhash.exact_key(text) for text in texts], pa.binary(16)),
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * permutations), len(rows), [None, pa.py_buffer(found)]),
            pieces.long_lines().take(pa.array(taken)),
        ]
        return pa.Table.from_arrays(columns, schema=schema(permutations))

    def _rejected(self) -> pa.Table:
        columns = [
            pa.array([self.name] * len(self.bad), pa.string()),
            pa.array([part.where for part, _ in self.bad], pa.string()),
            pa.array([row.row for _, row in self.bad], pa.int64()),
            pa.array([row.problem for _, row in self.bad], pa.string()),
            pa.array([row.raw for _, row in self.bad], pa.string()),
        ]
        return pa.Table.from_arrays(columns, schema=REJECTED)


def warm_up() -> None:
    """Has numba compile what cleaning needs, or load it: tasks then find it on this machine's disk."""
    minhash.signatures(cut(pa.array(["a word", "字"], pa.string())), 16)


def _with_language(document: Measured) -> Measured:
    return document._replace(language=language_by_counts(chinese=document.chinese, letters=document.letters))
