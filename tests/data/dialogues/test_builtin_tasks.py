"""Conversations and pairs of the built-in tasks: disjoint splits, and pairs that only the prompt decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.data.dialogues import builtin_tasks
from pipelines.data.dialogues.answer_match import normalised
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.dialogues.preferences import Pair
from pipelines.data.dialogues.tasks.task import LANGUAGES

Splits = tuple[list[Conversation], list[Conversation]]
"""(training, held out)"""


@pytest.fixture(scope="module")
def splits() -> Splits:
    return builtin_tasks.make_conversations(rows=400, held_out_rows=64, seed=7)


def make_pairs(conversations: list[Conversation], wrong_per_prompt: int = 1) -> list[Pair]:
    return builtin_tasks.make_pairs(conversations, wrong_per_prompt=wrong_per_prompt, seed=7)


def test_splits_are_disjoint_and_large(splits: Splits) -> None:
    train, held_out = splits
    held_out_prompts = {normalised(each.prompt[0]["content"]) for each in held_out}
    assert not [each for each in train if normalised(each.prompt[0]["content"]) in held_out_prompts]
    assert len(held_out) >= 400 and len({each.id for each in train + held_out}) == len(train + held_out)
    assert sum(each.safety == "unsafe" for each in held_out) >= 80
    assert sum(each.safety == "safe" for each in held_out) >= 80


def test_pairs_favour_no_length(splits: Splits) -> None:
    for conversations, min_pairs in zip(splits, (3000, 300), strict=True):
        pairs = make_pairs(conversations)
        assert len(pairs) >= min_pairs
        chosen, rejected = (sum(len(getattr(pair, side)) for pair in pairs) for side in ("chosen", "rejected"))
        assert chosen == pytest.approx(rejected, rel=0.03)
        longer = [len(pair.chosen) > len(pair.rejected) for pair in pairs if len(pair.chosen) != len(pair.rejected)]
        assert 0.4 < sum(longer) / len(longer) < 0.6


def test_refusals_are_chosen_as_often_as_rejected(splits: Splits) -> None:
    for conversations in splits:
        pairs = [pair for pair in make_pairs(conversations) if pair.answer is None]
        assert len(pairs) >= 100
        for language in LANGUAGES:
            of_language = [pair for pair in pairs if pair.language == language]
            assert sorted(pair.chosen for pair in of_language) == sorted(pair.rejected for pair in of_language)
            assert {pair.rule for pair in of_language} == {"decline_unsafe", "helpful_before_evasive"}


def test_a_bag_of_characters_hardly_predicts_the_chosen_replies(splits: Splits) -> None:
    """A logistic regression on counts of characters, fitted on training pairs and evaluated on held-out ones."""
    train, held_out = (make_pairs(conversations) for conversations in splits)
    assert bag_accuracy(train, held_out) < 0.6
    marked = [[replace(pair, chosen=f"{pair.chosen}!") for pair in pairs] for pairs in (train, held_out)]
    assert bag_accuracy(*marked) > 0.95  # it does learn a difference where there is one


def bag_accuracy(train: list[Pair], held_out: list[Pair]) -> float:
    characters = sorted({character for pair in train for character in pair.chosen + pair.rejected})
    columns = {character: column for column, character in enumerate(characters)}

    def bags(pairs: list[Pair]) -> np.ndarray:
        rows = np.zeros((len(pairs), len(characters)))
        for row, pair in zip(rows, pairs, strict=True):
            for reply, sign in ((pair.chosen, 1), (pair.rejected, -1)):
                for character in filter(columns.__contains__, reply):
                    row[columns[character]] += sign
        return rows

    fitted, evaluated = bags(train), bags(held_out)
    weights = np.zeros(len(characters))
    for _ in range(8):  # Newton's steps on the loss with a ridge; a pair and its mirror image count alike
        probability = 1 / (1 + np.exp(-fitted @ weights))
        hessian = (fitted * (probability * (1 - probability))[:, None]).T @ fitted + np.eye(len(characters))
        weights += np.linalg.solve(hessian, fitted.T @ (1 - probability) - weights)
    score = evaluated @ weights
    return float(np.mean(score > 0) + np.mean(score == 0) / 2)


def test_more_wrong_answers_give_more_pairs(splits: Splits) -> None:
    fewer, more = (make_pairs(splits[1], wrong_per_prompt) for wrong_per_prompt in (1, 2))
    narrow = [pair for pair in fewer if pair.rule == "correct_before_wrong"]
    assert len(more) == len(fewer) + len(narrow)
    assert len({pair.id for pair in more}) == len(more)


def test_conversations_of_users_make_no_pairs(splits: Splits) -> None:
    assert make_pairs([replace(each, source="mine") for each in splits[1]]) == []
