"""Characters in repeated n-grams of words, as Gopher's filter counts them (Rae et al. 2021, table A1).

Compiled: each n is one pass over the words, with a polynomial hash of any n-gram in constant time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numba
import numpy as np

from pipelines.data.text.measures import insert
from pipelines.data.text.web_words import WebText, ngram_length

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def first_above(
    text: WebText, language: str, top: Mapping[int, float], duplicate: Mapping[int, float], text_characters: int
) -> tuple[int, int] | None:
    """The first n whose n-grams have more than their fraction of a text's characters: (place among top, then duplicate;
    characters). None if there is none.

    top: n and limit, for all occurrences of the most frequent n-gram, with the blanks in it. duplicate: the same for
    n-grams that repeat an earlier one, none counted twice."""
    limits = _limits((*top.items(), *duplicate.items()), language)
    place, characters = _first_above(text.hashes, text.lengths, *limits, len(top), text_characters)
    return None if place < 0 else (place, characters)


@functools.lru_cache(16)
def _limits(limits: tuple[tuple[int, float], ...], language: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, words of the n-grams of each n, limits). int64, int64, float64."""
    numbers = [n for n, _ in limits]
    lengths = [ngram_length(n, language) for n in numbers]
    return np.array(numbers, np.int64), np.array(lengths, np.int64), np.array([limit for _, limit in limits])


@numba.njit(cache=True)
def _first_above(
    hashes: np.ndarray,
    lengths: np.ndarray,
    numbers: np.ndarray,
    ngram_lengths: np.ndarray,
    limits: np.ndarray,
    num_top: int,
    text_characters: int,
) -> tuple[int, int]:
    """(place of the first n above its limit, characters); (-1, 0) if there is none. ngram_lengths: words of n-grams."""
    hash_sums, length_sums, powers = _sums(hashes, lengths)
    capacity = 16
    while capacity < 2 * len(hashes):
        capacity *= 2
    keys, stamps = np.empty(capacity, np.uint64), np.zeros(capacity, np.int64)  # free: without the stamp of this n
    occurrences, firsts = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    unrepeated = len(hashes) + 1  # words of n-grams none of which occurs twice: no longer one does
    for place in range(len(numbers)):
        length, stamp, characters = ngram_lengths[place], place + 1, np.int64(0)
        if length >= unrepeated:
            if place < num_top and length <= len(hashes):
                characters = length_sums[length] + numbers[place] - 1  # the first n-gram, once
        elif place < num_top:
            most, first = _top_ngram(hash_sums, powers, length, stamp, keys, stamps, occurrences, firsts)
            if most:
                characters = (length_sums[first + length] - length_sums[first] + numbers[place] - 1) * most
            unrepeated = length if most == 1 else unrepeated
        else:
            characters = _duplicate_ngrams(hash_sums, length_sums, powers, length, stamp, keys, stamps)
            unrepeated = length if characters == 0 else unrepeated
        if text_characters and characters / text_characters > limits[place]:
            return place, int(characters)
    return -1, 0


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
