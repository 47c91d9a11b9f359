"""The index of a knowledge artifact: which passages answer a question.

    passages.arrow     one row a passage: id, source, where, row, heading, begin, language, text
    bm25/              keyword scores (bm25s, Lucene's BM25), mapped into memory
    embeddings.npy     float32[passages, 384], where the recipe has embeddings: true
    knowledge.json     written last: numbers, and what the index was made with

A question is looked up by its terms and, where there are embeddings, by its meaning; both rankings are merged by
reciprocal rank (Cormack et al. 2009). All passages are compared, no approximate graph: 100,000 take 5 ms, after the
embedding of the question, which takes 30.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.data.knowledge import terms
from pipelines.errors import UserError

if TYPE_CHECKING:
    from bm25s import BM25

PASSAGES, KEYWORDS, EMBEDDINGS, SUMMARY = "passages.arrow", "bm25", "embeddings.npy", "knowledge.json"
FORMAT = 1
K1, B = 1.5, 0.75  # Lucene's BM25: how fast repeats of a term saturate, and how much long passages are discounted
RANK_OFFSET = 60  # of reciprocal rank fusion; the paper's
DEPTH = 100  # ranks of each list that are merged
SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("source", pa.string()), ("where", pa.string()), ("row", pa.int64()),
        ("heading", pa.string()), ("begin", pa.int64()), ("language", pa.string()), ("text", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Hit:
    """A passage that was found. score: of the ranking, higher is better; comparable within one lookup."""

    number: int
    score: float
    passage: dict[str, Any]  # a row of SCHEMA


def write_keywords(folder: Path, of_passages: pa.ChunkedArray) -> int:
    """Writes the keyword index. of_passages: list<dictionary<string>>, the terms of each passage. Returns the number of
    terms. Raises UserError where no passage has a term."""
    from bm25s import BM25

    encoded = pa.chunked_array([chunk.flatten() for chunk in of_passages.chunks], of_passages.type.value_type)
    if not len(encoded):
        raise UserError(f"none of {len(of_passages):,} passages holds a word or a number that it could be found by; "
                        "expected text in the sources of knowledge (for scans, the text of their pages)")  # fmt: skip
    chunks = encoded.unify_dictionaries().chunks
    numbers, dictionary = np.concatenate([chunk.indices.to_numpy() for chunk in chunks]), chunks[0].dictionary
    first = np.full(len(dictionary), len(numbers), np.int64)
    first[numbers[::-1]] = np.arange(len(numbers))[::-1]  # the last that is written stays, which is the first place
    in_order = np.argsort(first)  # so that terms are numbered alike, however the passages were divided
    vocabulary = {term: number for number, term in enumerate(dictionary.take(in_order).to_pylist())}
    numbers = np.argsort(in_order).astype(np.int32)[numbers]
    lengths = np.concatenate([chunk.value_lengths().to_numpy() for chunk in of_passages.chunks])
    index = BM25(k1=K1, b=B, method="lucene", backend="numpy", csc_backend="numpy")
    index.scores = bm25(numbers, np.concatenate(([0], lengths.cumsum())), len(vocabulary))
    index.nonoccurrence_array = None
    index.vocab_dict = {**vocabulary, "": len(vocabulary)}  # as bm25s has it, for a question without terms
    index.save(folder, show_progress=False)
    return len(vocabulary)


def bm25(terms: np.ndarray, bounds: np.ndarray, num_terms: int) -> dict[str, Any]:
    """BM25 scores in compressed columns, one a term: the arrays of `bm25s.BM25.scores`, which loops over passages in
    Python for them and takes ten times as long.

    terms: numbers of the terms of all passages, one after another; bounds: int[passages + 1], where each begins."""
    num_passages, lengths = len(bounds) - 1, np.diff(bounds)
    passage_of = np.repeat(np.arange(num_passages), lengths)
    pairs, repeats = np.unique(terms.astype(np.int64) * num_passages + passage_of, return_counts=True)
    term, passage = np.divmod(pairs, num_passages)
    num_with = np.bincount(term, minlength=num_terms)
    idf = np.log(1 + (num_passages - num_with + 0.5) / (num_with + 0.5)).astype(np.float32)
    discount = K1 * ((1 - B) + B * lengths / lengths.mean())
    scores = idf[term] * (repeats / (discount[passage] + repeats))
    return {"data": scores.astype(np.float32), "indices": passage.astype(np.int32),
            "indptr": np.concatenate(([0], num_with.cumsum())), "num_docs": num_passages}  # fmt: skip


class Index:
    """An open index. Thread-safe: all its files are read only."""

    def __init__(self, folder: Path):
        """Opens the index of an artifact's folder. Raises UserError where this installation cannot look up in it."""
        from bm25s import BM25

        from pipelines.data.knowledge.nearest import Vectors  # loads numba

        self.summary = read_summary(folder)
        with pa.ipc.open_file(pa.memory_map(str(folder / PASSAGES))) as reader:
            self._passages = reader.read_all()
        self._keywords: BM25 = BM25.load(folder / KEYWORDS, mmap=True, show_progress=False)
        has_embeddings = self.summary["embedder"] is not None
        self._embeddings = Vectors(np.load(folder / EMBEDDINGS, mmap_mode="r")) if has_embeddings else None

    def __len__(self) -> int:
        return self._passages.num_rows

    def search(self, question: str, k: int, *, by: Sequence[str] = ("keywords", "embeddings")) -> list[Hit]:
        """The best k passages for a question, the best first; fewer where no more have anything in common with it.

        by: the rankings that are used, as far as the index has them."""
        rankings: list[tuple[np.ndarray, np.ndarray]] = []
        if "keywords" in by:
            rankings.append(self._by_keywords(question))
        if "embeddings" in by and self._embeddings is not None:
            rankings.append(self._by_embedding(question))
        if len(rankings) == 1:
            numbers, scores = rankings[0]
        else:
            numbers, scores = _fused([numbers for numbers, _ in rankings])
        hits = zip(numbers[:k].tolist(), scores[:k].tolist(), strict=True)
        return [Hit(number, score, self._passages.slice(number, 1).to_pylist()[0]) for number, score in hits]

    def _by_keywords(self, question: str) -> tuple[np.ndarray, np.ndarray]:
        """(numbers, BM25 scores) of the best passages that share a term with the question."""
        ids = self._keywords.get_tokens_ids(list(dict.fromkeys(terms.terms(question))))
        return _best(self._keywords.get_scores_from_ids(ids), above=0.0)

    def _by_embedding(self, question: str) -> tuple[np.ndarray, np.ndarray]:
        """(numbers, cosines) of the passages nearest in meaning."""
        from pipelines.data.text.embeddings import embed

        assert self._embeddings is not None
        return _best(self._embeddings.cosines(embed([question], role="query")[0]), above=-1.0)


