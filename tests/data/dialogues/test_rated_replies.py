"""Pairs of rated replies: those that making and sorting all of them gives, without making all of them."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import combinations

import pytest

from pipelines.data.dialogues.answer_match import normalised
from pipelines.data.dialogues.rated_replies import ParsedPair, RatedReply, pairs_of


def all_pairs(replies: Sequence[RatedReply]) -> list[ParsedPair]:
    """Every pair, made and then sorted by its difference."""
    ordered = sorted(replies, key=lambda reply: -reply.rating)
    different = [
        (better, worse)
        for better, worse in combinations(ordered, 2)
        if better.rating > worse.rating and normalised(better.reply) != normalised(worse.reply)
    ]
    different.sort(key=lambda pair: pair[1].rating - pair[0].rating)
    return [ParsedPair(better.prompt, better.reply, worse.reply) for better, worse in different]


@pytest.mark.parametrize(
    "ratings", [(0, 1), (1, 2, 3, 4), (0.1, 0.2, 0.3, 1e-17, -1), (1e20, 1, 2, 3), (1e308, -1e308, 9e307, 0.0, -0.0)]
)
def test_the_widest_pairs_are_those_of_all_pairs_sorted(ratings: tuple[float, ...]) -> None:
    rng = random.Random(7)
    for number in range(400):
        texts = ["a", "A.", "b", "c", "d"][: rng.randint(1, 5)] + [f"reply {n}" for n in range(number % 4 * 2)]
        replies = [RatedReply([], rng.choice(texts), rng.choice(ratings)) for _ in range(rng.randint(0, 12))]
        expected = all_pairs(replies)
        for max_pairs in (1, 3, 10, 100):
            assert pairs_of(replies, max_pairs) == (expected[:max_pairs], max(0, len(expected) - max_pairs))


def test_many_replies_to_one_prompt_take_no_time_for_all_their_pairs() -> None:
    replies = [RatedReply([], f"reply {n}", n % 2) for n in range(50_000)]
    same = [RatedReply([], "a" if n % 3 else f"{n}", n / 7) for n in range(50_000)]
    start = time.process_time()
    pairs, num_beyond = pairs_of(replies, 10)
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("reply 1", f"reply {2 * n}") for n in range(10)]
    assert num_beyond == 25_000**2 - 10
    assert len(pairs_of(same, 10)[0]) == 10
    assert time.process_time() - start < 20
