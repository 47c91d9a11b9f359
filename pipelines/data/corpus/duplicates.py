"""Duplicates in a corpus of any size: marks of documents, candidates with equal marks, and which documents to drop.

    key, signature of a document ──► marks (hash, key, row) ──equal hashes──► candidates
    candidates ──compare signatures──► pairs of near duplicates ──best document first──► dropped documents

A mark is small (20 bytes), and marks with equal hashes are all there is to compare: dealt by hash, any number of tasks
work beside each other, and each needs its share of the marks alone.

A document is one number: that of its block in the upper 32 bits, that of its row in the block in the lower ones. So
numbers are in the order of the corpus, and no table of all documents is needed.

Of documents with equal texts the first is kept. Of near duplicates the best one is: that with the longest text, then
the first. A document is dropped only if it is similar to one that is kept: of a chain of editions A, B, C in which
only neighbours are similar, A and C are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numba
import numpy as np
import pyarrow as pa

from pipelines.data.corpus import minhash, splitting
from pipelines.data.corpus.minhash import count_equal

MARKS = pa.schema([("hash", pa.uint64()), ("key", pa.uint64()), ("row", pa.uint32())])
PAIRS = pa.schema([("better", pa.int64()), ("worse", pa.int64()), ("worse_bytes", pa.int64())])
CLUSTERS = pa.schema([("kept", pa.int64()), ("num_dropped", pa.int64()), ("dropped", pa.list_(pa.int64()))])
# In a group of candidates a document is compared with the best few, then only with those that are similar to at most
# one before them. A page that a site has a million times in many versions would take 10^12 comparisons otherwise.
# One may be dropped for a document of another group: then the next of its versions is kept, and the others are not.
MAX_COMPARED_ALL = 8
MAX_SIMILAR = 1
MAX_COMPARED = 1000


def document_numbers(block: int, rows: np.ndarray) -> np.ndarray:
    """Returns int64: the numbers of documents, from the number of their block and their rows in it."""
    return (np.int64(block) << 32) + rows.astype(np.int64)


def exact_marks(keys_D2: np.ndarray) -> pa.RecordBatch:
    """Returns the MARKS of a block's documents for exact deduplication: the two halves of a key. uint64[D, 2]."""
    return _sorted_marks(keys_D2[:, 0], keys_D2[:, 1], np.arange(len(keys_D2)))


def band_marks(signatures_DP: np.ndarray, keys_D2: np.ndarray, threshold: float) -> pa.RecordBatch:
    """Returns the MARKS of a block's documents for near duplicates, one for each band, with half of the exact key.

    signatures_DP: uint32[D, P]. keys_D2: uint64[D, 2]; of documents with equal keys the first has marks. Documents
    without words have none. threshold: Jaccard similarity of near duplicates."""
    has_words_D = (signatures_DP != minhash.EMPTY).any(axis=1)
    rows = np.flatnonzero(has_words_D & splitting.first_occurrences(keys_D2))
    hashes = minhash.band_hashes(signatures_DP[rows], threshold)
    num_bands = hashes.shape[1]
    return _sorted_marks(hashes.ravel(), np.repeat(keys_D2[rows, 0], num_bands), np.repeat(rows, num_bands))


def _sorted_marks(hashes: np.ndarray, keys: np.ndarray, rows: np.ndarray) -> pa.RecordBatch:
    order = np.lexsort((rows, hashes))
    return pa.record_batch([hashes[order], keys[order], rows[order].astype(np.uint32)], schema=MARKS)


