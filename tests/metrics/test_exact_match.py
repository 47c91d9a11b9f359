"""Exact match and answer F1 of known replies."""

from __future__ import annotations

import pytest

from pipelines.metrics import answer_f1, exact_match
from tests.metrics.dialogues import dialogue, material, replies, score
from tests.tiny_models import Tiny

DIALOGUES = [
    dialogue("1", "sums", "en", "1 + 1?", "2"),
    dialogue("2", "sums", "en", "2 + 2?", "4"),
    dialogue("3", "names", "en", "Who?", "the red house"),
    dialogue("4", "sums", "zh", "一加一？", "二"),
    dialogue("5", "small_talk", "zh", "你好"),
]
REPLIES = ["2.", "5", "A red house", "三", "2"]


def test_every_task_counts_alike_and_each_has_a_figure(tiny: Tiny) -> None:
    assert score(exact_match.score, material(tiny, DIALOGUES), replies(tiny, REPLIES)).facts == {
        "heldout/exact_match": pytest.approx(0.5 / 3),  # names 0, English sums ½, Chinese sums 0
        "heldout/exact_match_en": 0.25,
        "heldout/exact_match_zh": 0.0,
        "heldout/exact_match_names_en": 0.0,
        "heldout/exact_match_sums_en": 0.5,
        "heldout/exact_match_sums_zh": 0.0,
    }


def test_f1_counts_the_words_that_are_right(tiny: Tiny) -> None:
    assert score(answer_f1.score, material(tiny, DIALOGUES), replies(tiny, REPLIES)).facts == {
        "heldout/answer_f1": pytest.approx(1.5 / 3),  # articles do not count: "A red house" is all of it
        "heldout/answer_f1_en": 0.75,
        "heldout/answer_f1_zh": 0.0,
    }


def test_without_answers_there_is_no_figure(tiny: Tiny) -> None:
    what = material(tiny, DIALOGUES[4:])
    assert score(exact_match.score, what, replies(tiny, ["2"])).facts == {}
    assert score(answer_f1.score, what, replies(tiny, ["2"])).facts == {}
