"""Exact and fuzzy deduplication: keys, MinHash signatures, and which of them are similar.

    words (measures.py) ──5 at a time──► shingles ──128 hash functions, minimum of each──► signature
    signatures ──LSH bands: equal in all rows of a band──► candidates ──equal in 80% of all hashes──► near duplicates

The fraction of equal hashes of two signatures estimates the Jaccard similarity of their sets of shingles (Broder 1997);
bands select the pairs to compare (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, ch. 3.4). A word is a
Chinese character or a word of other scripts, so shingles are 5 words of English and 5 characters of Chinese.
Everything is a pure function of its arguments: no random state, no dependence on how documents were batched.

Shape suffixes: D documents, P permutations (the hashes of a signature), R rows of a band.
"""

from __future__ import annotations

from itertools import pairwise

import numba
import numpy as np
import pyarrow as pa
import xxhash

from pipelines.data.text.line_counts import joined_by_spaces
from pipelines.data.text.measures import MIX, HashedTexts, ngram_hash

SHINGLE_WORDS = 5
RECALL = 0.98  # fraction of the pairs exactly at the threshold that become candidates
EMPTY = np.uint32(0xFFFFFFFF)  # every hash of the signature of a text without words


def exact_keys(texts: pa.Array) -> np.ndarray:
    """Returns uint8[D, 16]: keys that are equal for texts that differ only in blank space.

    >>> one, other = exact_keys(pa.array(["one  two\\n", "one two"]))
    >>> one.tobytes() == other.tobytes()
    True
    """
    joined, ends = joined_by_spaces(texts)
    view, bounds = joined.data, [0, *ends.tolist()]
    keys = [xxhash.xxh3_128_digest(view[start:end]) for start, end in pairwise(bounds)]
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)


def signatures(
    hashed: HashedTexts, permutations: int, *, documents: np.ndarray | None = None, shingle_words: int = SHINGLE_WORDS
) -> np.ndarray:
    """Returns uint32[D, P]: the minimum of each hash function over a document's shingles.

    A text with fewer words than a shingle is one shingle. documents: int64[D], the places of those that are signed;
    default: all."""
    documents_D = np.arange(len(hashed.word_starts) - 1) if documents is None else documents
    signatures_DP = np.full((len(documents_D), permutations), EMPTY, np.uint32)
    multipliers_P, summands_P = _hash_functions(permutations)
    starts_D, stops_D = hashed.word_starts[documents_D], hashed.word_starts[documents_D + 1]
    _fill_signatures(hashed.words, starts_D, stops_D, shingle_words, multipliers_P, summands_P, signatures_DP)
    return signatures_DP


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Returns (number of bands, rows of a band): the most rows with which RECALL of the pairs become candidates.

    Two documents of similarity s are equal in some band with probability 1 - (1 - s^rows)^bands.

    >>> bands(0.8, 128)
    (18, 7)
    """
    for rows in range(permutations, 0, -1):
        num_bands = permutations // rows
        if 1 - (1 - threshold**rows) ** num_bands >= RECALL:
            return num_bands, rows
    return permutations, 1


def band_hashes(signatures_DP: np.ndarray, threshold: float) -> np.ndarray:
    """Returns uint64[D, bands]: the hash of each band of each signature; documents with an equal one are candidates.

    Hashes of different bands are different, and spread evenly over all 64-bit numbers."""
    num_bands, rows = bands(threshold, signatures_DP.shape[1])
    hashes = [
        (_band_keys(signatures_DP[:, band * rows : (band + 1) * rows]) ^ np.uint64(band)) * MIX
        for band in range(num_bands)
    ]
    return np.stack(hashes, axis=1)


def similar_to_any(signatures_DP: np.ndarray, reference_EP: np.ndarray, threshold: float) -> np.ndarray:
    """Returns bool[D]: whether a document's similarity to any reference document reaches the threshold.

    signatures_DP, reference_EP: signatures of D documents and E reference documents."""
    similar_D = np.zeros(len(signatures_DP), np.bool_)
    if not len(signatures_DP) or not len(reference_EP):
        return similar_D
    has_words_D = (signatures_DP != EMPTY).any(axis=1)
    min_equal = min_equal_hashes(threshold, signatures_DP.shape[1])
    num_bands, rows = bands(threshold, signatures_DP.shape[1])
    for band in range(num_bands):
        keys_D = _band_keys(signatures_DP[:, band * rows : (band + 1) * rows])
        keys_E = _band_keys(reference_EP[:, band * rows : (band + 1) * rows])
        order_E = np.argsort(keys_E, kind="stable")
        _mark_similar(signatures_DP, keys_D, reference_EP, order_E, keys_E[order_E], min_equal, similar_D)
    return similar_D & has_words_D


def min_equal_hashes(threshold: float, permutations: int) -> int:
    """Returns the number of equal hashes from which on the estimated similarity reaches the threshold."""
    return int(np.ceil(threshold * permutations - 1e-9))


def _hash_functions(permutations: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint64[P] each: odd multipliers, and summands. Multiply-shift hashing (Dietzfelbinger et al. 1997)."""
    numbers = np.arange(1, 2 * permutations + 1, dtype=np.uint64) * MIX
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    numbers ^= numbers >> np.uint64(31)
    return numbers[:permutations] | np.uint64(1), numbers[permutations:]


