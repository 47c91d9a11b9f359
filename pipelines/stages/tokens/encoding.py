"""First half of the stage: one task encodes each part of the corpus into a file of token ids.

    train/part-00000.parquet ──encode, frame, shuffle──► draft/ranked/train/part-00000.arrow {language, rank, tokens},
                                                         with a column `group` where the mixture is by groups

Training documents are shuffled within their part by (seed, part): a shard takes one contiguous run of each part
(shards.py), which is a random choice of its documents. How often each is used depends on its rank, by which it follows
others of its language or group; with it a shard's task reads its own run alone. The counts of a part are in its file's
metadata. With an `order` a training document has its level, too (ordering.py).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.blocks import COUNTS, AtomicFile
from pipelines.data.corpus import corpora
from pipelines.data.tokens import packing
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.parallel import make_files
from pipelines.stage import Work
from pipelines.stages.tokens import ordering
from pipelines.stages.tokens.mixture import COLUMNS, NO_GROUP, Mixture, Order

TRAIN, HELD_OUT = corpora.SPLITS
ENCODE_DOCUMENTS = 256  # at a time: the library's result takes some 100 bytes a token
WRITE_DOCUMENTS = 4096  # in a record batch
NAMED_VALUES = 10  # without a weight, in messages and of each part


@dataclass
class Totals:
    """Counts of a split by language: documents, and tokens with those that frame each document."""

    documents: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    group_documents: Counter[str] = field(default_factory=Counter)  # both by group, where the mixture has groups
    group_tokens: Counter[str] = field(default_factory=Counter)
    parts: list[dict[str, int]] = field(default_factory=list)  # documents of each part, by what they are ranked by
    values: Counter[str] = field(default_factory=Counter)  # the most frequent ones without a weight in each part
    levels: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # tokens by group, language and level
    sources: Counter[str] = field(default_factory=Counter)  # documents, where the order is by sources
    unplaced: Counter[str] = field(default_factory=Counter)  # those of sources without a phase

    @property
    def languages(self) -> list[str]:
        return sorted(self.documents)

    def add(self, file: Path, ranked_by: str) -> None:
        """Adds the counts of the next encoded part."""
        with pa.memory_map(str(file)) as source:
            counts = json.loads(pa.ipc.open_file(source).schema.metadata[COUNTS])
        documents = counts["group_documents" if ranked_by == "group" else "documents"]
        self.parts.append({sys.intern(name): number for name, number in documents.items()})
        for group, language, level, tokens in counts.pop("levels", []):
            self.levels[group, language, level] += tokens
        for name, numbers in counts.items():
            getattr(self, name).update(numbers)


def folder(draft: Path, split: str) -> Path:
    """The folder of a split's encoded parts, in the order of their names."""
    return draft / "ranked" / split


def encode(work: Work, corpus: Path, tokenizer: Path) -> dict[str, Totals]:
    """Encodes the parts that are not encoded yet, in parallel. Returns the counts of each split."""
    files: list[tuple[str, Path]] = []
    items: list[dict[str, Any]] = []
    for split in corpora.SPLITS:
        folder(work.draft.path, split).mkdir(parents=True, exist_ok=True)  # of a split without parts, too
        for number, part in enumerate(corpora.parts(corpus, split)):
            file = folder(work.draft.path, split) / f"{part.stem}.arrow"
            files.append((split, file))
            seeds = [work.seed, number] if split == TRAIN else []
            items.append({"path": str(file), "part": str(part), "seeds": seeds})
    mixture = work.options.mixture if isinstance(work.options.mixture, Mixture) else None
    order: Order = work.options.order
    make_files(work, encode_part, items, unit="parts", tokenizer=str(tokenizer), mixture=mixture, order=order)
    totals = {split: Totals() for split in corpora.SPLITS}
    for split, file in files:
        totals[split].add(file, ranked_by(split, mixture))
    return totals


def ranked_by(split: str, mixture: Mixture | None) -> str:
    """The label by which documents of a split are used more or less often; held-out ones are all used once."""
    return "group" if split == TRAIN and mixture is not None else "language"


