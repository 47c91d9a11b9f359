"""Characters in repeated n-grams of words, as Gopher's filter counts them (Rae et al. 2021, table A1).

Compiled: each n is one pass over the words, with a polynomial hash of any n-gram in constant time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numba
import numpy as np

from pipelines.data.text.measures import insert
from pipelines.data.text.web_words import WebText, ngram_length

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def repeated_ngrams(
    text: WebText, language: str, top: Sequence[int], duplicate: Sequence[int]
) -> Iterable[tuple[int, int]]:
    """(n, characters) of each n of `top`: in all occurrences of the most frequent n-gram, with the blanks in it; then
    of each n of `duplicate`: in n-grams that repeat an earlier one, none counted twice."""
    numbers = (*top, *duplicate)
    characters = _repeated(text.hashes, text.lengths, *_sizes(numbers, language), len(top))
    return zip(numbers, characters.tolist(), strict=True)


@functools.lru_cache(16)
def _sizes(numbers: tuple[int, ...], language: str) -> tuple[np.ndarray, np.ndarray]:
    """(words of the n-grams of each n, n). int64."""
    return np.array([ngram_length(n, language) for n in numbers], np.int64), np.array(numbers, np.int64)


@numba.njit(cache=True)
def _repeated(
    hashes: np.ndarray, lengths: np.ndarray, ngram_lengths: np.ndarray, numbers: np.ndarray, num_top: int
) -> np.ndarray:
    """int64: the characters of each n. ngram_lengths: words of its n-grams. num_top: of `numbers`, those of `top`."""
    result = np.zeros(len(numbers), np.int64)
    hash_sums, length_sums, powers = _sums(hashes, lengths)
    capacity = 16
    while capacity < 2 * len(hashes):
        capacity *= 2
    keys, stamps = np.empty(capacity, np.uint64), np.zeros(capacity, np.int64)  # free: without the stamp of this n
    occurrences, firsts = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    unrepeated = len(hashes) + 1  # words of n-grams none of which occurs twice: no longer one does
    for index in range(len(numbers)):
        length, stamp = ngram_lengths[index], index + 1
        if length >= unrepeated:
            if index < num_top and length <= len(hashes):
                result[index] = length_sums[length] + numbers[index] - 1  # the first n-gram, once
        elif index < num_top:
            most, first = _top_ngram(hash_sums, powers, length, stamp, keys, stamps, occurrences, firsts)
            if most:
                result[index] = (length_sums[first + length] - length_sums[first] + numbers[index] - 1) * most
            unrepeated = length if most == 1 else unrepeated
        else:
            result[index] = _duplicate_ngrams(hash_sums, length_sums, powers, length, stamp, keys, stamps)
            unrepeated = length if result[index] == 0 else unrepeated
    return result


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
def _top_ngram(
    hash_sums: np.ndarray,
    powers: np.ndarray,
    length: int,
    stamp: int,
    keys: np.ndarray,
    stamps: np.ndarray,
    occurrences: np.ndarray,
    firsts: np.ndarray,
) -> tuple[int, int]:
    """(number, place) of the most frequent n-gram of `length` words, of equally frequent ones the first."""
    most, place = np.int64(0), np.int64(0)
    for first in range(len(hash_sums) - length):
        key = hash_sums[first + length] - hash_sums[first] * powers[length]
        slot, existed = insert(keys, stamps, stamp, key)
        if not existed:
            firsts[slot], occurrences[slot] = first, 0
        occurrences[slot] += 1
        if occurrences[slot] > most or (occurrences[slot] == most and firsts[slot] < place):
            most, place = occurrences[slot], firsts[slot]
    return int(most), int(place)


@numba.njit(cache=True)
def _duplicate_ngrams(
    hash_sums: np.ndarray,
    length_sums: np.ndarray,
    powers: np.ndarray,
    length: int,
    stamp: int,
    keys: np.ndarray,
    stamps: np.ndarray,
) -> int:
    """Characters in n-grams of `length` words that repeat an earlier one; after such a one the next begins."""
    first, characters = 0, 0
    while first < len(hash_sums) - length:
        key = hash_sums[first + length] - hash_sums[first] * powers[length]
        if insert(keys, stamps, stamp, key)[1]:
            characters += length_sums[first + length] - length_sums[first]
            first += length
        else:
            first += 1
    return characters