def _band_keys(band_DR: np.ndarray) -> np.ndarray:
    """Returns uint64[D]: the hash of each document's rows in one band."""
    keys_D = np.full(len(band_DR), 0xCBF29CE484222325, np.uint64)
    for row in range(band_DR.shape[1]):
        keys_D = (keys_D ^ band_DR[:, row]) * MIX
        keys_D ^= keys_D >> np.uint64(32)
    return keys_D


@numba.njit(cache=True)
def _fill_signatures(
    words: np.ndarray,
    starts_D: np.ndarray,
    stops_D: np.ndarray,
    shingle_words: int,
    multipliers: np.ndarray,
    summands: np.ndarray,
    signatures_DP: np.ndarray,
) -> None:
    """Fills in the minimum of each hash function over a document's shingles; texts without words stay EMPTY."""
    for document in range(len(starts_D)):
        document_words = words[starts_D[document] : stops_D[document]]
        num_words = len(document_words)
        if num_words == 0:
            continue
        length = min(shingle_words, num_words)
        signature = signatures_DP[document]
        for first in range(num_words - length + 1):
            shingle = ngram_hash(document_words, first, length)
            for number in range(len(multipliers)):
                value = np.uint32((shingle * multipliers[number] + summands[number]) >> np.uint64(32))
                signature[number] = min(signature[number], value)


@numba.njit(cache=True)
def count_equal(first: np.ndarray, second: np.ndarray) -> int:
    """Returns the number of equal hashes of two signatures."""
    equal = 0
    for number in range(len(first)):
        equal += first[number] == second[number]
    return equal


@numba.njit(cache=True)
def _mark_similar(
    signatures_DP: np.ndarray,
    keys_D: np.ndarray,
    reference_EP: np.ndarray,
    order_E: np.ndarray,
    sorted_keys_E: np.ndarray,
    min_equal: int,
    similar_D: np.ndarray,
) -> None:
    """Marks the documents that are similar to a reference document with an equal band key.

    order_E: the reference documents sorted by their keys; sorted_keys_E: those keys."""
    for document in range(len(signatures_DP)):
        if similar_D[document]:
            continue
        index = np.searchsorted(sorted_keys_E, keys_D[document])
        while index < len(sorted_keys_E) and sorted_keys_E[index] == keys_D[document]:
            if count_equal(signatures_DP[document], reference_EP[order_E[index]]) >= min_equal:
                similar_D[document] = True
                break
            index += 1
