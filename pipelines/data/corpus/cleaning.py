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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.corpus import group_counts, long_documents, minhash
from pipelines.data.corpus.checks import Candidates, Check
from pipelines.data.corpus.documents import DOCUMENTS, REJECTED, utf8_bytes
from pipelines.data.corpus.filters import Filter, Verdict, apply_filters
from pipelines.data.corpus.filters.custom import Custom
from pipelines.data.corpus.filters.verdicts import Verdicts
from pipelines.data.corpus.origins import Origins
from pipelines.data.corpus.rules import EMPTY, Rules
from pipelines.data.sources import json_shape
from pipelines.data.sources.bad_rows import UNREADABLE
from pipelines.data.sources.files import RAW_CHARACTERS
from pipelines.data.sources.source import BadRow, Part, Row, Source, Texts
from pipelines.data.text.document_stats import Documents, document_stats
from pipelines.data.text.languages import language_name
from pipelines.data.text.line_counts import filled_lines
from pipelines.data.text.measures import HashedTexts, are_blank, hash_texts
from pipelines.data.text.people_groups import mentioned_groups
from pipelines.data.text.plain_texts import normalised
from pipelines.data.text.privacy import Privacy, without_cut_value
from pipelines.data.text.privacy_kinds import PERSONAL_DATA, PrivateKind

# Of text cleaned at once: enough for columnar work, and so little that its arrays are in memory that malloc keeps: of
# larger ones the kernel takes every page back and gives it anew for each batch.
BATCH_BYTES = 2 << 20
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
    counts: Counter[str]  # TOTALS, documents/dropped_<reason>, documents/other_language_<code>, privacy/<kind>, groups


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
    counts_groups: bool = False,
) -> Iterator[CleanedBatch]:
    """Reads parts of a source and yields the cleaned batches in order; at least one, which may be empty.

    name: the source's name in the recipe. permutations: length of the MinHash signatures. checks: what documents that
    the filters kept are checked for, in this order. counts_groups: whether documents are counted by the groups of
    people that they mention.
    Raises UserError if a file cannot be read at all, or if a custom filter fails."""
    batch = _Batch(name, source, rules, checks, counts_groups)
    for part in parts:
        for rows in source.read_texts(part):
            left: Row | BadRow | Texts | None = rows
            while left is not None:
                left = batch.add(part, left)
                if batch.is_full:
                    yield batch.cleaned(permutations)
                    batch = _Batch(name, source, rules, checks, counts_groups)
    yield batch.cleaned(permutations)


