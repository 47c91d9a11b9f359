"""Duplicates by marks: against dictionaries, exact Jaccard similarities and a greedy search over all pairs."""

from __future__ import annotations

import functools
import random

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.corpus import duplicates, minhash
from pipelines.data.text.measures import hash_texts

THRESHOLD = 0.8
MARGIN = 0.14  # four standard errors of an estimated similarity
VOCABULARY = [f"w{n}" for n in range(4000)]


def keys_of(texts: list[str]) -> np.ndarray:
    return minhash.exact_keys(pa.array(texts, pa.string())).view(np.uint64)


def signatures_of(texts: list[str]) -> np.ndarray:
    return minhash.signatures(hash_texts(pa.array(texts, pa.string())), 128)


@functools.cache
def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[n : n + 5]) for n in range(len(words) - 4)}


def jaccard(first: str, second: str) -> float:
    return len(shingles(first) & shingles(second)) / len(shingles(first) | shingles(second))


def edited(text: str, changes: int, rng: random.Random) -> str:
    words = text.split()
    for index in rng.sample(range(len(words)), changes):
        words[index] = rng.choice(VOCABULARY)
    return " ".join(words)


def prose(rng: random.Random, words: int = 400) -> str:
    return " ".join(rng.choices(VOCABULARY, k=words))


