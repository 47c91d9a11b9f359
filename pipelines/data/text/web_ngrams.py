"""Characters in repeated n-grams of words, as Gopher's filter counts them (Rae et al. 2021, table A1).

Compiled: each n is one pass over the words, with a polynomial hash of any n-gram in constant time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numba
import numpy as np

from pipelines.data.text.web_words import ngram_length

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def repeated_ngrams(
    words: Sequence[str], language: str, top: Sequence[int], duplicate: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Yields (n, characters) of each n of `top`: in all occurrences of the most frequent n-gram, with the blanks in it;
    then of each n of `duplicate`: in n-grams that repeat an earlier one, none counted twice."""
    hashes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    hash_sums, length_sums, powers = _sums(hashes, lengths)
    for n in top:
        length = ngram_length(n, language)
        yield n, int(_top_ngram(hash_sums, length_sums, powers, length, n - 1))
    for n in duplicate:
        yield n, int(_duplicate_ngrams(hash_sums, length_sums, powers, ngram_length(n, language)))


@numba.njit(cache=True)
def _sums(hashes: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (polynomial hash of the first i words, their characters, powers of the multiplier), each [words + 1]."""
    hash_sums, powers = np.zeros(len(hashes) + 1, np.uint64), np.ones(len(hashes) + 1, np.uint64)
    length_sums = np.zeros(len(hashes) + 1, np.int64)
    for word in range(len(hashes)):
        hash_sums[word + 1] = hash_sums[word] * MULTIPLIER + hashes[word]
        powers[word + 1] = powers[word] * MULTIPLIER
        length_sums[word + 1] = length_sums[word] + lengths[word]
    return hash_sums, length_sums, powers


@numba.njit(cache=True)
def _slot(keys: np.ndarray, used: np.ndarray, key: np.uint64) -> np.int64:
    """The slot of a key in an open-addressing hash table, or the free slot where it belongs."""
    mask = len(keys) - 1
    slot = np.int64((key ^ (key >> np.uint64(32))) & np.uint64(mask))
    while used[slot] and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True)
def _capacity(number: int) -> int:
    capacity = 16
    while capacity < 2 * number:
        capacity *= 2
    return capacity


@numba.njit(cache=True)
def _top_ngram(
    hash_sums: np.ndarray, length_sums: np.ndarray, powers: np.ndarray, length: int, num_blanks: int
) -> int | np.int64:
    """Characters in the most frequent n-gram of `length` words, of equally frequent ones the first, times its count."""
    number = len(hash_sums) - length
    if number <= 0:
        return 0
    capacity = _capacity(number)
    keys, occurrences = np.zeros(capacity, np.uint64), np.zeros(capacity, np.int64)
    firsts = np.zeros(capacity, np.int64)
    for first in range(number):
        key = hash_sums[first + length] - hash_sums[first] * powers[length]
        slot = _slot(keys, occurrences, key)
        if occurrences[slot] == 0:
            keys[slot], firsts[slot] = key, first
        occurrences[slot] += 1
    most = occurrences.max()
    first = firsts[occurrences == most].min()
    return (length_sums[first + length] - length_sums[first] + num_blanks) * most


@numba.njit(cache=True)
def _duplicate_ngrams(
    hash_sums: np.ndarray, length_sums: np.ndarray, powers: np.ndarray, length: int
) -> int | np.int64:
    """Characters in n-grams of `length` words that repeat an earlier one; after such a one the next begins."""
    number = len(hash_sums) - length
    if number <= 0:
        return 0
    capacity = _capacity(number)
    keys, used = np.zeros(capacity, np.uint64), np.zeros(capacity, np.int64)
    first, characters = 0, 0
    while first < number:
        key = hash_sums[first + length] - hash_sums[first] * powers[length]
        slot = _slot(keys, used, key)
        if used[slot]:
            characters += length_sums[first + length] - length_sums[first]
            first += length
        else:
            keys[slot], used[slot] = key, 1
            first += 1
    return characters