@dataclass
class _Batch:
    """Rows of one source to be cleaned together."""

    name: str
    source: Source
    rules: Rules
    checks: Sequence[Check] = ()
    counts_groups: bool = False
    texts: list[pa.Array] = field(default_factory=list)  # as they were read; of rows that came one by one:
    single_texts: list[str] = field(default_factory=list)  # those after `texts`
    bad_rows: list[tuple[Part, BadRow]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    text_bytes: int = 0

    def __post_init__(self) -> None:
        self.privacy = Privacy(self.rules.privacy, self.rules.seed)
        self.origins = Origins(self.name)
        self.counts.update({"bytes/read": 0, "rows/bad": 0})

    @property
    def is_full(self) -> bool:
        return self.text_bytes > BATCH_BYTES

    def add(self, part: Part, rows: Row | BadRow | Texts) -> Texts | None:
        """Adds rows until the batch is full. Returns those that are left, if any."""
        if isinstance(rows, Texts):
            return self._add_texts(part, rows)
        if isinstance(rows, BadRow):
            num_bytes = utf8_bytes(rows.raw)
            self.bad_rows.append((part, self._private_bad_row(rows) if self.privacy.is_on else rows))
            self.counts[f"{DROPPED}{rows.reason}" if rows.reason else "rows/bad"] += 1
        else:
            num_bytes = utf8_bytes(rows.text)
            group, meta = self._private(rows) if self.privacy.is_on else (rows.group, rows.meta)
            language = self._language(rows.language)
            self.origins.add(part, rows.row, language=language, group=group, meta=meta)
            self.single_texts.append(rows.text)
            self.counts["bytes/read"] += num_bytes
        self.text_bytes += num_bytes
        return None

    def _add_texts(self, part: Part, rows: Texts) -> Texts | None:
        self._flush()
        sizes = np.cumsum(pc.call_function("binary_length", [rows.texts]).to_numpy().astype(np.int64))
        number = min(len(sizes), int(np.searchsorted(sizes, BATCH_BYTES - self.text_bytes, side="right")) + 1)
        self.texts.append(rows.texts[:number])
        self.origins.add(part, rows.first_row, language=self._language(None), group=None, meta={}, number=number)
        self.counts["bytes/read"] += int(sizes[number - 1])
        self.text_bytes += int(sizes[number - 1])
        return Texts(rows.first_row + number, rows.texts[number:]) if number < len(sizes) else None

    def _flush(self) -> None:
        """Moves the texts of single rows to the others."""
        if self.single_texts or not self.texts:
            self.texts.append(pa.array(self.single_texts, pa.string()))
            self.single_texts = []

    def _private(self, row: Row) -> tuple[str | None, dict[str, str]]:
        """The group and the `meta` of a row without personal data. Counts what was in `meta`."""
        meta: dict[str, str] = {}
        for key, value in row.meta.items():
            meta[key], numbers = self.privacy.replace(value, label=key)
            self._count_private(numbers)
        return row.group and self.privacy.disguise(row.group), meta

    def _private_bad_row(self, row: BadRow) -> BadRow:
        """The row without personal data, which its problem may quote, too: a value, or the names of columns."""
        raw = without_cut_value(row.raw) if len(row.raw) >= RAW_CHARACTERS else row.raw
        quotes = {"raw": raw, "problem": row.problem}
        return row.model_copy(update={name: self.privacy.replace_escaped(text) for name, text in quotes.items()})

    def _count_private(self, numbers: Counter[PrivateKind]) -> None:
        self.counts.update({f"{PRIVATE}{kind}": number for kind, number in numbers.items()})

    def cleaned(self, permutations: int) -> CleanedBatch:
        documents, is_dropped = self._documents()
        self.counts["documents/read"] = len(documents) + sum(row.reason != "" for _, row in self.bad_rows)
        groups = (
            [mentioned_groups(*of) for of in zip(documents.texts.to_pylist(), documents.languages, strict=True)]
            if self.counts_groups
            else []
        )
        verdicts = self._verdicts(documents, is_dropped)
        shortened = documents.with_texts({row: verdict.text or "" for row, verdict in verdicts.shortened().items()})
        columns = self._check(shortened, verdicts, groups)
        if self.counts_groups:
            self.counts.update(group_counts.count(groups, verdicts))
        kept = np.flatnonzero(verdicts.is_kept)
        if cut := list(verdicts.shortened()):
            before, after = (filled_lines(of.texts.take(pa.array(cut))).sum() for of in (documents, shortened))
            self.counts[LINES] += int(before - after)
        counts = verdicts.counts()
        for prefix, values in (
            (DROPPED, [(verdict.reason, number) for verdict, number in counts if not verdict.keep]),
            (OTHER_LANGUAGE, [(verdict.language, number) for verdict, number in counts if verdict.language]),
        ):
            for value, number in values:
                self.counts[f"{prefix}{value}"] += number
        table = self._table(kept, shortened, permutations)
        for name, values in columns.items():
            table = table.append_column(name, values.take(pa.array(kept)))
        return CleanedBatch(table, self._rejected(documents, verdicts), self.counts)

    def _documents(self) -> tuple[Documents, np.ndarray]:
        """The documents, normalised and without personal data, long ones divided; and which are dropped for such data:
        bool[documents]."""
        self._flush()
        texts, garbled = normalised(pa.concat_arrays(self.texts))
        is_dropped = np.zeros(len(texts), np.bool_)
        if self.privacy.is_on:
            replaced = [self.privacy.replace(text) for text in texts.to_pylist()]
            for _, numbers in replaced:
                self._count_private(numbers)
            is_dropped[:] = [self.privacy.drops(numbers) for _, numbers in replaced]
            texts = pa.array([text for text, _ in replaced], pa.string())
        least = self.rules.split_words.least
        sizes = pc.call_function("binary_length", [texts]).to_numpy()
        if least is not None and (sizes > least).any():
            texts, garbled, is_dropped = self._split_long(texts.to_pylist(), garbled, is_dropped)
        documents = Documents(texts, self.origins.languages, garbled)
        return documents.with_languages() if "" in self.origins.languages else documents, is_dropped

    def _split_long(
        self, texts: list[str], garbled: np.ndarray, is_dropped: np.ndarray
    ) -> tuple[pa.Array, np.ndarray, np.ndarray]:
        """Replaces each row with a long text by its parts. Counts documents and parts."""
        limits = self.rules.split_words
        split = [long_documents.split_beyond(*of, limits) for of in zip(texts, self.origins.languages, strict=True)]
        split = [[text] if len(parts) == 1 else parts for text, parts in zip(texts, split, strict=True)]
        sizes = [len(parts) for parts in split]
        if num_parts := [size for size in sizes if size > 1]:
            self.counts.update({"documents/split": len(num_parts), "documents/parts": sum(num_parts)})
        places = np.repeat(np.arange(len(texts)), sizes).tolist()
        numbers = [number if size > 1 else 0 for size in sizes for number in range(1, size + 1)]
        self.origins = self.origins.take(places, numbers)
        parts = [part for of_text in split for part in of_text]
        traces = [  # spread evenly: where they were is not known any more
            round(int(garbled[place]) / len(texts[place]) * len(part)) if number else int(garbled[place])
            for place, number, part in zip(places, numbers, parts, strict=True)
        ]
        return pa.array(parts, pa.string()), np.array(traces, np.int64), is_dropped[places]

    def _check(self, documents: Documents, verdicts: Verdicts, groups: Sequence[Sequence[str]]) -> dict[str, pa.Array]:
        """Checks the documents that are kept and replaces their verdicts. Returns the checks' columns by name."""
        columns: dict[str, pa.Array] = {}
        ids = [self.origins.id(place) for place in range(len(documents))] if self.checks else []
        for check in self.checks:
            kept = np.flatnonzero(verdicts.is_kept).tolist()
            batch = Candidates(self.name, ids, documents, documents.hashed, kept, groups)
            result = check.apply(batch)
            self.counts.update(result.counts)
            columns |= result.columns
            for index, verdict in result.dropped.items():
                verdicts[index] = verdict
        return columns

    def _verdicts(self, documents: Documents, is_dropped: np.ndarray) -> Verdicts:
        is_blank = are_blank(documents.texts)
        rows = np.flatnonzero(~is_dropped & ~is_blank)
        verdicts = apply_filters(self.rules.filters, documents, self.origins.where, rows, self.origins.metas)
        for place in np.flatnonzero(is_blank).tolist():
            verdicts[place] = EMPTY
        for place in np.flatnonzero(is_dropped).tolist():
            verdicts[place] = Verdict(False, PERSONAL_DATA)
        for place, verdict in verdicts.shortened().items():
            if verdict.text == "":  # all its lines were dropped
                verdicts[place] = EMPTY
        return verdicts

    def _language(self, of_row: str | None) -> str:
        """The language that the row or the source names; empty if it is to be detected."""
        language = of_row or self.source.language
        return "" if language == "auto" else language

    def _table(self, kept: np.ndarray, documents: Documents, permutations: int) -> pa.Table:
        places, of = kept.tolist(), self.origins
        texts = documents.texts.take(pa.array(kept))
        hashed = documents.hashed if documents.is_hashed else hash_texts(texts, count_repetition=False)
        columns = [
            pa.array([of.id(place) for place in places], pa.string()),
            pa.array([self.name] * len(places), pa.string()),
            pa.array([of.groups[place] for place in places], pa.string()),
            pa.array([documents.languages[place] for place in places], pa.string()),
            texts,
            pa.array([list(of.metas[place].items()) for place in places], DOCUMENTS.field("meta").type),
            *_deduplication_columns(
                texts, hashed, kept if documents.is_hashed else np.arange(len(places)), permutations
            ),
        ]
        return pa.Table.from_arrays(columns, schema=schema(permutations))

    def _rejected(self, documents: Documents, verdicts: Verdicts) -> pa.Table:
        """The bad rows, and the documents that were dropped."""
        bad = [(part.where, row.row, row.reason or UNREADABLE, row.problem, row.raw) for part, row in self.bad_rows]
        rows = np.flatnonzero(~verdicts.is_kept)
        raw = documents.texts.take(pa.array(rows))
        raw = pc.call_function("utf8_slice_codeunits", [raw], pc.SliceOptions(0, RAW_CHARACTERS))
        of, dropped, numbers = self.origins, rows.tolist(), verdicts.numbers_D[rows].tolist()
        problems = [
            problem or _problem(verdicts[place])
            for place, problem in zip(dropped, verdicts.problems(rows), strict=True)
        ]
        columns = [
            [self.name] * (len(bad) + len(dropped)),
            [where for where, *_ in bad] + [of.parts[place].where for place in dropped],
            [row for _, row, *_ in bad] + [of.rows[place] for place in dropped],
            [reason for _, _, reason, *_ in bad] + [verdicts.shared[number].reason for number in numbers],
            [problem for *_, problem, _ in bad] + problems,
        ]
        arrays = [pa.array(column, kind) for column, kind in zip(columns, REJECTED.types, strict=False)]
        texts = pa.concat_arrays([pa.array([raw for *_, raw in bad], pa.string()), raw])
        return pa.Table.from_arrays([*arrays, texts], schema=REJECTED)


def with_keys(documents: pa.Table, permutations: int) -> pa.Table:
    """Returns DOCUMENTS with the columns for deduplication, as `schema` has them."""
    texts = documents.column("text").combine_chunks()
    rows = np.arange(len(texts))
    columns = _deduplication_columns(texts, hash_texts(texts), rows, permutations)
    return pa.Table.from_arrays([*documents.columns, *columns], schema=schema(permutations))


def _deduplication_columns(texts: pa.Array, hashed: HashedTexts, kept: np.ndarray, permutations: int) -> list[pa.Array]:
    """The columns of `schema` after those of DOCUMENTS. texts: those that are kept. kept: their places in `hashed`."""
    signatures = minhash.signatures(hashed, permutations, documents=kept)
    buffers = [None, pa.py_buffer(signatures)]
    return [
        pc.call_function("binary_length", [texts]).cast(pa.int64()),
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), len(texts), [None, pa.py_buffer(minhash.exact_keys(texts))]
        ),
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * permutations), len(texts), buffers),
        hashed.long_lines().take(pa.array(kept)),
    ]


def _problem(verdict: Verdict) -> str:
    """What is said of a document that no limit and no check dropped."""
    if verdict.language:
        return f"is in {language_name(verdict.language)}"
    return "has personal data" if verdict.reason == PERSONAL_DATA else NO_LIMIT


def warm_up(filters: Iterable[Filter | Custom] = ()) -> None:
    """Compiles numba's functions or loads them, so that tasks on this machine load them from its disk cache.

    filters: those whose functions are warmed up, too."""
    json_shape.look(b'{"text": "a word"}\n', b"text", 1)
    texts, _ = normalised(pa.array(["a word", "字"], pa.string()))
    documents = document_stats(texts, ["en", "zh"])
    minhash.signatures(documents.hashed, 16)
    minhash.exact_keys(texts)
    filled_lines(texts)
    are_blank(texts)
    for filter_ in filters:
        if filter_.reads_web_words:
            apply_filters([filter_], documents)  # each by itself: it would not see what one before it drops
