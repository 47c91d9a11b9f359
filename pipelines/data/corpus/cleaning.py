"""Turns rows into clean documents: normalised, filtered, with keys and signatures for deduplication.

    Row ──normalise, privacy, split──► texts ──hash──► statistics ──filters, checks──► kept + key, signature, lines
    BadRow ──► rejected                                  └──► dropped documents: counted by reason, and rejected

Personal data is replaced before all else, so that neither files nor rejected rows have it. Traces of a wrong decoding
are counted before a text is normalised, which removes some.

Works in batches, so that memory does not grow with the source. No Ray here: a stage decides where it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.data.corpus import long_documents, minhash
from pipelines.data.corpus.checks import Candidates, Check
from pipelines.data.corpus.documents import DOCUMENTS, REJECTED, utf8_bytes
from pipelines.data.corpus.filters import KEEP, Filter, Verdict, apply_filters
from pipelines.data.corpus.filters.custom import Custom
from pipelines.data.corpus.rules import EMPTY, Rules
from pipelines.data.sources.bad_rows import UNREADABLE
from pipelines.data.sources.files import RAW_CHARACTERS
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.data.text.languages import language_by_counts, language_name
from pipelines.data.text.measures import DocumentStats, HashedTexts, document_stats, hash_texts
from pipelines.data.text.normalise import mojibake, normalise
from pipelines.data.text.privacy import Privacy, without_cut_value
from pipelines.data.text.privacy_kinds import PERSONAL_DATA, PrivateKind

BATCH_BYTES = 8 << 20  # of text cleaned at once: large enough for columnar work, small beside a worker's memory
TOTALS = ("documents/read", "documents/split", "documents/parts", "bytes/read", "rows/bad")
OTHER_LANGUAGE = "documents/other_language_"  # and its code: counts of dropped documents, all in dropped_language
PRIVATE = "privacy/"  # and the kind: counts of personal data that were replaced, or dropped with their documents
LINES = "lines/dropped_c4"  # of documents that are kept
DROPPED = "documents/dropped_"  # and the reason
NO_LIMIT = "left out by a filter of the corpus"  # the problem of a dropped document whose reason has no limit


@dataclass(frozen=True)
class CleanedBatch:
    """The result of cleaning a batch of rows."""

    documents: pa.Table  # of `schema`: kept documents, with columns for deduplication
    rejected: pa.Table  # of REJECTED: rows that could not be read, then documents that a filter dropped
    counts: Counter[str]  # TOTALS, documents/dropped_<reason>, documents/other_language_<code>, privacy/<kind>


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
    rules: Rules,
    permutations: int,
    checks: Sequence[Check] = (),
) -> Iterator[CleanedBatch]:
    """Reads parts of a source and yields the cleaned batches in order; at least one, which may be empty.

    name: the source's name in the recipe. permutations: length of the MinHash signatures. checks: what documents that
    the filters kept are checked for, in this order.
    Raises UserError if a file cannot be read at all, or if a custom filter fails."""
    batch = _Batch(name, source, rules, checks)
    for part in parts:
        for row in source.read(part):
            batch.add(part, row)
            if batch.text_bytes > BATCH_BYTES:
                yield batch.cleaned(permutations)
                batch = _Batch(name, source, rules, checks)
    yield batch.cleaned(permutations)


class _Document(NamedTuple):
    """A row to be cleaned, or a part of one."""

    part: Part
    row: Row
    text: str  # normalised, without personal data
    garbled: int  # traces of a wrong decoding in the text as it was read
    is_dropped: bool = False  # for its personal data
    number: int = 0  # n for the n-th part of a row

    def split(self, split_words: int) -> list[_Document]:
        """Its parts; itself if it is not longer than `split_words`."""
        texts = long_documents.split(self.text, split_words) if len(self.text) > split_words else [self.text]
        if len(texts) == 1:
            return [self]
        traces = self.garbled / len(self.text)  # spread evenly: where they were is not known any more
        return [
            self._replace(text=text, garbled=round(traces * len(text)), number=number)
            for number, text in enumerate(texts, start=1)
        ]


@dataclass
class _Batch:
    """Rows of one source to be cleaned together."""

    name: str
    source: Source
    rules: Rules
    checks: Sequence[Check] = ()
    documents: list[_Document] = field(default_factory=list)
    bad_rows: list[tuple[Part, BadRow]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    text_bytes: int = 0

    def __post_init__(self) -> None:
        self.privacy = Privacy(self.rules.privacy, self.rules.seed)
        self.counts.update({"bytes/read": 0, "rows/bad": 0})

    def add(self, part: Part, row: Row | BadRow) -> None:
        if isinstance(row, BadRow):
            num_bytes = utf8_bytes(row.raw)
            raw = without_cut_value(row.raw) if self.privacy.is_on and len(row.raw) >= RAW_CHARACTERS else row.raw
            self.bad_rows.append((part, row.model_copy(update={"raw": self.privacy.replace(raw)[0]})))
            self.counts["rows/bad"] += 1
        else:
            num_bytes = utf8_bytes(row.text)
            garbled = mojibake(row.text)
            text, is_dropped = normalise(row.text), False
            if self.privacy.is_on:
                text, numbers = self.privacy.replace(text)
                self._count_private(numbers)
                row, is_dropped = self._private(row), self.privacy.drops(numbers)
            self.documents.append(_Document(part, row, text, garbled, is_dropped))
            self.counts["bytes/read"] += num_bytes
        self.text_bytes += num_bytes

    def _private(self, row: Row) -> Row:
        """The row without its text, and without personal data in its other columns. Counts what was in `meta`."""
        meta: dict[str, str] = {}
        for key, value in row.meta.items():
            meta[key], numbers = self.privacy.replace(value)
            self._count_private(numbers)
        return row.model_copy(
            update={"text": "", "meta": meta, "group": row.group and self.privacy.disguise(row.group)}
        )

    def _count_private(self, numbers: Counter[PrivateKind]) -> None:
        self.counts.update({f"{PRIVATE}{kind}": number for kind, number in numbers.items()})

    def cleaned(self, permutations: int) -> CleanedBatch:
        self._split_long()
        texts = pa.array([document.text for document in self.documents], pa.string())
        hashed = hash_texts(texts)
        languages = [self._language(document.row) for document in self.documents]
        garbled = [document.garbled for document in self.documents]
        stats = document_stats(texts, languages, hashed, garbled)
        stats = [document if document.language else _detect_language(document) for document in stats]
        verdicts = self._verdicts(stats)
        pairs = list(zip(stats, verdicts, strict=True))
        shortened = [_shortened(document, verdict) for document, verdict in pairs]
        if any(verdict.text is not None for verdict in verdicts):  # lines were dropped: the hashes are of other texts
            left = [verdict.text or document.text if verdict.keep else "" for document, verdict in pairs]
            hashed = hash_texts(pa.array(left, pa.string()))  # only those of kept documents are read
        columns = self._check(shortened, hashed, verdicts)
        kept = _kept(verdicts)
        self._count_lines([(stats[index], verdicts[index]) for index in kept])
        self.counts.update(f"{DROPPED}{verdict.reason}" for verdict in verdicts if not verdict.keep)
        self.counts.update(f"{OTHER_LANGUAGE}{verdict.language}" for verdict in verdicts if verdict.language)
        documents = self._table(kept, shortened, hashed, permutations)
        for name, values in columns.items():
            documents = documents.append_column(name, values.take(pa.array(kept, pa.int64())))
        return CleanedBatch(documents, self._rejected(verdicts), self.counts)

    def _check(
        self, documents: list[DocumentStats], hashed: HashedTexts, verdicts: list[Verdict]
    ) -> dict[str, pa.Array]:
        """Checks the documents that are kept and replaces their verdicts. Returns the checks' columns by name."""
        columns: dict[str, pa.Array] = {}
        ids = [self._id(document) for document in self.documents] if self.checks else []
        for check in self.checks:
            batch = Candidates(self.name, ids, documents, hashed, _kept(verdicts))
            result = check.apply(batch)
            self.counts.update(result.counts)
            columns |= result.columns
            for index, verdict in result.dropped.items():
                verdicts[index] = verdict
        return columns

    def _verdicts(self, stats: list[DocumentStats]) -> list[Verdict]:
        private = Verdict(False, PERSONAL_DATA)
        verdicts = [
            private if document.is_dropped else KEEP if counts.characters else EMPTY
            for document, counts in zip(self.documents, stats, strict=True)
        ]
        filtered = _kept(verdicts)
        of_filters = apply_filters(
            self.rules.filters, [stats[index] for index in filtered], lambda n: self._where(filtered[n])
        )
        for index, verdict in zip(filtered, of_filters, strict=True):
            verdicts[index] = EMPTY if verdict.keep and verdict.text == "" else verdict  # all its lines were dropped
        return verdicts

    def _where(self, index: int) -> str:
        document = self.documents[index]
        return f"{document.part.where}:{document.row.row}"

    def _count_lines(self, kept: list[tuple[DocumentStats, Verdict]]) -> None:
        """Counts the lines that filters dropped of documents that are kept."""
        for document, verdict in kept:
            if verdict.text is not None:
                self.counts[LINES] += _num_lines(document.text) - _num_lines(verdict.text)

    def _split_long(self) -> None:
        """Replaces each row with a long text by its parts. Counts documents and parts."""
        split_words = self.rules.split_words
        if split_words is not None and any(len(document.text) > split_words for document in self.documents):
            split = [document.split(split_words) for document in self.documents]
            if num_parts := [len(parts) for parts in split if len(parts) > 1]:
                self.counts.update({"documents/split": len(num_parts), "documents/parts": sum(num_parts)})
            self.documents = [part for parts in split for part in parts]
        self.counts["documents/read"] = len(self.documents)

    def _language(self, row: Row) -> str:
        """The language that the row or the source names; empty if it is to be detected."""
        language = row.language or self.source.language
        return "" if language == "auto" else language

    def _table(
        self,
        kept: list[int],
        stats: list[DocumentStats],
        hashed: HashedTexts,
        permutations: int,
    ) -> pa.Table:
        documents = [self.documents[index] for index in kept]
        texts = [stats[index].text for index in kept]
        columns = [
            pa.array([self._id(document) for document in documents], pa.string()),
            pa.array([self.name] * len(documents), pa.string()),
            pa.array([document.row.group or document.part.group for document in documents], pa.string()),
            pa.array([stats[index].language for index in kept], pa.string()),
            pa.array(texts, pa.string()),
            pa.array([list(document.row.meta.items()) for document in documents], DOCUMENTS.field("meta").type),
            *_deduplication_columns(texts, hashed, np.array(kept, np.int64), permutations),
        ]
        return pa.Table.from_arrays(columns, schema=schema(permutations))

    def _id(self, document: _Document) -> str:
        number = f".{document.number}" if document.number else ""
        return f"{self.name}/{document.part.index}/{document.row.row}{number}"

    def _rejected(self, verdicts: list[Verdict]) -> pa.Table:
        """The bad rows, and the documents that were dropped."""
        rejected = [(part, row.row, UNREADABLE, row.problem, row.raw) for part, row in self.bad_rows]
        for document, verdict in zip(self.documents, verdicts, strict=True):
            if not verdict.keep:
                raw = document.text[:RAW_CHARACTERS]
                rejected.append((document.part, document.row.row, verdict.reason, _problem(verdict), raw))
        columns = [
            pa.array([self.name] * len(rejected), pa.string()),
            pa.array([part.where for part, *_ in rejected], pa.string()),
            *(pa.array([entry[index] for entry in rejected], REJECTED.types[index + 1]) for index in range(1, 5)),
        ]
        return pa.Table.from_arrays(columns, schema=REJECTED)


