"""Nearest vectors in 8 bits against float64, on vectors as near to each other as real embeddings are."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.data.knowledge.nearest import EXACT, Vectors


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((20_000, 384)) + 1.6 * random.standard_normal(384)  # cosines about 0.7
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_the_first_hundred_are_those_of_an_exact_comparison(vectors: np.ndarray) -> None:
    searched = Vectors(vectors[1:])
    exact = vectors[1:].astype(np.float64) @ vectors[0]
    cosines = searched.cosines(vectors[0])
    first = np.argsort(-exact)[:100]
    assert np.argsort(-cosines)[:100].tolist() == first.tolist()
    assert np.abs(cosines - exact)[np.argsort(-exact)[: EXACT // 2]].max() < 1e-6
    assert np.abs(cosines - exact).max() < 0.003


@pytest.mark.parametrize("count", [1, 3, EXACT + 1])
def test_any_number_of_vectors_can_be_searched(vectors: np.ndarray, count: int) -> None:
    cosines = Vectors(vectors[:count]).cosines(vectors[count - 1])
    assert int(np.argmax(cosines)) == count - 1 and cosines.max() == pytest.approx(1, abs=1e-6)
