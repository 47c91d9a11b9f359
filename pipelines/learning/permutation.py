"""A random permutation of any number of rows that takes no memory: each place is computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ROUNDS = 6  # four make a strong pseudorandom permutation (Luby & Rackoff 1988), of larger numbers than a few rows'


def permuted(places_N: np.ndarray, size: int, seed: Sequence[int]) -> np.ndarray:
    """The numbers at these places of a random permutation of 0 … size - 1, chosen by the seed. int64 [N].

    A Feistel network permutes the numbers of an even count of bits, fewer than 4 × size of them; numbers that are too
    large are permuted again until they are not (cycle walking, Black & Rogaway 2002)."""
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    keys = np.random.SeedSequence(list(seed)).generate_state(ROUNDS, np.uint64)
    numbers = places_N.astype(np.uint64)
    too_large = np.ones(len(numbers), bool)
    while too_large.any():
        numbers[too_large] = _feistel(numbers[too_large], half, keys)
        too_large = numbers >= size
    return numbers.astype(np.int64)


def _feistel(numbers_N: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers_N >> half, numbers_N & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(numbers_N: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of the input changes half of the output's."""
    numbers_N = (numbers_N ^ (numbers_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers_N = (numbers_N ^ (numbers_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers_N ^ (numbers_N >> np.uint64(31))
