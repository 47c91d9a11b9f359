"""Semantic near duplicates: cells and pairs of vectors, against loops over all pairs in 64-bit arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.data.corpus import semantic

THRESHOLD = 0.9


def clustered(number: int, dimensions: int = 384, seed: int = 0) -> np.ndarray:
    """Vectors around a tenth as many centres, some of them nearly equal, one of zeros."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(number // 10, dimensions))
    noise = rng.normal(size=(number, dimensions)) * rng.choice([0.1, 0.3, 1.0], (number, 1))
    vectors = centres[rng.integers(0, len(centres), number)] + noise
    vectors[number // 2] = 0
    return semantic.quantise(vectors)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    dots = first.astype(np.int64) @ second.astype(np.int64).T
    norms = [np.sqrt((vectors.astype(np.int64) ** 2).sum(axis=1)) for vectors in (first, second)]
    return dots / np.maximum(np.outer(*norms), 1e-9)


@pytest.mark.parametrize("number", [1, 40, semantic.TILE, 3 * semantic.TILE + 7])
def test_pairs_are_those_with_a_better_vector_that_is_similar_to_none_before_it(number: int) -> None:
    vectors = clustered(max(number, 10))[:number]
    similar = cosines(vectors, vectors) >= THRESHOLD
    leaders: list[int] = []
    expected: list[tuple[int, int]] = []
    for worse in range(number):
        better = [leader for leader in leaders if similar[leader, worse]][: semantic.MAX_PAIRS]
        expected += [(leader, worse) for leader in better]
        if not better:
            leaders.append(worse)
    assert [tuple(pair) for pair in semantic.similar_pairs(vectors, THRESHOLD).tolist()] == expected
    assert number < 40 or len(expected) > number // 5


def test_nearest_centroids_are_those_with_the_largest_cosines() -> None:
    vectors = clustered(1100)
    centroids = semantic.centroids(vectors[:1000], 30)
    exact = cosines(vectors, centroids)
    nearest = semantic.nearest(vectors, centroids, 2)
    ordered = np.sort(exact, axis=1)
    chosen = np.take_along_axis(exact, nearest, axis=1)
    np.testing.assert_allclose(chosen, ordered[:, [-1, -2]], rtol=0, atol=1e-12)
    assert semantic.nearest(vectors[:5], centroids[:1], 1).tolist() == [[0]] * 5


def test_centroids_bring_vectors_of_a_centre_together() -> None:
    """Of equally many vectors around 40 centres far apart k-means in whole numbers finds the centres."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(40, 384))
    of_centre = np.concatenate([np.arange(40), rng.integers(0, 40, 2000)])  # one of each first, where k-means begins
    vectors = semantic.quantise(centres[of_centre] + 0.3 * rng.normal(size=(len(of_centre), 384)))
    centroids = semantic.centroids(vectors, 40)
    assert semantic.nearest(vectors, centroids, 1)[:, 0].tolist() == of_centre.tolist()
    assert (np.diag(cosines(centroids, semantic.quantise(centres))) > 0.99).all()


@pytest.mark.parametrize("dimensions", [2, 384, 1024, 4096])
def test_dot_products_of_quantised_vectors_are_exact_in_float32(dimensions: int) -> None:
    extreme = semantic.quantise(np.ones((1, dimensions)))
    assert int((extreme.astype(np.int64) ** 2).sum()) <= semantic.EXACT_FLOAT32
    vectors = np.random.default_rng(2).normal(size=(50, dimensions))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    quantised = semantic.quantise(vectors)
    np.testing.assert_allclose(cosines(quantised, quantised), unit @ unit.T, atol=0.02)


def test_an_excerpt_is_the_beginning_and_the_end_and_valid_text() -> None:
    text = "开头" * 50 + "结尾" * 50
    excerpt = semantic.excerpt(text, 100)
    assert excerpt.startswith("开头开头") and excerpt.endswith("结尾结尾")
    assert 90 <= len(excerpt.encode()) <= 101
    assert semantic.excerpt("short 短", 100) == "short 短"
