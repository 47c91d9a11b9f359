"""The embedded tasks as rows: both sides apart, and pairs that only the prompt decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.data.dialogues import embedded
from pipelines.data.dialogues.answers import normalised
from pipelines.data.dialogues.preferences import Pair
from pipelines.data.dialogues.tasks.task import LANGUAGES


@pytest.fixture(scope="module")
def conversations():
    return embedded.conversations(rows=400, held_out_rows=64, seed=7)


def test_embedded_conversations_are_apart_and_many(conversations) -> None:
    train, held_out = conversations
    asked = {normalised(one.prompt[0]["content"]) for one in held_out}
    assert not [one for one in train if normalised(one.prompt[0]["content"]) in asked]
    assert len(held_out) >= 400 and len({one.id for one in train + held_out}) == len(train + held_out)
    assert sum(one.safety == "unsafe" for one in held_out) >= 80
    assert sum(one.safety == "safe" for one in held_out) >= 80


def test_pairs_favour_no_length(conversations) -> None:
    for found, least in zip(conversations, (3000, 300), strict=True):
        pairs = embedded.pairs(found, wrong_per_prompt=1, seed=7)
        assert len(pairs) >= least
        chosen, rejected = (sum(len(getattr(pair, side)) for pair in pairs) for side in ("chosen", "rejected"))
        assert chosen == pytest.approx(rejected, rel=0.03)
        longer = [len(pair.chosen) > len(pair.rejected) for pair in pairs if len(pair.chosen) != len(pair.rejected)]
        assert 0.4 < sum(longer) / len(longer) < 0.6


def test_refusals_are_chosen_as_often_as_rejected(conversations) -> None:
    for found in conversations:
        pairs = [pair for pair in embedded.pairs(found, wrong_per_prompt=1, seed=7) if pair.answer is None]
        assert len(pairs) >= 100
        for language in LANGUAGES:
            own = [pair for pair in pairs if pair.language == language]
            assert sorted(pair.chosen for pair in own) == sorted(pair.rejected for pair in own)
            assert {pair.rule for pair in own} == {"decline_unsafe", "helpful_before_evasive"}


def test_a_bag_of_characters_hardly_tells_the_right_answers(conversations) -> None:
    """A logistic regression on counts of characters, fitted on training pairs and judged on held-out ones."""
    train, held_out = (embedded.pairs(found, wrong_per_prompt=1, seed=7) for found in conversations)
    assert bag_accuracy(train, held_out) < 0.6
    told = [[replace(pair, chosen=f"{pair.chosen}!") for pair in side] for side in (train, held_out)]
    assert bag_accuracy(*told) > 0.95  # it does find what there is to find


def bag_accuracy(train: list[Pair], held_out: list[Pair]) -> float:
    known = sorted({character for pair in train for character in pair.chosen + pair.rejected})
    place = {character: number for number, character in enumerate(known)}

    def bags(pairs: list[Pair]) -> np.ndarray:
        rows = np.zeros((len(pairs), len(known)))
        for row, pair in zip(rows, pairs, strict=True):
            for side, sign in ((pair.chosen, 1), (pair.rejected, -1)):
                for character in filter(place.__contains__, side):
                    row[place[character]] += sign
        return rows

    fitted, judged = bags(train), bags(held_out)
    weights = np.zeros(len(known))
    for _ in range(8):  # Newton's steps on the loss with a ridge; a pair and its mirror image count alike
        right = 1 / (1 + np.exp(-fitted @ weights))
        hessian = (fitted * (right * (1 - right))[:, None]).T @ fitted + np.eye(len(known))
        weights += np.linalg.solve(hessian, fitted.T @ (1 - right) - weights)
    score = judged @ weights
    return float(np.mean(score > 0) + np.mean(score == 0) / 2)


def test_more_wrong_answers_give_more_pairs(conversations) -> None:
    one, two = (embedded.pairs(conversations[1], wrong_per_prompt=number, seed=7) for number in (1, 2))
    narrow = [pair for pair in one if pair.rule == "correct_before_wrong"]
    assert len(two) == len(one) + len(narrow)
    assert len({pair.id for pair in two}) == len(two)


def test_conversations_of_users_make_no_pairs(conversations) -> None:
    assert embedded.pairs([replace(one, source="mine") for one in conversations[1]], wrong_per_prompt=1, seed=7) == []