def encode_part(item: dict[str, Any], *, tokenizer: str, mixture: Mixture | None, order: Order) -> None:
    """Encodes one part of the corpus into a file with the language and the framed tokens of each document, in a task.

    item: {"path": to write, "part": Parquet file, "seeds": of the documents' order, none keeps that of the part}.
    mixture: has a group for each document, None if they have none. order: of training documents. Holds the tokens of
    the part in memory."""
    encoder = Encoder.open(Path(tokenizer))
    dtype = packing.id_dtype(encoder.num_ids)
    order = order if item["seeds"] else "shuffled"
    labels: dict[str, list[Any]] = {"language": []} | ({"value": []} if mixture else {})
    order_values: list[Any] = []
    documents: list[np.ndarray] = []
    columns = {"language", "text"} | ({"source" if mixture.by == "source" else "meta"} if mixture else set())
    order_column = ordering.column_of(order)
    columns |= set() if order_column is None else {order_column}
    with pq.ParquetFile(item["part"]) as part:
        for batch in part.iter_batches(columns=sorted(columns), batch_size=ENCODE_DOCUMENTS, use_threads=False):
            labels["language"] += batch.column("language").to_pylist()
            if mixture is not None:
                labels["value"] += _values(batch, mixture.by)
            if order_column is not None:
                order_values += batch.column(order_column).to_pylist()
            documents += [encoder.frame(ids).astype(dtype) for ids in encoder.encode(batch.column("text").to_pylist())]
    lengths = [len(document) for document in documents]
    counts = _counts("", labels["language"], lengths)
    if mixture is not None:
        values, group_of = labels.pop("value"), mixture.group_of
        labels["group"] = [group_of.get(value, NO_GROUP) for value in values]
        counts |= _counts("group_", labels["group"], lengths)
        counts["values"] = dict(Counter(value for value in values if value not in group_of).most_common(NAMED_VALUES))
    if order != "shuffled":
        groups = labels["group" if mixture else "language"]
        labels["level"] = ordering.levels_of(order, order_values, lengths, item["seeds"]).tolist()
        counts |= _level_counts(groups, labels["language"], labels["level"], lengths)
        if order_column == "source":
            counts["sources"] = Counter(order_values)
            counts["unplaced"] = ordering.without_phase(order, order_values, groups)
    by = ranked_by(TRAIN if item["seeds"] else HELD_OUT, mixture)
    _write(Path(item["path"]), labels, documents, dtype, counts, item["seeds"], by)


def _write(
    path: Path,
    labels: dict[str, list[Any]],
    documents: list[np.ndarray],
    dtype: np.dtype,
    counts: dict[str, Any],
    seeds: list[int],
    by: str,
) -> None:
    """Writes an encoded part, its documents shuffled by the seeds, if there are any. by: the label of their ranks."""
    numbers = np.arange(len(documents))
    shuffled = np.random.default_rng(seeds).permutation(numbers) if seeds else numbers
    labels = {**labels, "rank": [0] * len(documents)}
    seen: Counter[str] = Counter()
    for number in shuffled:
        labels["rank"][number] = seen[labels[by][number]]
        seen[labels[by][number]] += 1
    types = {"level": pa.uint16(), "rank": pa.uint32()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in labels])
    schema = schema.append(pa.field("tokens", pa.large_list(pa.from_numpy_dtype(dtype))))
    schema = schema.with_metadata({COUNTS: json.dumps(counts, sort_keys=True)})
    with AtomicFile(path) as file:
        with pa.OSFile(str(file.temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for first in range(0, len(shuffled), WRITE_DOCUMENTS):
                chosen = shuffled[first : first + WRITE_DOCUMENTS]
                arrays = [pa.array([labels[name][n] for n in chosen], schema.field(name).type) for name in labels]
                writer.write_batch(pa.record_batch([*arrays, _lists([documents[n] for n in chosen])], schema=schema))
        file.publish()


def _values(batch: pa.RecordBatch, by: str) -> list[str]:
    """The language, the source or the value of this key in `meta` of each document; empty for one without the key."""
    if by in COLUMNS:
        return batch.column(by).to_pylist()
    values = pc.call_function("map_lookup", [batch.column("meta")], pc.MapLookupOptions(pa.scalar(by), "first"))
    return [value or "" for value in values.to_pylist()]


def _counts(prefix: str, names: list[str], lengths: list[int]) -> dict[str, dict[str, int]]:
    """Documents and tokens by name, of documents with these names and numbers of tokens."""
    tokens: Counter[str] = Counter()
    for name, length in zip(names, lengths, strict=True):
        tokens[name] += length
    return {f"{prefix}documents": Counter(names), f"{prefix}tokens": tokens}


def _level_counts(
    groups: list[str], languages: list[str], levels: list[int], lengths: list[int]
) -> dict[str, list[list[Any]]]:
    """{"levels": [group, language, level, tokens] of each that there is}, of documents with these."""
    tokens: Counter[tuple[str, str, int]] = Counter()
    for group, language, level, length in zip(groups, languages, levels, lengths, strict=True):
        tokens[group, language, level] += length
    return {"levels": [[*key, number] for key, number in sorted(tokens.items())]}


def _lists(arrays: list[np.ndarray]) -> pa.LargeListArray:
    offsets = np.cumsum([0, *map(len, arrays)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays)))
