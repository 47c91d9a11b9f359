"""Turns rows into clean documents: normalised, filtered, with keys and signatures for deduplication.

    Row ──normalise, split──► texts ──hash──► statistics ──filters──► kept documents + key, signature, long lines
    BadRow ──► rejected                              └──► dropped documents: counted by reason, and rejected

Works in batches, so that memory does not grow with the source. No Ray here: a stage decides where it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipelines.data.corpus import long_documents, minhash
from pipelines.data.corpus.documents import DOCUMENTS, REJECTED, utf8_bytes
from pipelines.data.corpus.filters import Filter, Verdict, apply_filters
from pipelines.data.corpus.filters.filter import drop
from pipelines.data.sources.bad_rows import UNREADABLE
from pipelines.data.sources.files import RAW_CHARACTERS
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.data.text.languages import language_by_counts, language_name
from pipelines.data.text.measures import DocumentStats, HashedTexts, document_stats, hash_texts
from pipelines.data.text.normalise import normalise

BATCH_BYTES = 8 << 20  # of text cleaned at once: large enough for columnar work, small beside a worker's memory
EMPTY = drop("empty")  # the only reason to drop that belongs to no filter: the document has no characters
TOTALS = ("documents/read", "documents/split", "documents/parts", "bytes/read", "rows/bad")
OTHER_LANGUAGE = "documents/other_language_"  # and its code: counts of dropped documents, all in dropped_language
DROPPED = "left out by a filter of the corpus"  # the problem of a dropped document, beside its reason


@dataclass(frozen=True)
class CleanedBatch:
    """The result of cleaning a batch of rows."""

    documents: pa.Table  # of `schema`: kept documents, with columns for deduplication
    rejected: pa.Table  # of REJECTED: rows that could not be read, then documents that a filter dropped
    counts: Counter[str]  # TOTALS, documents/dropped_<reason>, documents/other_language_<code>


def schema(permutations: int) -> pa.Schema:
    """Returns DOCUMENTS with columns for deduplication: text_bytes, key, signature, and the hashes of long lines."""
    deduplication = [
        pa.field("text_bytes", pa.int64()),
        pa.field("key", pa.binary(16)),
        pa.field("signature", pa.binary(4 * permutations)),
        pa.field("long_lines", pa.list_(pa.uint64())),
    ]
    return pa.schema([*DOCUMENTS, *deduplication])


def clean(
    name: str,
    source: Source,
    parts: Sequence[Part],
    *,
    filters: Sequence[Filter],
    permutations: int,
    split_words: int | None,
) -> Iterator[CleanedBatch]:
    """Reads parts of a source and yields the cleaned batches in order; at least one, which may be empty.

    name: the source's name in the recipe. permutations: length of the MinHash signatures. split_words: words beyond
    which a document is split into parts, each a document of its own; None: documents stay whole.
    Raises UserError if a file cannot be read at all."""
    batch = _Batch(name, source)
    for part in parts:
        for row in source.read(part):
            batch.add(part, row)
            if batch.text_bytes > BATCH_BYTES:
                yield batch.cleaned(filters, permutations, split_words)
                batch = _Batch(name, source)
    yield batch.cleaned(filters, permutations, split_words)


@dataclass
class _Batch:
    """Rows of one source to be cleaned together."""

    name: str
    source: Source
    rows: list[tuple[Part, Row]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # of the rows, normalised
    numbers: list[int] = field(default_factory=list)  # of the rows: 0 for a whole document, n for the n-th part of one
    bad_rows: list[tuple[Part, BadRow]] = field(default_factory=list)
    text_bytes: int = 0

    def add(self, part: Part, row: Row | BadRow) -> None:
        if isinstance(row, BadRow):
            self.bad_rows.append((part, row))
            self.text_bytes += utf8_bytes(row.raw)
        else:
            self.rows.append((part, row))
            self.texts.append(normalise(row.text))
            self.numbers.append(0)
            self.text_bytes += utf8_bytes(row.text)

    def cleaned(self, filters: Sequence[Filter], permutations: int, split_words: int | None) -> CleanedBatch:
        counts = Counter({"rows/bad": len(self.bad_rows)})
        counts["bytes/read"] = sum(utf8_bytes(row.text) for _, row in self.rows)
        self._split_long(split_words, counts)
        texts = pa.array(self.texts, pa.string())
        hashed = hash_texts(texts)
        documents = document_stats(texts, [self._language(row) for _, row in self.rows], hashed)
        documents = [document if document.language else _detect_language(document) for document in documents]
        verdicts = [apply_filters(filters, document) if document.characters else EMPTY for document in documents]
        kept = [index for index, verdict in enumerate(verdicts) if verdict.keep]
        counts.update(f"documents/dropped_{verdict.reason}" for verdict in verdicts if not verdict.keep)
        counts.update(f"{OTHER_LANGUAGE}{verdict.language}" for verdict in verdicts if verdict.language)
        return CleanedBatch(self._table(kept, documents, hashed, permutations), self._rejected(verdicts), counts)

    def _split_long(self, split_words: int | None, counts: Counter[str]) -> None:
        """Replaces each row with a long text by a row for each part of the text. Counts documents and parts."""
        parts_of: dict[int, list[str]] = {}
        for index, text in enumerate(self.texts):
            if split_words is not None and len(text) > split_words:
                parts = long_documents.split(text, split_words)
                if len(parts) > 1:
                    parts_of[index] = parts
        for index, parts in sorted(parts_of.items(), reverse=True):
            self.rows[index : index + 1] = [self.rows[index]] * len(parts)
            self.texts[index : index + 1] = parts
            self.numbers[index : index + 1] = range(1, len(parts) + 1)
            counts.update({"documents/split": 1, "documents/parts": len(parts)})
        counts["documents/read"] = len(self.texts)

    def _language(self, row: Row) -> str:
        """The language that the row or the source names; empty if it is to be detected."""
        language = row.language or self.source.language
        return "" if language == "auto" else language

    def _table(
        self,
        kept: list[int],
        documents: list[DocumentStats],
        hashed: HashedTexts,
        permutations: int,
    ) -> pa.Table:
        rows = [(*self.rows[index], self.numbers[index]) for index in kept]
        texts = [documents[index].text for index in kept]
        indices = np.array(kept, np.int64)
        signatures = np.ascontiguousarray(minhash.signatures(hashed, permutations)[indices])
        signature_type = pa.binary(4 * permutations)
        columns = [
            pa.array([self._id(part, row, number) for part, row, number in rows], pa.string()),
            pa.array([self.name] * len(rows), pa.string()),
            pa.array([row.group or part.group for part, row, _ in rows], pa.string()),
            pa.array([documents[index].language for index in kept], pa.string()),
            pa.array(texts, pa.string()),
            pa.array([list(row.meta.items()) for _, row, _ in rows], DOCUMENTS.field("meta").type),
            pa.array([utf8_bytes(text) for text in texts], pa.int64()),
            pa.array([minhash.exact_key(text) for text in texts], pa.binary(16)),
            pa.FixedSizeBinaryArray.from_buffers(signature_type, len(rows), [None, pa.py_buffer(signatures)]),
            hashed.long_lines().take(pa.array(indices)),
        ]
        return pa.Table.from_arrays(columns, schema=schema(permutations))

    def _id(self, part: Part, row: Row, number: int) -> str:
        return f"{self.name}/{part.index}/{row.row}" + (f".{number}" if number else "")

    def _rejected(self, verdicts: list[Verdict]) -> pa.Table:
        """The bad rows, and the documents that were dropped."""
        rejected = [(part, row.row, UNREADABLE, row.problem, row.raw) for part, row in self.bad_rows]
        for (part, row), text, verdict in zip(self.rows, self.texts, verdicts, strict=True):
            if not verdict.keep:
                problem = f"is in {language_name(verdict.language)}" if verdict.language else DROPPED
                rejected.append((part, row.row, verdict.reason, problem, text[:RAW_CHARACTERS]))
        columns = [
            pa.array([self.name] * len(rejected), pa.string()),
            pa.array([part.where for part, *_ in rejected], pa.string()),
            *(pa.array([entry[index] for entry in rejected], REJECTED.types[index + 1]) for index in range(1, 5)),
        ]
        return pa.Table.from_arrays(columns, schema=REJECTED)


def warm_up() -> None:
    """Compiles numba's functions or loads them, so that tasks on this machine load them from its disk cache."""
    minhash.signatures(hash_texts(pa.array(["a word", "字"], pa.string())), 16)


def _detect_language(document: DocumentStats) -> DocumentStats:
    return document._replace(language=language_by_counts(chinese=document.chinese, letters=document.letters))
