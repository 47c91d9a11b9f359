"""Deduplication: keys, estimates and clusters, against exact Jaccard similarities and the theory of bands."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from pipelines.data.corpus import minhash
from pipelines.data.text.measures import HashedTexts, hash_texts

PERMUTATIONS = 128


def hashed(texts: list[str]) -> HashedTexts:
    return hash_texts(pa.array(texts, pa.string()))


def signatures(texts: list[str], permutations: int = PERMUTATIONS) -> np.ndarray:
    return minhash.signatures(hashed(texts), permutations)


def exact_jaccard(first: list[str], second: list[str]) -> float:
    """Jaccard similarity of the sets of 5-word shingles."""
    shingles = [{tuple(words[n : n + 5]) for n in range(len(words) - 4)} for words in (first, second)]
    return len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])


def variant(words: list[str], changes: int, rng: random.Random, vocabulary: list[str]) -> list[str]:
    changed = list(words)
    for index in rng.sample(range(len(words)), changes):
        changed[index] = rng.choice(vocabulary)
    return changed


def pairs(number: int, chinese: bool) -> list[tuple[str, str, float]]:
    """(text, changed text, exact similarity), from nearly equal to far apart."""
    rng = random.Random(3)
    vocabulary = [chr(0x4E00 + n) for n in range(4000)] if chinese else [f"w{n}" for n in range(4000)]
    generated = []
    for _ in range(number):
        words = [rng.choice(vocabulary) for _ in range(400)]
        changed = variant(words, rng.randint(0, 60), rng, vocabulary)
        join = "" if chinese else " "
        generated.append((join.join(words), join.join(changed), exact_jaccard(words, changed)))
    return generated


@pytest.mark.parametrize("chinese", [False, True], ids=["English", "Chinese"])
def test_estimates_are_unbiased_with_the_standard_error_of_theory(chinese: bool) -> None:
    made = pairs(400, chinese)
    first, second = signatures([pair[0] for pair in made]), signatures([pair[1] for pair in made])
    exact = np.array([pair[2] for pair in made])
    errors = (first == second).mean(axis=1) - exact
    deviations = np.sqrt(exact * (1 - exact) / PERMUTATIONS)
    scaled = errors[deviations > 0] / deviations[deviations > 0]
    assert abs(scaled.mean()) < 4 / np.sqrt(len(scaled))
    assert 0.85 < scaled.std() < 1.15


def test_bands_make_candidates_as_often_as_theory_predicts() -> None:
    num_bands, rows = minhash.bands(0.8, PERMUTATIONS)
    made = pairs(600, chinese=False)
    first, second = signatures([pair[0] for pair in made]), signatures([pair[1] for pair in made])
    equal = (first == second)[:, : num_bands * rows].reshape(len(made), num_bands, rows)
    candidates = equal.all(axis=2).any(axis=1)
    exact = np.array([pair[2] for pair in made])
    expected = 1 - (1 - exact**rows) ** num_bands
    spread = np.sqrt((expected * (1 - expected)).sum())
    assert abs(candidates.sum() - expected.sum()) < 4 * spread
    assert 1 - (1 - 0.8**rows) ** num_bands >= minhash.RECALL


def test_texts_without_words_are_similar_to_none() -> None:
    signatures_DP = signatures(["", "...", "a real text with words in it", "---"])
    assert not minhash.similar_to_any(signatures_DP[:2], signatures_DP[:2], 0.5).any()


def test_similar_to_any_checks_every_reference_document() -> None:
    made = pairs(200, chinese=True)
    first, second = signatures([pair[0] for pair in made]), signatures([pair[1] for pair in made])
    exact = np.array([pair[2] for pair in made])
    similar = minhash.similar_to_any(first, second[::-1], 0.5)
    assert similar[exact > 0.64].all()
    assert not similar[exact < 0.36].any()
    assert not minhash.similar_to_any(first, second[:0], 0.5).any()


def test_keys_ignore_blank_space_only() -> None:
    spaced, plain, other, empty = (
        key.tobytes() for key in minhash.exact_keys(pa.array(["a  b\n\nc ", "a b c", "a b C", ""]))
    )
    assert spaced == plain
    assert plain != other
    assert len(empty) == 16


def test_keys_are_hashes_of_words_joined_by_spaces() -> None:
    texts = ["", " ", "a", "\u3000字 \xa0b\n\n😀\x85", "one two"]
    expected = [xxhash.xxh3_128_digest(" ".join(text.split()).encode()) for text in texts]
    assert [key.tobytes() for key in minhash.exact_keys(pa.array(texts, pa.string()))] == expected
    assert minhash.exact_keys(pa.array([], pa.string())).shape == (0, 16)


def test_signatures_do_not_depend_on_the_batch() -> None:
    texts = [text for text, _, _ in pairs(20, chinese=False)]
    alone = np.concatenate([signatures([text]) for text in texts])
    assert np.array_equal(signatures(texts), alone)
    assert np.array_equal(signatures(texts, 64).shape, (20, 64))


def test_signatures_equal_stored_values() -> None:
    """Different values change every corpus: raise the stage's version with them."""
    signatures_DP = signatures(["the quick brown fox jumps over the lazy dog"], 4)
    assert signatures_DP.tolist() == [[945795465, 1099207776, 241180516, 143512902]]
