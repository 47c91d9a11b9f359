"""Levels and phases of an order of training text, against plain sorting."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pipelines.data.tokens import phases
from pipelines.stages.tokens import ordering


def test_levels_are_in_the_order_of_values() -> None:
    values = np.array([-np.inf, -70_000, -3.5, -0.001, 0, 0.001, 1, 7, 2047, 2048, 65_504, 1e9])
    levels = phases.levels_of(np.clip(values, -1e30, 1e30))
    assert levels.dtype == np.uint16
    assert len(set(levels.tolist())) == len(values) - 2  # beyond ±65,504 they share a level
    assert (np.diff(levels.astype(int)) >= 0).all()
    assert len(set(phases.levels_of(np.arange(2049)).tolist())) == 2049  # numbers of tokens are exact up to here


def test_books_are_ordered_by_their_length_too() -> None:
    lengths = [1, 2, 2047, 2048, 60_000, 70_000, 400_000, 60_000_000]
    levels = ordering.levels_of("length", [None] * len(lengths), lengths, [7])
    assert (np.diff(levels.astype(int)) > 0).all()


def test_phases_have_equal_numbers_of_tokens_in_the_order_of_levels() -> None:
    generator = np.random.default_rng(0)
    levels, lengths = generator.integers(0, 2**16, 5000), generator.integers(1, 400, 5000)
    tokens: Counter[int] = Counter()
    for level, length in zip(levels.tolist(), lengths.tolist(), strict=True):
        tokens[level] += length
    found = phases.phases_of(levels.astype(np.uint16), phases.edges_of(tokens, 10))
    order = np.argsort(levels, kind="stable")
    middle = np.cumsum(lengths[order]) - lengths[order] / 2  # of each document, among all tokens
    expected = (10 * middle / lengths.sum()).astype(int)
    assert (np.diff(found[order]) >= 0).all()
    assert (found[order] != expected).mean() < 0.005 and np.abs(found[order] - expected).max() <= 1


def test_documents_of_one_level_are_in_one_phase() -> None:
    assert phases.phases_of(np.array([5, 5, 9]), phases.edges_of({5: 1000, 9: 1}, 4)).tolist() == [0, 0, 3]
    assert phases.phases_of(np.array([3]), phases.edges_of({3: 10}, 10)).tolist() == [0]
