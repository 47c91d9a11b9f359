"""Similar texts and repeats are those of comparing every two texts."""

from __future__ import annotations

import itertools
import random

import pytest

from pipelines.data.dialogues.similar_texts import repeats


def similarity(one: str, other: str) -> float:
    """Jaccard's, of pairs of neighbouring words."""
    first, second = (set(itertools.pairwise(text.split())) or {tuple(text.split())} for text in (one, other))
    return len(first & second) / len(first | second)


def pairs_of_similarity(num_words: int, num_shared: int, count: int) -> list[tuple[str, str]]:
    """Pairs of texts with so many words each, which have the first words in common."""
    rng, pairs = random.Random(1), []
    for _ in range(count):
        words = [f"w{rng.randrange(10**6)}" for _ in range(2 * num_words - num_shared)]
        pairs.append((" ".join(words[:num_words]), " ".join([*words[:num_shared], *words[num_words:]])))
    return pairs


@pytest.mark.parametrize(("num_shared", "expected"), [(58, True), (57, True), (56, False), (55, False)])
def test_texts_repeat_others_from_the_threshold_on_and_never_below(num_shared: int, expected: bool) -> None:
    pairs = pairs_of_similarity(60, num_shared, 400)
    measured = {similarity(*pair) for pair in pairs}
    assert len(measured) == 1 and (measured.pop() >= 0.9) is expected  # 57 / 61, 56 / 62; 55 / 63 and 54 / 64 are less
    marked = repeats([text for pair in pairs for text in pair], 0.9)
    assert marked == [False, expected] * len(pairs)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 1.0])
def test_repeats_are_those_of_all_comparisons(threshold: float) -> None:
    rng = random.Random(2)
    texts = [" ".join(rng.choices("abcd", k=rng.choice((1, 2, 3, 9)))) for _ in range(300)]
    texts += [" ".join([*(f"w{n}" for n in range(30)), *rng.choices("abcdef", k=rng.choice((1, 5)))]) for _ in texts]
    rng.shuffle(texts)
    expected: list[bool] = []
    for position, text in enumerate(texts):
        kept = (other for other, is_repeat in zip(texts[:position], expected, strict=True) if not is_repeat)
        expected.append(any(similarity(text, other) >= threshold for other in kept))
    assert repeats(texts, threshold) == expected
    assert 20 < sum(expected) < len(texts) - 20


def test_a_text_stays_that_is_similar_only_to_one_that_is_dropped_or_later() -> None:
    words = [f"w{n}" for n in range(26)]
    first, between, last = (" ".join(words[start : start + 22]) for start in (0, 2, 4))
    assert similarity(first, between) >= 0.8 > similarity(first, last)
    assert repeats([first, between, last], 0.8) == [False, True, False]
    assert repeats([first, last, between], 0.8) == [False, False, True]


def test_texts_without_words_repeat_nothing() -> None:
    assert repeats(["???", "???", ""], 0.5) == [False, False, False]
    assert repeats([], 0.5) == []
