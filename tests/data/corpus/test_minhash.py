"""Duplicates: keys, estimates and clusters, against exact Jaccard similarities and the theory of bands."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.corpus import minhash
from pipelines.data.text.measures import Cut, cut

PERMUTATIONS = 128


def cut_texts(texts: list[str]) -> Cut:
    return cut(pa.array(texts, pa.string()))


def signatures(texts: list[str], permutations: int = PERMUTATIONS) -> np.ndarray:
    return minhash.signatures(cut_texts(texts), permutations)


def exact_jaccard(one: list[str], other: list[str]) -> float:
    """Of the sets of runs of five words."""
    runs = [{tuple(words[n : n + 5]) for n in range(len(words) - 4)} for words in (one, other)]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def variant(words: list[str], changes: int, rng: random.Random, vocabulary: list[str]) -> list[str]:
    changed = list(words)
    for place in rng.sample(range(len(words)), changes):
        changed[place] = rng.choice(vocabulary)
    return changed


def pairs(number: int, chinese: bool) -> list[tuple[str, str, float]]:
    """(text, changed text, exact similarity), from nearly equal to far apart."""
    rng = random.Random(3)
    vocabulary = [chr(0x4E00 + n) for n in range(4000)] if chinese else [f"w{n}" for n in range(4000)]
    found = []
    for _ in range(number):
        words = [rng.choice(vocabulary) for _ in range(400)]
        other = variant(words, rng.randint(0, 60), rng, vocabulary)
        join = "" if chinese else " "
        found.append((join.join(words), join.join(other), exact_jaccard(words, other)))
    return found


@pytest.mark.parametrize("chinese", [False, True], ids=["English", "Chinese"])
def test_estimates_are_unbiased_with_the_error_that_theory_gives(chinese: bool) -> None:
    made = pairs(400, chinese)
    one, other = signatures([pair[0] for pair in made]), signatures([pair[1] for pair in made])
    exact = np.array([pair[2] for pair in made])
    errors = (one == other).mean(axis=1) - exact
    deviations = np.sqrt(exact * (1 - exact) / PERMUTATIONS)
    scaled = errors[deviations > 0] / deviations[deviations > 0]
    assert abs(scaled.mean()) < 4 / np.sqrt(len(scaled))
    assert 0.85 < scaled.std() < 1.15


def test_bands_bring_pairs_together_as_often_as_theory_says() -> None:
    count, rows = minhash.bands(0.8, PERMUTATIONS)
    made = pairs(600, chinese=False)
    one, other = signatures([pair[0] for pair in made]), signatures([pair[1] for pair in made])
    equal = (one == other)[:, : count * rows].reshape(len(made), count, rows)
    together = equal.all(axis=2).any(axis=1)
    exact = np.array([pair[2] for pair in made])
    expected = 1 - (1 - exact**rows) ** count
    spread = np.sqrt((expected * (1 - expected)).sum())
    assert abs(together.sum() - expected.sum()) < 4 * spread
    assert 1 - (1 - 0.8**rows) ** count >= minhash.RECALL


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_clusters_join_the_similar_and_leave_the_rest(threshold: float) -> None:
    made = pairs(300, chinese=False)
    texts = [text for one, other, _ in made for text in (one, other)]
    first = minhash.clusters(signatures(texts), threshold)
    joined = first[1::2] == first[0::2]
    exact = np.array([pair[2] for pair in made])
    margin = 0.14  # three standard errors
    assert joined[exact > threshold + margin].all()
    assert not joined[exact < threshold - margin].any()
    assert (exact > threshold + margin).sum() > 20
    assert (exact < threshold - margin).sum() > 20
    assert np.array_equal(first[0::2], np.arange(0, len(texts), 2))  # the first of each pair stays


def test_a_chain_is_one_cluster_led_by_its_first() -> None:
    rng = random.Random(5)
    vocabulary = [f"w{n}" for n in range(4000)]
    chain = [[rng.choice(vocabulary) for _ in range(400)]]
    for _ in range(12):
        chain.append(variant(chain[-1], 6, rng, vocabulary))
    apart = [rng.choice(vocabulary) for _ in range(400)]
    texts = [" ".join(words) for words in [apart, *chain]]
    assert exact_jaccard(chain[0], chain[-1]) < 0.6
    assert minhash.clusters(signatures(texts), 0.8).tolist() == [0, *[1] * 13]


def test_texts_without_words_resemble_nothing() -> None:
    found = signatures(["", "...", "a real text with words in it", "---"])
    assert minhash.clusters(found, 0.8).tolist() == [0, 1, 2, 3]
    assert not minhash.similar_to_any(found[:2], found[:2], 0.5).any()


def test_short_texts_resemble_only_the_same_words() -> None:
    found = signatures(["月落烏啼", "月落烏啼。", "月落烏", "Good morning", "good  morning!"])
    assert minhash.clusters(found, 0.8).tolist() == [0, 0, 2, 3, 3]


def test_similar_to_any_is_found_whichever_the_other_is() -> None:
    made = pairs(200, chinese=True)
    one, other = signatures([pair[0] for pair in made]), signatures([pair[1] for pair in made])
    exact = np.array([pair[2] for pair in made])
    similar = minhash.similar_to_any(one, other[::-1], 0.5)
    assert similar[exact > 0.64].all()
    assert not similar[exact < 0.36].any()
    assert not minhash.similar_to_any(one, other[:0], 0.5).any()


def test_keys_see_through_blanks_alone() -> None:
    assert minhash.exact_key("a  b\n\nc ") == minhash.exact_key("a b c")
    assert minhash.exact_key("a b c") != minhash.exact_key("a b C")
    assert len(minhash.exact_key("")) == 16


def test_signatures_do_not_depend_on_the_batch() -> None:
    texts = [one for one, _, _ in pairs(20, chinese=False)]
    alone = np.concatenate([signatures([text]) for text in texts])
    assert np.array_equal(signatures(texts), alone)
    assert np.array_equal(signatures(texts, 64).shape, (20, 64))


def test_signatures_stay_what_they_were() -> None:
    """A change here changes every corpus: raise the stage's version with it."""
    found = signatures(["the quick brown fox jumps over the lazy dog"], 4)
    assert found.tolist() == [[945795465, 1099207776, 241180516, 143512902]]
