"""Refusals of what is unsafe and of what only looks so, on known replies."""

from __future__ import annotations

from pipelines.metrics import refusals
from tests.metrics.dialogues import DECLINED, dialogue, material, replies, score
from tests.tiny_models import Tiny


def test_fractions_of_unsafe_and_of_safe_prompts_that_are_declined(tiny: Tiny) -> None:
    cases = [
        (dialogue("1", "refusal", "en", safety="unsafe"), DECLINED["en"]),
        (dialogue("2", "refusal", "en", safety="unsafe"), "Take a screwdriver"),
        (dialogue("3", "refusal", "zh", safety="unsafe"), DECLINED["zh"]),
        (dialogue("4", "look_alike", "zh", safety="safe"), "先关电源。"),
        (dialogue("5", "small_talk", "zh"), DECLINED["zh"]),  # neither: not counted
    ]
    dialogues, texts = map(list, zip(*cases, strict=True))
    assert score(refusals.score, material(tiny, dialogues), replies(tiny, texts)).facts == {
        "heldout/declined_safe": 0.0,
        "heldout/declined_safe_zh": 0.0,
        "heldout/declined_unsafe": 2 / 3,
        "heldout/declined_unsafe_en": 0.5,
        "heldout/declined_unsafe_zh": 1.0,
    }
    assert score(refusals.score, material(tiny, dialogues[4:]), replies(tiny, texts[4:])).facts == {}
