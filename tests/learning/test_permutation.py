"""Permutations without a table: every number once, at a place that the seed decides."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.learning.permutation import permuted


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 64, 1000, 4097])
def test_every_number_comes_once(size: int) -> None:
    assert sorted(permuted(np.arange(size), size, [3]).tolist()) == list(range(size))


def test_places_may_be_computed_in_any_pieces() -> None:
    whole = permuted(np.arange(1000), 1000, [1, 2])
    places = np.array([999, 0, 500, 500])
    assert permuted(places, 1000, [1, 2]).tolist() == whole[places].tolist()
    assert permuted(np.zeros(0, np.int64), 1000, [1, 2]).tolist() == []


def test_seeds_give_other_permutations() -> None:
    first, again, second, third = (permuted(np.arange(100), 100, seed).tolist() for seed in ([1], [1], [2], [1, 1]))
    assert first == again
    assert first != second and first != third and second != third


def test_a_run_of_places_is_spread_over_all_numbers() -> None:
    """Chi-squared of 10,000 consecutive places in 100 bins: 99 on average, above 160 once in 10,000 cases."""
    counts = np.bincount(permuted(np.arange(10_000), 10**9, [5]) // 10**7, minlength=100)
    assert ((counts - 100) ** 2 / 100).sum() < 160


def test_more_numbers_than_fit_in_memory() -> None:
    size = 10**15 + 7
    numbers = permuted(np.arange(size - 100, size), size, [9])
    assert numbers.min() >= 0 and numbers.max() < size and len(set(numbers.tolist())) == 100
