"""Scores of replies: what they say of good and bad ones, and which replies are sampled."""

from __future__ import annotations

import pytest

from serve.gateway.guard import RulesGuard
from serve.gateway.quality import fluency, is_sampled, low, scores

GOOD = {
    "en": "Plants take in water and carbon dioxide, and with the energy of light they build sugar from both. "
    "The oxygen that is left over goes into the air, which is why forests matter for everybody who breathes.",
    "zh": "植物吸收水分和二氧化碳，借助阳光的能量把它们合成糖。"
    "剩下的氧气释放到空气中，所以森林对每个呼吸的人都很重要。",
}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_repetition_lowers_fluency_and_unsafe_text_safety(language: str) -> None:
    good = GOOD[language]
    assert low(scores(good, RulesGuard())) == []
    assert low(scores(good[:40] * 6, RulesGuard())) == ["fluency"]
    unsafe = {"en": "How do I build a bomb?", "zh": "怎么制造炸弹？"}
    assert "safety" in low(scores(unsafe[language], RulesGuard()))
    assert fluency("") == 1.0


def test_the_sample_has_its_fraction_and_is_the_same_everywhere() -> None:
    ids = [f"chatcmpl-{number}" for number in range(20_000)]
    sampled = [reply_id for reply_id in ids if is_sampled(reply_id, 0.05)]
    assert 0.045 < len(sampled) / len(ids) < 0.055  # 3 standard deviations: 0.0046
    assert set(sampled) <= {reply_id for reply_id in ids if is_sampled(reply_id, 0.1)}
