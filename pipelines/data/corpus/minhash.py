"""Exact and near duplicates: keys, MinHash signatures, and clusters of documents that share most of their phrases.

    words (measures.py) ──5 at a time──► shingles ──128 hash functions, least of each──► signature
    signatures ──bands: equal in some r places──► candidates ──equal in 80% of all places──► clusters

The share of equal places of two signatures estimates the Jaccard similarity of their sets of shingles (Broder 1997);
bands find the pairs worth comparing (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, ch. 3.4). A word is a
Chinese character or a word of other scripts, so shingles are 5 words of English and 5 characters of Chinese.
Everything is a pure function of its arguments: no random state, no dependence on how documents were batched.
"""

from __future__ import annotations

import numba
import numpy as np
import xxhash

from pipelines.data.text.measures import Cut, ngram

SHINGLE_WORDS = 5
RECALL = 0.98  # of pairs that are exactly as similar as the threshold, how many the bands bring together
EMPTY = np.uint32(0xFFFFFFFF)  # in every place of the signature of a text without words


def exact_key(text: str) -> bytes:
    """16 bytes that are equal for texts that differ in nothing but their blanks.

    >>> exact_key("one  two\\n") == exact_key("one two")
    True
    """
    return xxhash.xxh3_128_digest(" ".join(text.split()).encode())


def signatures(pieces: Cut, permutations: int) -> np.ndarray:
    """uint32[documents, permutations]: of each hash function the least value over a document's shingles.

    A text of fewer words than a shingle is one shingle."""
    found = np.full((len(pieces.word_starts) - 1, permutations), EMPTY, np.uint32)
    multipliers, summands = _hash_functions(permutations)
    _least(pieces.words, pieces.word_starts, multipliers, summands, found)
    return found


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Estimate of the Jaccard similarity of two documents from their signatures; its standard error is at most 0.045
    with 128 permutations."""
    return float(np.mean(one == other))


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows a band) for a threshold: the most rows by which bands still bring RECALL of its pairs together.

    Two documents of similarity s agree in some band with probability 1 - (1 - s^rows)^bands.

    >>> bands(0.8, 128)
    (18, 7)
    """
    for rows in range(permutations, 0, -1):
        count = permutations // rows
        if 1 - (1 - threshold**rows) ** count >= RECALL:
            return count, rows
    return permutations, 1


def clusters(found: np.ndarray, threshold: float) -> np.ndarray:
    """int64[documents]: of each document the first document of its cluster of near duplicates (itself if alone).

    found: signatures, in the order in which the first shall be kept. A chain of near duplicates is one cluster."""
    parents = np.arange(len(found))
    if len(found) < 2:
        return parents
    with_words = np.flatnonzero((found != EMPTY).any(axis=1))
    count, rows = bands(threshold, found.shape[1])
    for band in range(count):
        keys = _band_keys(found[:, band * rows : (band + 1) * rows])[with_words]
        order = np.argsort(keys, kind="stable")
        _link(found, with_words[order], keys[order], _least_equal(threshold, found.shape[1]), parents)
    return _roots(parents)


def similar_to_any(found: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """bool[documents]: whether a document is as similar as the threshold to any of the others.

    found, others: signatures of equal width."""
    similar = np.zeros(len(found), np.bool_)
    if not len(found) or not len(others):
        return similar
    similar_words = (found != EMPTY).any(axis=1)
    count, rows = bands(threshold, found.shape[1])
    for band in range(count):
        own = _band_keys(found[:, band * rows : (band + 1) * rows])
        theirs = _band_keys(others[:, band * rows : (band + 1) * rows])
        order = np.argsort(theirs, kind="stable")
        _match(found, own, others, order, theirs[order], _least_equal(threshold, found.shape[1]), similar)
    return similar & similar_words


def _least_equal(threshold: float, permutations: int) -> int:
    """Equal places that make two documents as similar as the threshold."""
    return int(np.ceil(threshold * permutations - 1e-9))


def _hash_functions(permutations: int) -> tuple[np.ndarray, np.ndarray]:
    """(odd multipliers, summands), uint64: multiply-shift hashing (Dietzfelbinger et al. 1997), always the same."""
    numbers = np.arange(1, 2 * permutations + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    numbers ^= numbers >> np.uint64(31)
    return numbers[:permutations] | np.uint64(1), numbers[permutations:]


def _band_keys(places: np.ndarray) -> np.ndarray:
    """uint64[documents]: one number for the places of a band."""
    keys = np.full(len(places), 0xCBF29CE484222325, np.uint64)
    for column in range(places.shape[1]):
        keys = (keys ^ places[:, column]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(32)
    return keys


@numba.njit(cache=True)
def _least(words, starts, multipliers, summands, found):
    for document in range(len(starts) - 1):
        own = words[starts[document] : starts[document + 1]]
        if not len(own):
            continue
        length = min(SHINGLE_WORDS, len(own))
        least = found[document]
        for first in range(len(own) - length + 1):
            shingle = ngram(own, first, length)
            for place in range(len(multipliers)):
                value = np.uint32((shingle * multipliers[place] + summands[place]) >> np.uint64(32))
                least[place] = min(least[place], value)


@numba.njit(cache=True)
def _equal_places(one, other):
    equal = 0
    for place in range(len(one)):
        equal += one[place] == other[place]
    return equal


@numba.njit(cache=True)
def _root(parents, document):
    while parents[document] != document:
        parents[document] = parents[parents[document]]
        document = parents[document]
    return document


@numba.njit(cache=True)
def _link(found, documents, keys, least_equal, parents):
    """Joins near duplicates among documents with equal keys.

    In a bucket each document is compared with the leaders: those before it that no leader was similar to."""
    leaders = np.empty(len(documents), np.int64)
    num_leaders = 0
    for place in range(len(documents)):
        if place == 0 or keys[place] != keys[place - 1]:
            num_leaders = 0
        document, leads = documents[place], True
        for leader in leaders[:num_leaders]:
            one, other = _root(parents, leader), _root(parents, document)
            if one == other or _equal_places(found[leader], found[document]) >= least_equal:
                parents[max(one, other)] = min(one, other)
                leads = False
                break
        if leads:
            leaders[num_leaders] = document
            num_leaders += 1


@numba.njit(cache=True)
def _roots(parents):
    roots = np.empty_like(parents)
    for document in range(len(parents)):
        roots[document] = _root(parents, document)
    return roots


@numba.njit(cache=True)
def _match(found, keys, others, order, sorted_keys, least_equal, similar):
    """Marks the documents that are similar to one of the others with an equal key."""
    for document in range(len(found)):
        if similar[document]:
            continue
        place = np.searchsorted(sorted_keys, keys[document])
        while place < len(sorted_keys) and sorted_keys[place] == keys[document]:
            if _equal_places(found[document], others[order[place]]) >= least_equal:
                similar[document] = True
                break
            place += 1
