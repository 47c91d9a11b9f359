"""Similar texts: all pairs that share a fraction of their pairs of neighbouring words, none missed, none guessed.

    texts ──pairs of words──► sets ──a rare member in common──► candidates ──compared──► groups | repeats

The similarity is Jaccard's. Sets that share 80% share one of their rarest members (prefix filtering: Bayardo, Ma and
Srikant 2007), so only texts with a rare pair of words in common are compared. MinHash would estimate: at 128 hashes
one of three pairs of 81% is taken for less than 80%, and prompts of one template with 73% for more.

Shingles are shorter than those of a corpus: of a prompt with nine words, five words at a time leave five shingles, and
one more "please" would make another prompt of it. With two, 80% similarity allows a word more at an end of a prompt of
six words, and another word within one of nineteen: "the capital of France" and "the capital of Spain" are two prompts.
A word is a Chinese character or a word of other scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from pipelines.data.text.measures import hash_texts, ngram_hash

SHINGLE_WORDS = 2
ROUNDING = 1e-9  # 4 of 5 is 80%
BATCH = 10_000  # texts hashed at a time
COUNTERS = 1 << 22  # of shingles, by their hash: two in one counter are taken for more frequent than they are


@dataclass(frozen=True)
class Shingles:
    """The set of shingles of each text, as hashes.

    Those of text t are hashes[starts[t] : starts[t + 1]], ascending, each once."""

    hashes: np.ndarray  # uint64
    starts: np.ndarray  # int64[texts + 1]


@dataclass(frozen=True)
class Buckets:
    """Texts with a rare shingle in common: any two texts of at least the threshold's similarity are in one bucket.

    texts[starts[b] : starts[b + 1]], ascending, are those of bucket b."""

    texts: np.ndarray  # int64
    starts: np.ndarray  # int64[buckets + 1]


def first_similar(texts: Sequence[str], threshold: float) -> list[int]:
    """For each text, the position of the first of those that are similar to it, directly or through others.

    >>> first_similar(["how do i boil an egg", "how do i peel it", "how do i boil an egg please"], 0.8)
    [0, 1, 0]
    """
    shingles = _shingles(texts)
    buckets = _buckets(shingles, threshold)
    parents = np.arange(len(texts))
    _join_similar(buckets.texts, buckets.starts, shingles.hashes, shingles.starts, threshold, parents)
    return [int(_root(parents, text)) for text in range(len(texts))]


def repeats(texts: Sequence[str], threshold: float) -> list[bool]:
    """Whether each text is similar to an earlier one that repeats none itself.

    >>> repeats(["how do i boil an egg", "how do i peel it", "how do i boil an egg please"], 0.8)
    [False, False, True]
    """
    shingles = _shingles(texts)
    buckets = _buckets(shingles, threshold)
    order = np.argsort(buckets.texts, kind="stable")  # entries by text
    numbers = np.repeat(np.arange(len(buckets.starts) - 1), np.diff(buckets.starts))[order]
    first_entries = np.searchsorted(buckets.texts[order], np.arange(len(texts) + 1))
    marked = np.zeros(len(texts), np.bool_)
    _mark_repeats(numbers, first_entries, shingles.hashes, shingles.starts, threshold, marked)
    return marked.tolist()


def similar(texts: Sequence[str], references: Sequence[str], threshold: float) -> list[bool]:
    """Whether each text is similar to any of the references."""
    if not references:
        return [False] * len(texts)
    shingles = _shingles([*texts, *references])
    buckets = _buckets(shingles, threshold)
    marked = np.zeros(len(texts), np.bool_)
    _mark_similar(buckets.texts, buckets.starts, shingles.hashes, shingles.starts, threshold, marked)
    return marked.tolist()


def _shingles(texts: Sequence[str]) -> Shingles:
    hashes, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for first in range(0, len(texts), BATCH):
        hashed = hash_texts(pa.array(texts[first : first + BATCH], pa.string()))
        batch_hashes, batch_sizes = _sets(hashed.words, hashed.word_starts)
        hashes.append(batch_hashes)
        sizes.append(batch_sizes)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])
    return Shingles(np.concatenate(hashes), starts)


def _buckets(shingles: Shingles, threshold: float) -> Buckets:
    """The texts that have one of their rarest shingles in common.

    Of n shingles threshold × n or more are shared, so among the first n - threshold × n + 1, in an order that is the
    same for all texts, there is a shared one. Rare shingles come first, so that few texts share a bucket."""
    counts = np.bincount((shingles.hashes % np.uint64(COUNTERS)).astype(np.int64), minlength=COUNTERS)
    sizes = np.diff(shingles.starts)
    num_rare = sizes - np.ceil(threshold * sizes - ROUNDING).astype(np.int64) + (sizes > 0)
    rare = _rare(shingles.hashes, shingles.starts, counts, num_rare)
    order = np.argsort(rare, kind="stable")
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(rare), 1), np.bool_), np.diff(rare[order]) != 0]))
    return Buckets(np.repeat(np.arange(len(sizes)), num_rare)[order], np.append(starts, len(rare)))


@numba.njit(cache=True)
def _sets(words: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the hashes of each text's shingles, uint64, ascending and each once; and their number by text, int64.

    A text with fewer words than a shingle is one; a text without words has none."""
    hashes, sizes = np.empty(len(words), np.uint64), np.zeros(len(starts) - 1, np.int64)
    position = 0
    for text in range(len(sizes)):
        num_words = starts[text + 1] - starts[text]
        length = min(SHINGLE_WORDS, num_words)
        begin = position
        for first in range(starts[text], starts[text + 1] - length + 1 if num_words else starts[text]):
            hashes[position] = ngram_hash(words, first, length)
            position += 1
        members = np.unique(hashes[begin:position])
        hashes[begin : begin + len(members)] = members
        sizes[text], position = len(members), begin + len(members)
    return hashes[:position].copy(), sizes


