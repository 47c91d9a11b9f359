"""Semantic near duplicates: vectors of texts, which of them to compare, and which are similar.

    text ──beginning and end──► excerpt ──embedder──► vector ──rounded──► int8
    sample of vectors ──k-means──► centroids;  vector ──two nearest──► cells ──compare within a cell──► pairs

As SemDeDup (Abbas et al. 2023), which compares within the clusters of k-means; a vector is in two cells here, so that
pairs on either side of a border meet. Vectors are whole numbers of so few bits that every dot product in float32 is
exact: cells and pairs are the same on any machine, for any number of threads, once the vectors are.

Shape suffixes: N texts, D dimensions, K centroids, M members of a cell.
"""

from __future__ import annotations

import numpy as np

EXACT_FLOAT32 = 2**24  # whole numbers up to this are exact in float32, and so are their sums up to it
CELLS = 2  # of a vector
ITERATIONS = 5  # of k-means
TILE = 512  # vectors compared at a time
# Of the better texts that are similar to a text, so many are noted. In a cell a text is compared with those that are
# similar to none before them: a page in a million wordings costs a million comparisons, not 10^12.
MAX_PAIRS = 8


def excerpt(text: str, max_bytes: int) -> str:
    """The text itself if it has up to max_bytes in UTF-8, or else as much, half of the beginning, half of the end.

    >>> excerpt("one two three four", 8)
    'one \\nfour'
    """
    data = text.encode()
    if len(data) <= max_bytes:
        return text
    half = max_bytes // 2
    return data[:half].decode(errors="ignore") + "\n" + data[-half:].decode(errors="ignore")


def quantise(vectors_ND: np.ndarray) -> np.ndarray:
    """Returns int8[N, D]: the directions of float vectors, each scaled to the largest whole numbers allowed.

    >>> quantise(np.array([[0.6, -0.8]]))
    array([[  95, -127]], dtype=int8)
    """
    limit = min(127, int(np.sqrt(EXACT_FLOAT32 / max(vectors_ND.shape[1], 1))))
    largest_N = np.abs(vectors_ND).max(axis=1, initial=0, keepdims=True).astype(np.float64)
    return np.rint(vectors_ND * (limit / np.maximum(largest_N, 1e-30))).astype(np.int8)


def centroids(vectors_ND: np.ndarray, num_centroids: int) -> np.ndarray:
    """Returns int8[K, D]: the centroids of spherical k-means (Dhillon and Modha 2001), begun at the first K vectors.

    vectors_ND: int8, in random order. K is at most N."""
    centroids_KD = vectors_ND[:num_centroids].copy()
    for _ in range(ITERATIONS):
        nearest_N = nearest(vectors_ND, centroids_KD, 1)[:, 0]
        order = np.argsort(nearest_N, kind="stable")
        used, starts = np.unique(nearest_N[order], return_index=True)
        sums = np.add.reduceat(vectors_ND[order], starts, axis=0, dtype=np.int64)
        centroids_KD[used] = quantise(sums)
    return centroids_KD


def nearest(vectors_ND: np.ndarray, centroids_KD: np.ndarray, number: int) -> np.ndarray:
    """Returns int64[N, number]: the centroids with the largest cosines to each vector, the largest first.

    number: at most K; of equal cosines the first centroid counts as larger."""
    scale_K = 1 / _norms(centroids_KD)
    columns_DK = centroids_KD.astype(np.float32).T
    chosen = np.empty((len(vectors_ND), number), np.int64)
    for start in range(0, len(vectors_ND), TILE):
        cosines = (vectors_ND[start : start + TILE].astype(np.float32) @ columns_DK) * scale_K
        for place in range(number):
            best = cosines.argmax(axis=1)
            chosen[start : start + TILE, place] = best
            cosines[np.arange(len(best)), best] = -np.inf
    return chosen


def similar_pairs(vectors_MD: np.ndarray, threshold: float) -> np.ndarray:
    """Returns int64[pairs, 2]: (better, worse) positions of the vectors whose cosine reaches the threshold.

    vectors_MD: int8, the best text first. The better ones are those that are similar to none before them; the first
    MAX_PAIRS of them are noted."""
    norms_M = _norms(vectors_MD)
    leaders = np.empty(0, np.int64)  # positions of those that are similar to none before them
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(vectors_MD), TILE):
        tile = np.arange(start, min(start + TILE, len(vectors_MD)))
        others = np.concatenate([leaders, tile])
        dots = vectors_MD[tile].astype(np.float32) @ vectors_MD[others].astype(np.float32).T
        similar = (dots >= threshold * norms_M[tile, None] * norms_M[others]) & (others < tile[:, None])
        is_leader = np.ones(len(others), np.bool_)
        for row in np.flatnonzero(similar.any(axis=1)):
            better = others[similar[row] & is_leader][:MAX_PAIRS]
            is_leader[len(leaders) + row] = not len(better)
            pairs += [(int(position), int(tile[row])) for position in better]
        leaders = others[is_leader]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _norms(vectors_ND: np.ndarray) -> np.ndarray:
    """Returns float64[N]: the lengths of int8 vectors; of one of zeros more than 0, so that it is similar to none."""
    squares_N = np.einsum("nd,nd->n", vectors_ND, vectors_ND, dtype=np.int64)
    return np.sqrt(np.maximum(squares_N, 1e-9))
