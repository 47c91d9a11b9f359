"""First half of the stage: one task encodes each part of the corpus into a file of token ids.

    train/part-00000.parquet ──encode, frame, shuffle──► draft/encoded/train/part-00000.arrow {language, tokens}

Training documents are shuffled within their part by (seed, part): a shard takes one contiguous run of each part
(shards.py), which is a random choice of its documents. The counts of a part are in its file's metadata.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.blocks import COUNTS, AtomicFile
from pipelines.data.corpus import corpora
from pipelines.data.tokens import packing
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.parallel import make_files
from pipelines.stage import Work

TRAIN, HELD_OUT = corpora.SPLITS
ENCODE_DOCUMENTS = 256  # at a time: the library's result takes some 100 bytes a token
WRITE_DOCUMENTS = 4096  # in a record batch


@dataclass
class Totals:
    """Counts of a split by language: documents, and tokens with those that frame each document."""

    documents: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)

    @property
    def languages(self) -> list[str]:
        return sorted(self.documents)

    def add(self, file: Path) -> None:
        """Adds the counts of an encoded part."""
        with pa.memory_map(str(file)) as source:
            counts = json.loads(pa.ipc.open_file(source).schema.metadata[COUNTS])
        self.documents.update(counts["documents"])
        self.tokens.update(counts["tokens"])


def folder(draft: Path, split: str) -> Path:
    """The folder of a split's encoded parts, in the order of their names."""
    return draft / "encoded" / split


def encode(work: Work, corpus: Path, tokenizer: Path) -> dict[str, Totals]:
    """Encodes the parts that are not encoded yet, in parallel. Returns the counts of each split."""
    files: list[tuple[str, Path]] = []
    items: list[dict[str, Any]] = []
    for split in corpora.SPLITS:
        folder(work.draft.path, split).mkdir(parents=True, exist_ok=True)  # of a split without parts, too
        for number, part in enumerate(corpora.parts(corpus, split)):
            file = folder(work.draft.path, split) / f"{part.stem}.arrow"
            files.append((split, file))
            order = [work.seed, number] if split == TRAIN else []
            items.append({"path": str(file), "part": str(part), "order": order})
    make_files(work, encode_part, items, unit="parts", tokenizer=str(tokenizer))
    totals = {split: Totals() for split in corpora.SPLITS}
    for split, file in files:
        totals[split].add(file)
    return totals


def encode_part(item: dict[str, Any], *, tokenizer: str) -> None:
    """Encodes one part of the corpus into a file with the language and the framed tokens of each document, in a task.

    item: {"path": to write, "part": Parquet file, "order": seeds of the documents' order, none keeps that of the part}.
    Holds the tokens of the part in memory."""
    encoder = Encoder.open(Path(tokenizer))
    dtype = packing.id_dtype(encoder.num_ids)
    languages: list[str] = []
    documents: list[np.ndarray] = []
    with pq.ParquetFile(item["part"]) as part:
        for batch in part.iter_batches(columns=["language", "text"], batch_size=ENCODE_DOCUMENTS, use_threads=False):
            languages += batch.column("language").to_pylist()
            documents += [encoder.frame(ids).astype(dtype) for ids in encoder.encode(batch.column("text").to_pylist())]
    numbers = np.arange(len(documents))
    order = np.random.default_rng(item["order"]).permutation(numbers) if item["order"] else numbers
    tokens: Counter[str] = Counter()
    for language, document in zip(languages, documents, strict=True):
        tokens[language] += len(document)
    counts = json.dumps({"documents": Counter(languages), "tokens": tokens}, sort_keys=True)
    schema = pa.schema([("language", pa.string()), ("tokens", pa.large_list(pa.from_numpy_dtype(dtype)))])
    schema = schema.with_metadata({COUNTS: counts})
    with AtomicFile(Path(item["path"])) as file:
        with pa.OSFile(str(file.temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for first in range(0, len(order), WRITE_DOCUMENTS):
                chosen = order[first : first + WRITE_DOCUMENTS]
                columns = [pa.array([languages[n] for n in chosen]), _lists([documents[n] for n in chosen])]
                writer.write_batch(pa.record_batch(columns, schema=schema))
        file.publish()


def _lists(arrays: list[np.ndarray]) -> pa.LargeListArray:
    offsets = np.cumsum([0, *map(len, arrays)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays)))