@numba.njit(cache=True)
def _rare(hashes: np.ndarray, starts: np.ndarray, counts: np.ndarray, num_rare: np.ndarray) -> np.ndarray:
    """Returns uint64[sum of num_rare]: the rarest hashes of each text, by text; of equally rare ones the lowest."""
    rare = np.empty(num_rare.sum(), np.uint64)
    position = 0
    for text in range(len(num_rare)):
        members = hashes[starts[text] : starts[text + 1]]
        order = np.argsort(counts[(members % np.uint64(COUNTERS)).astype(np.int64)], kind="mergesort")[: num_rare[text]]
        rare[position : position + len(order)] = members[order]
        position += len(order)
    return rare


@numba.njit(cache=True)
def _are_similar(hashes: np.ndarray, starts: np.ndarray, threshold: float, one: int, other: int) -> bool:
    """Whether two texts' sets of shingles have at least `threshold` of all their members in common."""
    i, end_i, j, end_j = starts[one], starts[one + 1], starts[other], starts[other + 1]
    total = (end_i - i) + (end_j - j)
    if min(end_i - i, end_j - j) < threshold * max(end_i - i, end_j - j) - ROUNDING:
        return False
    shared = 0
    while i < end_i and j < end_j:
        first, second = hashes[i], hashes[j]
        shared += first == second
        i += first <= second
        j += second <= first
    return shared >= threshold * (total - shared) - ROUNDING


@numba.njit(cache=True)
def _root(parents: np.ndarray, text: int) -> int:
    """Returns the root of a text's union-find tree, halving the path to it."""
    while parents[text] != text:
        parents[text] = parents[parents[text]]
        text = parents[text]
    return text


@numba.njit(cache=True)
def _join_similar(
    texts: np.ndarray, buckets: np.ndarray, hashes: np.ndarray, starts: np.ndarray, threshold: float,
    parents: np.ndarray,
) -> None:  # fmt: skip
    """Joins similar texts in the union-find trees of `parents`, whose roots are their first texts.

    In a bucket the texts of one tree are a chain. A text is compared with those of every chain until one is similar:
    so a bucket of texts that are all similar costs one comparison a text."""
    after = np.empty(len(parents), np.int64)  # the next text of the chain; -1 at its end
    heads, tails = np.empty(len(parents), np.int64), np.empty(len(parents), np.int64)
    for bucket in range(len(buckets) - 1):
        num_chains = 0
        for text in texts[buckets[bucket] : buckets[bucket + 1]]:
            after[text] = -1
            tail, num_kept = text, 0
            for chain in range(num_chains):
                other: Any = heads[chain]  # a number, in compiled code
                is_joined = _root(parents, other) == _root(parents, text)
                while not is_joined and other >= 0:
                    if _are_similar(hashes, starts, threshold, text, other):
                        roots = _root(parents, text), _root(parents, other)
                        parents[max(roots)] = min(roots)
                        is_joined = True
                    other = after[other]
                if is_joined:
                    after[tail], tail = heads[chain], tails[chain]
                else:
                    heads[num_kept], tails[num_kept] = heads[chain], tails[chain]
                    num_kept += 1
            heads[num_kept], tails[num_kept] = text, tail
            num_chains = num_kept + 1


@numba.njit(cache=True)
def _mark_repeats(
    buckets: np.ndarray, first_entries: np.ndarray, hashes: np.ndarray, starts: np.ndarray, threshold: float,
    marked: np.ndarray,
) -> None:  # fmt: skip
    """Marks the texts that are similar to an earlier one that is not marked.

    buckets[first_entries[t] : first_entries[t + 1]] are those of text t. An unmarked text joins the list of each of its
    buckets, and later texts are compared with those of their lists."""
    newest = np.full(buckets.max() + 1 if len(buckets) else 0, -1, np.int64)  # of each bucket's list: an entry
    before = np.empty(len(buckets), np.int64)  # the entry before in the list; -1 at its end
    owners = np.empty(len(buckets), np.int64)  # text of each entry
    compared = np.full(len(marked), -1, np.int64)  # the last text that each was compared with
    for text in range(len(marked)):
        for entry in range(first_entries[text], first_entries[text + 1]):
            other: Any = newest[buckets[entry]]  # a number, in compiled code
            while other >= 0 and not marked[text]:
                owner: Any = owners[other]
                if compared[owner] != text:
                    compared[owner] = text
                    marked[text] = _are_similar(hashes, starts, threshold, text, owner)
                other = before[other]
        for entry in range(first_entries[text], first_entries[text + 1]):
            if not marked[text]:
                owners[entry], before[entry], newest[buckets[entry]] = text, newest[buckets[entry]], entry


@numba.njit(cache=True)
def _mark_similar(
    texts: np.ndarray, buckets: np.ndarray, hashes: np.ndarray, starts: np.ndarray, threshold: float,
    marked: np.ndarray,
) -> None:  # fmt: skip
    """Marks the first texts, as many as `marked` has, that are similar to one of the texts after these."""
    for bucket in range(len(buckets) - 1):
        members = texts[buckets[bucket] : buckets[bucket + 1]]
        first_reference = np.searchsorted(members, len(marked))
        for text in members[:first_reference]:
            for reference in members[first_reference:]:
                if marked[text]:
                    break
                marked[text] = _are_similar(hashes, starts, threshold, text, reference)
