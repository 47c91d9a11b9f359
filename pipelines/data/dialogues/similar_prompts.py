"""Similar prompts: all pairs of texts that share 80% of their pairs of neighbouring words, none missed, none guessed.

    texts ──pairs of words──► sets, rarest first ──a pair in both beginnings──► candidates ──compared──► groups

The similarity is Jaccard's. Sets that share 80% share one of their rarest members (prefix filtering: Bayardo, Ma and
Srikant 2007), so only texts with a rare pair of words in common are compared. MinHash would estimate: at 128 hashes
one of three pairs of 81% is taken for less than 80%, and prompts of one template with 73% for more.
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
SIMILAR = 0.8  # from here on prompts belong on one side of the held-out split
ROUNDING = 1e-9  # 4 of 5 is 80%
BATCH = 10_000  # texts hashed at a time


@dataclass(frozen=True)
class Shingles:
    """The set of shingles of each text, as numbers from the rarest to the most frequent one of all texts.

    Those of text t are numbers[starts[t] : starts[t + 1]], ascending."""

    numbers: np.ndarray  # int64
    starts: np.ndarray  # int64[texts + 1]

    @property
    def buckets(self) -> tuple[np.ndarray, np.ndarray]:
        """(texts, starts): those with one rare shingle in common are texts[starts[b] : starts[b + 1]], ascending.

        Any two similar texts are in one bucket."""
        sizes = np.diff(self.starts)
        owners = np.repeat(np.arange(len(sizes)), sizes)
        positions = np.arange(len(self.numbers)) - self.starts[owners]
        # Of n shingles 0.8 n or more are shared, so among the first n - 0.8 n + 1 there is a shared one.
        is_rare = positions <= (sizes - np.ceil(SIMILAR * sizes - ROUNDING))[owners]
        order = np.argsort(self.numbers[is_rare], kind="stable")
        numbers = self.numbers[is_rare][order]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        return owners[is_rare][order], np.append(starts, len(numbers))


def first_similar(texts: Sequence[str]) -> list[int]:
    """For each text, the position of the first of those that are similar to it, directly or through others.

    >>> first_similar(["how do i boil an egg", "how do i peel it", "how do i boil an egg please"])
    [0, 1, 0]
    """
    shingles = _shingles(texts)
    parents = np.arange(len(texts))
    _join_similar(*shingles.buckets, shingles.numbers, shingles.starts, parents)
    return [int(_root(parents, text)) for text in range(len(texts))]


def similar(texts: Sequence[str], references: Sequence[str]) -> list[bool]:
    """Whether each text is similar to any of the references."""
    if not references:
        return [False] * len(texts)
    shingles = _shingles([*texts, *references])
    marked = np.zeros(len(texts), np.bool_)
    _mark_similar(*shingles.buckets, shingles.numbers, shingles.starts, marked)
    return marked.tolist()


def _shingles(texts: Sequence[str]) -> Shingles:
    hashes, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for first in range(0, len(texts), BATCH):
        hashed = hash_texts(pa.array(texts[first : first + BATCH], pa.string()))
        num_words = np.diff(hashed.word_starts)
        sizes.append(np.where(num_words > 0, np.maximum(num_words - SHINGLE_WORDS + 1, 1), 0))
        hashes.append(_hashes(hashed.words, hashed.word_starts, int(sizes[-1].sum())))
    owners = np.repeat(np.arange(len(texts)), np.concatenate(sizes))
    _, indices, counts = np.unique(np.concatenate(hashes), return_inverse=True, return_counts=True)
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    members = np.unique(owners * len(counts) + ranks[indices])  # by text, then by rank, each once
    starts = np.searchsorted(members, np.arange(len(texts) + 1) * len(counts))
    return Shingles(members % max(len(counts), 1), starts.astype(np.int64))


@numba.njit(cache=True)
def _hashes(words: np.ndarray, starts: np.ndarray, number: int) -> np.ndarray:
    """Returns uint64[number]: the hashes of the texts' shingles; a text with fewer words than a shingle is one."""
    hashes = np.empty(number, np.uint64)
    position = 0
    for text in range(len(starts) - 1):
        num_words = starts[text + 1] - starts[text]
        length = min(SHINGLE_WORDS, num_words)
        for first in range(starts[text], starts[text + 1] - length + 1 if num_words else starts[text]):
            hashes[position] = ngram_hash(words, first, length)
            position += 1
    return hashes


@numba.njit(cache=True)
def _are_similar(numbers: np.ndarray, starts: np.ndarray, one: int, other: int) -> bool:
    """Whether two texts' sets of shingles have SIMILAR of all their members in common."""
    i, end_i, j, end_j = starts[one], starts[one + 1], starts[other], starts[other + 1]
    total = (end_i - i) + (end_j - j)
    if min(end_i - i, end_j - j) < SIMILAR * max(end_i - i, end_j - j) - ROUNDING:
        return False
    shared = 0
    while i < end_i and j < end_j:
        first, second = numbers[i], numbers[j]
        shared += first == second
        i += first <= second
        j += second <= first
    return shared >= SIMILAR * (total - shared) - ROUNDING


@numba.njit(cache=True)
def _root(parents: np.ndarray, text: int) -> int:
    """Returns the root of a text's union-find tree, halving the path to it."""
    while parents[text] != text:
        parents[text] = parents[parents[text]]
        text = parents[text]
    return text


@numba.njit(cache=True)
def _join_similar(
    texts: np.ndarray, buckets: np.ndarray, numbers: np.ndarray, starts: np.ndarray, parents: np.ndarray
) -> None:
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
                    if _are_similar(numbers, starts, text, other):
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
def _mark_similar(
    texts: np.ndarray, buckets: np.ndarray, numbers: np.ndarray, starts: np.ndarray, marked: np.ndarray
) -> None:
    """Marks the first texts, as many as `marked` has, that are similar to one of the texts after these."""
    for bucket in range(len(buckets) - 1):
        members = texts[buckets[bucket] : buckets[bucket + 1]]
        first_reference = np.searchsorted(members, len(marked))
        for text in members[:first_reference]:
            for reference in members[first_reference:]:
                if marked[text]:
                    break
                marked[text] = _are_similar(numbers, starts, text, reference)
