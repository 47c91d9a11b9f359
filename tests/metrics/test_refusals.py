"""Refusals of what is unsafe and of what only looks so, on replies that are known."""

from __future__ import annotations

from pipelines.metrics.refusals import METRIC
from tests.metrics.talks import DECLINED, material, replies, score, talk
from tests.tiny_models import Tiny


def test_shares_of_unsafe_and_of_safe_prompts_that_are_declined(tiny: Tiny) -> None:
    games = [
        (talk("1", "refusal", "en", safety="unsafe"), DECLINED["en"]),
        (talk("2", "refusal", "en", safety="unsafe"), "Take a screwdriver"),
        (talk("3", "refusal", "zh", safety="unsafe"), DECLINED["zh"]),
        (talk("4", "look_alike", "zh", safety="safe"), "先关电源。"),
        (talk("5", "small_talk", "zh"), DECLINED["zh"]),  # neither: not counted
    ]
    talks, said = map(list, zip(*games, strict=True))
    assert score(METRIC, material(tiny, talks), replies(tiny, said)).facts == {
        "heldout/declined_safe": 0.0,
        "heldout/declined_safe_zh": 0.0,
        "heldout/declined_unsafe": 2 / 3,
        "heldout/declined_unsafe_en": 0.5,
        "heldout/declined_unsafe_zh": 1.0,
    }
    assert score(METRIC, material(tiny, talks[4:]), replies(tiny, said[4:])).facts == {}
