"""Exact match and answer F1 of replies that are known."""

from __future__ import annotations

import pytest

from pipelines.metrics import answer_f1, exact_match
from tests.metrics.talks import material, replies, score, talk
from tests.tiny_models import Tiny

TALKS = [
    talk("1", "sums", "en", "1 + 1?", "2"),
    talk("2", "sums", "en", "2 + 2?", "4"),
    talk("3", "names", "en", "Who?", "the red house"),
    talk("4", "sums", "zh", "一加一？", "二"),
    talk("5", "small_talk", "zh", "你好"),
]
SAID = ["2.", "5", "A red house", "三", "2"]


def test_every_task_counts_alike_and_each_has_a_figure(tiny: Tiny) -> None:
    assert score(exact_match.METRIC, material(tiny, TALKS), replies(tiny, SAID)).facts == {
        "heldout/exact_match": pytest.approx(0.5 / 3),  # names 0, English sums ½, Chinese sums 0
        "heldout/exact_match_en": 0.25,
        "heldout/exact_match_zh": 0.0,
        "heldout/exact_match_names_en": 0.0,
        "heldout/exact_match_sums_en": 0.5,
        "heldout/exact_match_sums_zh": 0.0,
    }


def test_f1_counts_the_words_that_are_right(tiny: Tiny) -> None:
    assert score(answer_f1.METRIC, material(tiny, TALKS), replies(tiny, SAID)).facts == {
        "heldout/answer_f1": pytest.approx(1.5 / 3),  # articles do not count: "A red house" is all of it
        "heldout/answer_f1_en": 0.75,
        "heldout/answer_f1_zh": 0.0,
    }


def test_without_answers_nothing_is_claimed(tiny: Tiny) -> None:
    what = material(tiny, TALKS[4:])
    assert score(exact_match.METRIC, what, replies(tiny, ["2"])).facts == {}
    assert score(answer_f1.METRIC, what, replies(tiny, ["2"])).facts == {}