def bucket_slice(hashes: np.ndarray, bucket: int, num_buckets: int) -> slice:
    """Returns where in sorted uint64 hashes those of a bucket are: one of `num_buckets` equal ranges of all hashes."""
    bounds = [-(-(number << 64) // num_buckets) for number in (bucket, bucket + 1)]
    start, stop = (len(hashes) if bound >> 64 else int(np.searchsorted(hashes, np.uint64(bound))) for bound in bounds)
    return slice(start, stop)


def exact_duplicates(hashes: np.ndarray, keys: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns int64 each: (the numbers of the documents of which an earlier one has the same exact marks, sorted, for
    each the first of these)."""
    order = np.lexsort((documents, keys, hashes))
    hashes, keys, documents = hashes[order], keys[order], documents[order]
    is_copy = np.zeros(len(order), np.bool_)
    is_copy[1:] = (hashes[1:] == hashes[:-1]) & (keys[1:] == keys[:-1])
    firsts = np.maximum.accumulate(np.where(is_copy, 0, np.arange(len(order))))
    dropped, kept = documents[is_copy], documents[firsts[is_copy]]
    order = np.argsort(dropped)
    return dropped[order], kept[order]


def candidate_groups(hashes: np.ndarray, keys: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (int64: documents, int64[groups + 1]: where each group starts) of documents with equal band marks.

    Of documents with equal keys only the first is a member. Groups have two members or more."""
    order = np.lexsort((documents, keys, hashes))
    copies = np.zeros(len(order), np.bool_)
    same_hash = hashes[order[1:]] == hashes[order[:-1]]
    copies[1:] = same_hash & (keys[order[1:]] == keys[order[:-1]])
    order = order[~copies]
    hashes = hashes[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = hashes[1:] != hashes[:-1]
    group_of = np.cumsum(begins) - 1
    sizes = np.bincount(group_of) if len(order) else np.empty(0, np.int64)
    members = documents[order[sizes[group_of] > 1]]
    return members, np.concatenate([[0], np.cumsum(sizes[sizes > 1])]).astype(np.int64)


def near_duplicates(
    members: np.ndarray,
    starts: np.ndarray,
    documents_U: np.ndarray,
    signatures_UP: np.ndarray,
    text_bytes_U: np.ndarray,
    threshold: float,
) -> pa.RecordBatch:
    """Returns the PAIRS among candidates whose similarity reaches the threshold, each once.

    members, starts: groups of candidates. documents_U: their numbers, sorted, each once; with their signatures and
    sizes."""
    order = best_first(documents_U, text_bytes_U)
    ranks_U = np.empty(len(order), np.int64)
    ranks_U[order] = np.arange(len(order))
    ranks = ranks_U[np.searchsorted(documents_U, members)]
    min_equal = minhash.min_equal_hashes(threshold, signatures_UP.shape[1])
    pairs, _ = _similar_pairs(ranks, starts, signatures_UP[order], min_equal)
    pairs = np.unique(pairs, axis=0) if len(pairs) else pairs
    better, worse = order[pairs[:, 0]], order[pairs[:, 1]]
    return pa.record_batch([documents_U[better], documents_U[worse], text_bytes_U[worse]], schema=PAIRS)


def near_duplicates_of_group(
    documents_G: np.ndarray,
    text_bytes_G: np.ndarray,
    read_signatures: Callable[[np.ndarray], np.ndarray],
    threshold: float,
    batch_documents: int,
) -> Iterator[pa.RecordBatch]:
    """Yields the PAIRS in one large group of candidates, with the signatures of few documents in memory at a time.

    documents_G: their numbers, sorted, each once; with their sizes. read_signatures: returns uint32[D, P] of D numbers
    that are sorted. The pairs are those of `near_duplicates`: some may be there more than once."""
    order = best_first(documents_G, text_bytes_G)
    compared = np.empty(0, np.int64)  # positions of those with which the rest of the group is compared, best first
    for start in range(0, len(order), batch_documents):
        batch = np.concatenate([compared, order[start : start + batch_documents]])
        sorted_numbers = np.sort(documents_G[batch])
        signatures_BP = read_signatures(sorted_numbers)[np.searchsorted(sorted_numbers, documents_G[batch])]
        min_equal = minhash.min_equal_hashes(threshold, signatures_BP.shape[1])
        # Those that were compared before are chosen again: they are chosen by the better ones alone.
        pairs, chosen = _similar_pairs(np.arange(len(batch)), np.array([0, len(batch)]), signatures_BP, min_equal)
        better, worse = batch[pairs[:, 0]], batch[pairs[:, 1]]
        yield pa.record_batch([documents_G[better], documents_G[worse], text_bytes_G[worse]], schema=PAIRS)
        compared = batch[chosen]


def best_first(documents: np.ndarray, text_bytes: np.ndarray) -> np.ndarray:
    """The order of documents from the best to the worst: the longest text first, then the earliest."""
    return np.lexsort((documents, -text_bytes))


def worse_duplicates(better: np.ndarray, worse: np.ndarray, worse_bytes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns int64 each: (the numbers of the documents to drop, sorted, for each the one that is kept instead), of all
    PAIRS; pairs may be there more than once.

    Documents are decided from the best to the worst, and dropped where a better one of a pair is kept: for that of the
    first such pair, in the order in which they are given."""
    documents, positions = np.unique(np.concatenate([better, worse]), return_inverse=True)
    order = np.lexsort((worse, -worse_bytes))
    positions_E2 = positions.reshape(2, len(better))[:, order].T
    kept = np.full(len(documents), -1)
    _drop_worse(positions_E2, kept)
    dropped = kept >= 0
    return documents[dropped], documents[kept[dropped]]


def largest_clusters(dropped: np.ndarray, kept: np.ndarray, *, max_clusters: int, max_members: int) -> pa.RecordBatch:
    """Returns CLUSTERS: the documents that are kept of the most near duplicates, with the first that are dropped.

    dropped, kept: of `worse_duplicates`."""
    kept, cluster_of, sizes = np.unique(kept, return_inverse=True, return_counts=True)
    largest = np.lexsort((kept, -sizes))[:max_clusters]
    some = [dropped[cluster_of == number][:max_members].tolist() for number in largest]
    return pa.record_batch([kept[largest], sizes[largest], pa.array(some, CLUSTERS.types[2])], schema=CLUSTERS)


def warm_up() -> None:
    """Compiles numba's functions or loads them, so that tasks on this machine load them from its disk cache."""
    pairs = near_duplicates(
        np.arange(2), np.array([0, 2]), np.arange(2), np.zeros((2, 16), np.uint32), np.ones(2, np.int64), 0.8
    )
    worse_duplicates(*(column.to_numpy() for column in pairs.columns))
    minhash.similar_to_any(np.zeros((1, 16), np.uint32), np.zeros((1, 16), np.uint32), 0.8)


@numba.njit(cache=True)
def _similar_pairs(
    ranks: np.ndarray, starts: np.ndarray, signatures_RP: np.ndarray, min_equal: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (int64[pairs, 2]: ranks (better, worse) of the near duplicates in each group, the ranks with which
    documents of the last group were compared)."""
    pairs = np.empty((len(ranks) + 1, 2), np.int64)
    num_pairs = 0
    compared = np.empty(MAX_COMPARED, np.int64)
    num_compared = 0
    for group in range(len(starts) - 1):
        num_compared = 0
        for rank in np.sort(ranks[starts[group] : starts[group + 1]]):
            num_similar = 0
            for other in compared[:num_compared]:
                if count_equal(signatures_RP[other], signatures_RP[rank]) >= min_equal:
                    num_similar += 1
                    if num_pairs == len(pairs):
                        pairs = np.concatenate((pairs, np.empty_like(pairs)))
                    pairs[num_pairs] = other, rank
                    num_pairs += 1
            if num_compared < MAX_COMPARED_ALL or (num_similar <= MAX_SIMILAR and num_compared < MAX_COMPARED):
                compared[num_compared] = rank
                num_compared += 1
    return pairs[:num_pairs], compared[:num_compared]


@numba.njit(cache=True)
def _drop_worse(positions_E2: np.ndarray, kept: np.ndarray) -> None:
    """Sets, of each position that is dropped, the one that is kept instead, -1 before: of the worse of each pair
    (better, worse) whose better one is kept. Pairs are in the order of the worse."""
    for pair in range(len(positions_E2)):
        better, worse = positions_E2[pair, 0], positions_E2[pair, 1]
        if kept[better] < 0 and kept[worse] < 0:
            kept[worse] = better