def with_keys(documents: pa.Table, permutations: int) -> pa.Table:
    """Returns DOCUMENTS with the columns for deduplication, as `schema` has them."""
    texts = documents.column("text").combine_chunks()
    rows = np.arange(len(texts))
    columns = _deduplication_columns(texts.to_pylist(), hash_texts(texts), rows, permutations)
    return pa.Table.from_arrays([*documents.columns, *columns], schema=schema(permutations))


def _deduplication_columns(
    texts: list[str], hashed: HashedTexts, kept: np.ndarray, permutations: int
) -> list[pa.Array]:
    """The columns of `schema` after those of DOCUMENTS. texts: those that are kept. kept: their places in `hashed`."""
    signatures = minhash.signatures(hashed, permutations, documents=kept)
    buffers = [None, pa.py_buffer(signatures)]
    return [
        pa.array([utf8_bytes(text) for text in texts], pa.int64()),
        pa.array([minhash.exact_key(text) for text in texts], pa.binary(16)),
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * permutations), len(texts), buffers),
        hashed.long_lines().take(pa.array(kept)),
    ]


def _kept(verdicts: list[Verdict]) -> list[int]:
    return [index for index, verdict in enumerate(verdicts) if verdict.keep]


def _shortened(document: DocumentStats, verdict: Verdict) -> DocumentStats:
    """The document with what the filters left of its text."""
    return document if verdict.text is None else document._replace(text=verdict.text)


def _num_lines(text: str) -> int:
    """Number of lines that are not blank."""
    return sum(not line.isspace() for line in text.splitlines() if line)


def _problem(verdict: Verdict) -> str:
    if verdict.language:
        return f"is in {language_name(verdict.language)}"
    return "has personal data" if verdict.reason == PERSONAL_DATA else verdict.problem or NO_LIMIT


def warm_up(filters: Iterable[Filter | Custom] = ()) -> None:
    """Compiles numba's functions or loads them, so that tasks on this machine load them from its disk cache.

    filters: those whose functions are warmed up, too."""
    texts = pa.array(["a word", "字"], pa.string())
    hashed = hash_texts(texts)
    minhash.signatures(hashed, 16)
    compiled = [filter_ for filter_ in filters if filter_.reads_web_words]
    apply_filters(compiled, document_stats(texts, ["en", "zh"], hashed))


def _detect_language(document: DocumentStats) -> DocumentStats:
    return document._replace(language=language_by_counts(chinese=document.chinese, letters=document.letters))
