"""The data card of a corpus: its size is bounded, and does not depend on how the corpus is cut into files."""

from __future__ import annotations

import json
import random
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.corpus import data_card, duplicates
from pipelines.data.corpus.documents import DOCUMENTS, REJECTED

EDGES = {"characters": data_card.LENGTH_EDGES, "quality": data_card.bin_edges(-1, 1)}


def documents(number: int, *, sources: int = 3) -> pa.Table:
    """Documents in both languages, with scores, some of which are missing."""
    rng = random.Random(1)
    rows: list[dict[str, Any]] = []
    for n in range(number):
        language = rng.choice(["en", "zh"])
        text = ("a word " if language == "en" else "一個字。") * rng.randint(1, 300)
        source = f"source {rng.randrange(sources)}"
        rows.append({"id": f"{source}/0/{n}", "source": source, "group": "g", "language": language, "text": text,
                     "meta": [], "quality": None if n % 10 == 0 else rng.uniform(-1, 1)})  # fmt: skip
    return pa.Table.from_pylist(rows, DOCUMENTS.append(pa.field("quality", pa.float32())))


def rejected(number: int, *, sources: int = 3, reasons: int = 5) -> pa.Table:
    rng = random.Random(2)
    rows = [{"source": f"source {rng.randrange(sources)}", "where": "a/long/path/" * 30 + "a.jsonl", "row": n,
             "reason": f"理由 {rng.randrange(reasons)}", "problem": "過大 " * 200, "raw": "字" * 500}
            for n in range(number)]  # fmt: skip
    return pa.Table.from_pylist(rows, REJECTED)


def summary(table: pa.Table, set_aside: pa.Table, *, cuts: int) -> data_card.Summary:
    """The summary of documents in so many files."""
    size = -(-table.num_rows // cuts)
    files = [table.slice(first, size) for first in range(0, table.num_rows, size)]
    parts = [data_card.summarise(file.to_batches(), "train", edges=EDGES, seed=7) for file in files]
    return reduce(data_card.merged, [data_card.summarise_rejected(set_aside.to_batches(), seed=7), *parts])


def card(whole: data_card.Summary, *, sources: int) -> dict[str, Any]:
    counts = {name: whole["documents"].get(name, {}) for name in (f"source {n}" for n in range(sources))}
    read = {name: of.get("train", 0) + sum(of.get("dropped", {}).values()) for name, of in counts.items()}
    member = {"id": "a/0/1", "text": "長" * 5000}
    text = data_card.data_card(whole, read=read, edges=EDGES, clusters=[{"documents": 9, "members": [member] * 5}] * 8)
    assert len(text) <= data_card.MAX_BYTES
    return json.loads(text)


def test_the_card_does_not_depend_on_how_documents_are_cut_into_files() -> None:
    table, set_aside = documents(500), rejected(100)
    whole, cut = (summary(table, set_aside, cuts=cuts) for cuts in (1, 7))
    assert json.dumps(whole, sort_keys=True) == json.dumps(cut, sort_keys=True)


def test_a_histogram_has_every_score_of_a_language_once() -> None:
    table = documents(500)
    rows = [row for row in table.to_pylist() if row["quality"] is not None]
    assert data_card.score_columns(table.schema) == ["quality"]
    counts = summary(table, rejected(1), cuts=3)["histograms"]["quality"]
    for language in ("en", "zh"):
        scores = [row["quality"] for row in rows if row["language"] == language]
        assert counts[language] == np.histogram(scores, EDGES["quality"])[0].tolist()


def test_a_histogram_without_a_value_is_left_out() -> None:
    whole = summary(documents(1), rejected(1), cuts=1)  # a document without a score
    assert list(whole["histograms"]) == ["characters", "quality"]
    assert list(card(whole, sources=3)["histograms"]) == ["characters"]
    assert card({**whole, "histograms": {"characters": {}}}, sources=3)["histograms"] == {}


@pytest.mark.parametrize(("sources", "reasons"), [(1, 1), (100, 1500)])
def test_the_card_is_bounded_and_adds_up_whatever_the_corpus(sources: int, reasons: int) -> None:
    whole = summary(documents(2000, sources=sources), rejected(4000, sources=sources, reasons=reasons), cuts=2)
    made = card(whole, sources=sources)
    assert len(made["documents"]) == (25 if sources == 100 else 1)
    assert sum(counts["train"] for counts in made["documents"].values()) == 2000
    assert sum(counts["read"] for counts in made["documents"].values()) == 2000 + 4000
    dropped = [counts["dropped"] for counts in made["documents"].values()]
    assert all(len(counts) <= 25 for counts in dropped)
    for counts in made["documents"].values():
        assert counts["read"] == counts["train"] + counts["held_out"] + sum(counts["dropped"].values())
    assert all(len(samples) <= 4 for samples in made["dropped"].values())
    assert "order" not in json.dumps(made)


def test_sources_and_reasons_may_have_the_names_of_what_a_sample_has() -> None:
    names = ("text", "order", "problem")
    rows = [{"source": name, "where": "a.jsonl", "row": n, "reason": name, "problem": "p", "raw": "r"}
            for n, name in enumerate(names)]  # fmt: skip
    whole = data_card.summarise_rejected(pa.Table.from_pylist(rows, REJECTED).to_batches(), seed=7)
    empty = {"languages": {}, "histograms": {}, "kept": {}}
    made = json.loads(data_card.data_card(whole | empty, read=dict.fromkeys(names, 1), edges=EDGES, clusters=[]))
    assert {source: counts["dropped"] for source, counts in made["documents"].items()} == {n: {n: 1} for n in names}
    sample = {"place": "a.jsonl:1", "source": "order", "text": "r", "problem": "p"}
    assert made["dropped"]["order"] == [sample] and made["dropped"].keys() == set(names)


def test_clusters_are_those_of_most_near_duplicates_and_each_document_is_in_one() -> None:
    pairs = np.array(
        [(1, 2), (1, 3), (4, 3), (4, 5), (6, 7), (6, 8), (6, 9), (7, 8)]
    )  # 7 is dropped: (7, 8) counts not
    better, worse = pairs.T
    dropped, survivors = duplicates.worse_duplicates(better, worse, np.full(len(pairs), 10))
    assert dropped.tolist() == [2, 3, 5, 7, 8, 9]
    clusters = duplicates.largest_clusters(dropped, survivors, max_clusters=2, max_members=2)
    assert clusters.to_pylist() == [{"kept": 6, "num_dropped": 3, "dropped": [7, 8]},
                                    {"kept": 1, "num_dropped": 2, "dropped": [2, 3]}]  # fmt: skip