def columns(batches: list[pa.RecordBatch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes, keys and document numbers of the marks of several blocks."""
    parts = [
        (*(batch.column(name).to_numpy() for name in ("hash", "key")),
         duplicates.document_numbers(block, batch.column("row").to_numpy()))
        for block, batch in enumerate(batches)
    ]  # fmt: skip
    hashes, keys, documents = (np.concatenate(column) for column in zip(*parts, strict=True))
    return hashes, keys, documents


def dropped_of(texts: list[str], threshold: float = THRESHOLD, num_buckets: int = 3) -> list[int]:
    """Near duplicates among the texts of one block, found in several buckets."""
    signatures_DP, sizes_D = signatures_of(texts), np.array([len(text.encode()) for text in texts])
    hashes, keys, documents = columns([duplicates.band_marks(signatures_DP, keys_of(texts), threshold)])
    pairs = []
    for bucket in range(num_buckets):
        chosen = duplicates.bucket_slice(hashes, bucket, num_buckets)
        members, starts = duplicates.candidate_groups(hashes[chosen], keys[chosen], documents[chosen])
        unique = np.unique(members)
        pairs.append(
            duplicates.near_duplicates(members, starts, unique, signatures_DP[unique], sizes_D[unique], threshold)
        )
    found = pa.Table.from_batches(pairs)
    return duplicates.worse_duplicates(*(column.to_numpy() for column in found.columns))[0].tolist()


@pytest.mark.parametrize("num_buckets", [1, 2, 7, 1000])
def test_every_mark_is_in_one_bucket(num_buckets: int) -> None:
    hashes = np.sort(np.random.default_rng(0).integers(0, 2**64, 10_000, np.uint64))
    hashes[0], hashes[-1] = 0, 2**64 - 1
    slices = [duplicates.bucket_slice(hashes, bucket, num_buckets) for bucket in range(num_buckets)]
    assert [part.start for part in slices] == [0, *(part.stop for part in slices[:-1])]
    assert slices[-1].stop == len(hashes)
    assert max(part.stop - part.start for part in slices) < 2 * len(hashes) / num_buckets + 50


def test_band_hashes_spread_evenly() -> None:
    rng = random.Random(0)
    hashes = minhash.band_hashes(signatures_of([prose(rng, 50) for _ in range(500)]), THRESHOLD)
    counts = np.histogram((hashes >> np.uint64(56)).astype(int), bins=16, range=(0, 256))[0]
    expected = hashes.size / 16
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_equal_documents_are_kept_once_and_the_first_of_all_blocks() -> None:
    rng = random.Random(1)
    blocks = [[f"text {rng.randint(0, 300)}" for _ in range(200)] for _ in range(4)]
    found, kept = duplicates.exact_duplicates(*columns([duplicates.exact_marks(keys_of(texts)) for texts in blocks]))
    firsts: dict[str, int] = {}
    expected = []
    for block, texts in enumerate(blocks):
        for row, text in enumerate(texts):
            first = firsts.setdefault(text, (block << 32) + row)
            if first != (block << 32) + row:
                expected.append(((block << 32) + row, first))
    assert list(zip(found.tolist(), kept.tolist(), strict=True)) == expected


def test_pairs_are_those_of_similar_documents_the_longer_first() -> None:
    rng = random.Random(3)
    texts = []
    for _ in range(300):
        original = prose(rng)
        texts += [original, edited(original, rng.randint(1, 60), rng)]
    dropped = set(dropped_of(texts))
    for first in range(0, len(texts), 2):
        similarity = jaccard(texts[first], texts[first + 1])
        shorter = first if len(texts[first]) < len(texts[first + 1]) else first + 1
        assert dropped & {first, first + 1} <= {shorter}
        if similarity > THRESHOLD + MARGIN:
            assert shorter in dropped
        if similarity < THRESHOLD - MARGIN:
            assert shorter not in dropped


def test_of_equally_long_documents_the_first_is_kept() -> None:
    text = prose(random.Random(4))
    assert dropped_of([text, text.replace(" ", "  ", 1), text + ".", text + "!"]) == [0, 3]  # 1: exact


def test_a_document_is_dropped_only_if_a_similar_one_is_kept() -> None:
    """Chains of editions: neighbours are similar, ends are not."""
    rng = random.Random(5)
    texts = []
    for _ in range(20):
        texts.append(prose(rng))
        for _ in range(12):
            texts.append(edited(texts[-1], 6, rng))
    dropped = dropped_of(texts)
    kept = [number for number in range(len(texts)) if number not in set(dropped)]
    for number in dropped:
        assert max(jaccard(texts[number], texts[other]) for other in kept) > THRESHOLD - MARGIN
    for chain in range(0, len(texts), 13):
        kept_of_chain = [number for number in kept if chain <= number < chain + 13]
        assert 2 <= len(kept_of_chain) <= 7
        for first in kept_of_chain:
            assert not any(
                jaccard(texts[first], texts[other]) > THRESHOLD + MARGIN for other in kept_of_chain if other != first
            )


def test_decisions_equal_a_greedy_search_over_all_pairs() -> None:
    rng = random.Random(6)
    number, pairs = 400, set()
    sizes = rng.choices(range(100, 120), k=number)
    order = sorted(range(number), key=lambda document: (-sizes[document], document))
    for _ in range(900):
        first, second = rng.sample(order, 2)
        pairs.add((first, second) if order.index(first) < order.index(second) else (second, first))
    kept: list[int] = []
    for document in order:
        if not any((other, document) in pairs for other in kept):
            kept.append(document)
    shuffled = rng.sample(sorted(pairs), len(pairs)) + rng.sample(sorted(pairs), 50)  # some are there twice
    better, worse = (np.array(side) for side in zip(*shuffled, strict=True))
    dropped, survivors = duplicates.worse_duplicates(better, worse, np.array([sizes[document] for document in worse]))
    assert dropped.tolist() == sorted(set(range(number)) - set(kept))
    assert set(survivors.tolist()) <= set(kept)
    assert set(zip(survivors.tolist(), dropped.tolist(), strict=True)) <= pairs


def test_versions_are_dropped_for_the_second_where_the_first_is_dropped_for_a_document_of_another_group() -> None:
    """Nine others are better in their group, so they are not among those with which all are compared."""
    rng = np.random.default_rng(1)
    first, other = 10, 9  # other: in the second group with the first version alone
    signatures_DP = rng.integers(0, 2**32, (20, 128), np.uint32)
    signatures_DP[first:] = signatures_DP[first]
    signatures_DP[other] = signatures_DP[first]
    signatures_DP[other, 100:120] += 1
    signatures_DP[first + 1 :, :20] += 1
    documents, sizes = np.arange(20), np.arange(200, 180, -1)
    members = np.array([*range(9), *range(first, 20), other, first])
    starts = np.array([0, 19, 21])
    found = duplicates.near_duplicates(members, starts, documents, signatures_DP, sizes, THRESHOLD)
    dropped, _ = duplicates.worse_duplicates(*(column.to_numpy() for column in found.columns))
    assert dropped.tolist() == [first, *range(first + 2, 20)]


def test_a_large_group_of_different_versions_is_compared_in_bounded_time() -> None:
    """Documents with one band in common and no other similarity: each is compared with MAX_COMPARED others at most."""
    number = 20_000
    signatures_DP = np.random.default_rng(0).integers(0, 2**32, (number, 128), np.uint32)
    signatures_DP[1:10] = signatures_DP[0]
    documents, sizes = np.arange(number), np.full(number, 100)
    found = duplicates.near_duplicates(documents, np.array([0, number]), documents, signatures_DP, sizes, THRESHOLD)
    dropped, _ = duplicates.worse_duplicates(*(column.to_numpy() for column in found.columns))
    assert dropped.tolist() == list(range(1, 10))
    assert found.num_rows < 100


def test_a_group_of_any_size_is_compared_with_few_signatures_in_memory() -> None:
    """The pairs are those of the whole group at once, whatever the size of a batch."""
    rng = random.Random(11)
    versions = [prose(rng, 120) for _ in range(12)]
    texts = [edited(rng.choice(versions), rng.randint(0, 1), rng) for _ in range(150)]
    signatures_DP, sizes = signatures_of(texts), np.array([len(text) for text in texts])
    documents = duplicates.document_numbers(3, np.arange(len(texts)))
    read: list[int] = []

    def read_signatures(numbers: np.ndarray) -> np.ndarray:
        assert (np.diff(numbers) > 0).all()
        read.append(len(numbers))
        return signatures_DP[np.searchsorted(documents, numbers)]

    starts = np.array([0, len(texts)])
    expected = duplicates.near_duplicates(documents, starts, documents, signatures_DP, sizes, THRESHOLD)
    batches = duplicates.near_duplicates_of_group(documents, sizes, read_signatures, THRESHOLD, 20)
    found = pa.Table.from_batches(list(batches))
    pairs, expected_pairs = ({tuple(row.values()) for row in table.to_pylist()} for table in (found, expected))
    assert pairs == expected_pairs and len(pairs) > 100
    assert len(read) == 8 and max(read) <= 20 + 50


def test_texts_without_words_and_short_texts() -> None:
    texts = ["", "...", "a real text with words in it", "---", "月落烏啼", "月落烏啼。", "月落烏", "月落烏啼！！"]
    assert dropped_of(texts) == [4, 5]  # the longest of the three with the same words is kept
