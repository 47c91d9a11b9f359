"""Pairs that are injected into a corpus, and how many of them are expected to be found."""

from __future__ import annotations

import doctest
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.corpus import minhash
from pipelines.stages.corpus.options import CorpusOptions
from tests.benchmarks import corpus_large, corpus_text


@pytest.mark.parametrize("similarity", [0.7, 0.78, 0.82, 0.9])
def test_what_is_expected_of_a_similarity_is_what_random_hashes_give(similarity: float) -> None:
    is_equal_NP = np.random.default_rng(1).random((40_000, 128)) < similarity
    num_bands, rows = minhash.bands(0.8, 128)
    banded_N = is_equal_NP[:, : num_bands * rows].reshape(-1, num_bands, rows).all(axis=-1).any(axis=-1)
    found_N = banded_N & (is_equal_NP.sum(axis=1) >= minhash.min_equal_hashes(0.8, 128))
    assert corpus_large.in_a_band(similarity, 0.8, 128) == pytest.approx(banded_N.mean(), abs=0.01)
    assert corpus_large.expected(similarity, 0.8, 128) == pytest.approx(found_N.mean(), abs=0.01)


def test_examples_are_right() -> None:
    result = doctest.testmod(corpus_large)
    assert result.attempted > 0 and result.failed == 0


def test_pairs_of_every_similarity_are_injected_and_counted_by_it(tmp_path: Path) -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghij", k=6)) for _ in range(3000)]
    texts = {"en": [" ".join(rng.choices(words, k=150)) for _ in range(90)],
             "zh": ["".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(200)) for _ in range(90)]}  # fmt: skip
    pairs = corpus_text.write_injected(tmp_path, texts, 90)
    rows = [json.loads(line) for line in (tmp_path / "injected.jsonl").read_text().splitlines()]
    assert Counter(row["pair"] for row in rows) == {str(pair): 2 for pair in range(len(pairs))}
    of_pair = {pair: [row["text"] for row in rows if row["pair"] == str(pair)] for pair in range(len(pairs))}
    for pair, (one, other) in of_pair.items():
        language = "en" if one.isascii() else "zh"
        assert pairs[pair] == corpus_text.jaccard(*(corpus_text.shingles(text, language) for text in (one, other)))
    chosen = {pair for pair, similarity in enumerate(pairs) if similarity >= 0.8}
    figures = corpus_large.recall_by_similarity(pairs, chosen, CorpusOptions())
    assert [figures[f"corpus/near_recall_{name}"] for name in ("70_80", "80_85", "85_100")] == [0, 1, 1]
    assert sum(figures[f"corpus/near_pairs_{name}"] for name in ("70_80", "80_85", "85_100")) == sum(
        similarity >= 0.7 for similarity in pairs
    )
    assert all(figures[f"corpus/near_pairs_{name}"] >= 3 for name in ("70_80", "80_85", "85_100"))