def read_summary(folder: Path) -> dict[str, Any]:
    """Reads knowledge.json. Raises UserError for an index that this installation cannot look up in."""
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    here: dict[str, Any] = {"format": FORMAT, "terms": terms.VERSION}
    if summary["embedder"] is not None:
        from pipelines.data.text.embeddings import embedder

        here["embedder"] = embedder()
    for key, value in here.items():
        if summary[key] != value:
            raise UserError(
                f"{folder / SUMMARY}: {key}: the index was made with {summary[key]!r}, and this installation has "
                f"{value!r}, whose results cannot be compared; make it again: rayse run RECIPE --force knowledge"
            )
    return summary


def _best(scores: np.ndarray, *, above: float) -> tuple[np.ndarray, np.ndarray]:
    """(numbers, scores) of the DEPTH best scores; of equal ones the first."""
    if len(scores) > DEPTH:
        threshold = np.partition(scores, len(scores) - DEPTH)[len(scores) - DEPTH]
        numbers = np.flatnonzero((scores >= threshold) & (scores > above))
    else:
        numbers = np.flatnonzero(scores > above)
    order = np.argsort(-scores[numbers], kind="stable")[:DEPTH]
    return numbers[order], scores[numbers[order]]


def _fused(rankings: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Merges rankings: the score of a passage is the sum of 1 / (RANK_OFFSET + its rank) over those that hold it."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking.tolist(), 1):
            scores[number] = scores.get(number, 0.0) + 1 / (RANK_OFFSET + rank)
    best = sorted(scores, key=lambda number: (-scores[number], number))
    return np.array(best, np.int64), np.array([scores[number] for number in best])
