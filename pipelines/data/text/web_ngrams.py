"""Characters in repeated n-grams of words, as Gopher's filter counts them (Rae et al. 2021, table A1).

Compiled: each n is a pass over the words, with a polynomial hash of any n-gram in constant time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numba
import numpy as np

from pipelines.data.text.measures import insert
from pipelines.data.text.web_counts import WebCounts
from pipelines.data.text.web_words import ngram_length

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def first_above(
    texts: WebCounts,
    language: str,
    top: Mapping[int, float],
    duplicate: Mapping[int, float],
    characters_D: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Of each text the first n whose n-grams have more than their fraction of its characters: (place among top, then
    duplicate, -1 if there is none; characters of those n-grams). int64[documents] each.

    All texts are in this language; characters_D are theirs. top: n and limit, for all occurrences of the most frequent
    n-gram, with the blanks in it. duplicate: the same for n-grams that repeat an earlier one, none counted twice."""
    limits = _limits((*top.items(), *duplicate.items()), language)
    return _first_above(texts.hashes_N, texts.lengths_N, texts.word_bounds_D, *limits, len(top), characters_D)


@functools.lru_cache(16)
def _limits(limits: tuple[tuple[int, float], ...], language: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, words of the n-grams of each n, limits). int64, int64, float64."""
    numbers = [n for n, _ in limits]
    lengths = [ngram_length(n, language) for n in numbers]
    return np.array(numbers, np.int64), np.array(lengths, np.int64), np.array([limit for _, limit in limits])


@numba.njit(cache=True)
def _first_above(
    hashes_N: np.ndarray,
    lengths_N: np.ndarray,
    word_bounds_D: np.ndarray,
    numbers: np.ndarray,
    ngram_lengths: np.ndarray,
    limits: np.ndarray,
    num_top: int,
    characters_D: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(place of the first n above its limit, characters) of each text. ngram_lengths: words of n-grams."""
    places_D, found_D = np.full(len(word_bounds_D), -1, np.int64), np.zeros(len(word_bounds_D), np.int64)
    largest = 0
    for start, stop in word_bounds_D:
        largest = max(largest, stop - start)
    capacity = 16
    while capacity < 2 * largest:
        capacity *= 2
    keys, stamps = np.empty(capacity, np.uint64), np.zeros(capacity, np.int64)  # free: without the stamp of this n
    occurrences, firsts = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    hash_sums, length_sums = np.zeros(largest + 1, np.uint64), np.zeros(largest + 1, np.int64)
    powers, repeated = np.ones(largest + 1, np.uint64), np.empty(largest + 1, np.bool_)
    for word in range(largest):
        powers[word + 1] = powers[word] * MULTIPLIER
    for document in range(len(word_bounds_D)):
        start, stop = word_bounds_D[document]
        size = 16
        while size < 2 * (stop - start):
            size *= 2
        of_text = slice(0, stop - start + 1)
        _add_up(hashes_N[start:stop], lengths_N[start:stop], hash_sums, length_sums)
        places_D[document], found_D[document] = _first_above_of_text(
            hash_sums[of_text],
            length_sums[of_text],
            powers,
            numbers,
            ngram_lengths,
            limits,
            num_top,
            characters_D[document],
            1 + document * len(numbers),
            keys[:size],
            stamps[:size],
            occurrences[:size],
            firsts[:size],
            repeated[of_text],
        )
    return places_D, found_D


@numba.njit(cache=True)
def _first_above_of_text(
    hash_sums: np.ndarray,
    length_sums: np.ndarray,
    powers: np.ndarray,
    numbers: np.ndarray,
    ngram_lengths: np.ndarray,
    limits: np.ndarray,
    num_top: int,
    text_characters: int,
    first_stamp: int,
    keys: np.ndarray,
    stamps: np.ndarray,
    occurrences: np.ndarray,
    firsts: np.ndarray,
    repeated: np.ndarray,
) -> tuple[int, int]:
    """(place of the first n above its limit, characters); (-1, 0) if there is none.

    repeated: filled in with whether the n-gram that begins at a word occurs elsewhere, as far as that is known: a
    longer one that begins there can only then occur twice, so nearly all words are left out after the first n."""
    unrepeated = len(hash_sums)  # words of n-grams none of which occurs twice: no longer one does
    repeated[:], shortest = True, 0  # the longest n-grams that were left out
    for place in range(len(numbers)):
        length, stamp, characters = ngram_lengths[place], first_stamp + place, np.int64(0)
        if length < shortest:
            repeated[:], shortest = True, 0
        if length >= unrepeated:
            if place < num_top and length < len(hash_sums):
                characters = length_sums[length] + numbers[place] - 1  # the first n-gram, once
        elif place < num_top:
            most, first = _top_ngram(hash_sums, powers, length, stamp, keys, stamps, occurrences, firsts, repeated)
            shortest = length
            if most:
                characters = (length_sums[first + length] - length_sums[first] + numbers[place] - 1) * most
            unrepeated = length if most == 1 else unrepeated
        else:
            characters = _duplicate_ngrams(hash_sums, length_sums, powers, length, stamp, keys, stamps, repeated)
            unrepeated = length if characters == 0 else unrepeated
        if text_characters and characters / text_characters > limits[place]:
            return place, int(characters)
    return -1, 0


@numba.njit(cache=True)
def _add_up(hashes: np.ndarray, lengths: np.ndarray, hash_sums: np.ndarray, length_sums: np.ndarray) -> None:
    """Fills in, from the second place on, the polynomial hash of the first i words of a text, and their characters."""
    for word in range(len(hashes)):
        hash_sums[word + 1] = hash_sums[word] * MULTIPLIER + hashes[word]
        length_sums[word + 1] = length_sums[word] + lengths[word]


@numba.njit(cache=True)
def _insert_ngram(
    hash_sums: np.ndarray,
    powers: np.ndarray,
    first: int,
    length: int,
    stamp: int,
    keys: np.ndarray,
    stamps: np.ndarray,
) -> tuple[np.int64, bool]:
    """Inserts the hash of an n-gram; returns (its slot, whether it was there). first: its first word."""
    return insert(keys, stamps, stamp, hash_sums[first + length] - hash_sums[first] * powers[length])


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
    repeated: np.ndarray,
) -> tuple[int, int]:
    """(number, place) of the most frequent n-gram of `length` words, of equally frequent ones the first.

    Looks only where `repeated` says that a shorter n-gram is, and then narrows it to those of this length."""
    num_ngrams = len(hash_sums) - length
    most, place = np.int64(min(1, max(num_ngrams, 0))), np.int64(0)
    for first in range(num_ngrams):
        if not repeated[first]:
            continue
        slot, existed = _insert_ngram(hash_sums, powers, first, length, stamp, keys, stamps)
        if existed:
            repeated[firsts[slot]] = True
        else:
            firsts[slot], occurrences[slot] = first, 0
        repeated[first] = existed
        occurrences[slot] += 1
        if occurrences[slot] > most or (occurrences[slot] == most and firsts[slot] < place):
            most, place = occurrences[slot], firsts[slot]
    repeated[max(num_ngrams, 0) :] = False
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
    repeated: np.ndarray,
) -> int:
    """Characters in n-grams of `length` words that repeat an earlier one; after such a one the next begins.

    repeated: where they may be; elsewhere n-grams are as different as all."""
    first, characters = 0, 0
    while first < len(hash_sums) - length:
        if not repeated[first]:
            first += 1
            continue
        if _insert_ngram(hash_sums, powers, first, length, stamp, keys, stamps)[1]:
            characters += length_sums[first + length] - length_sums[first]
            first += length
        else:
            first += 1
    return characters
