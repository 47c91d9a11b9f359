"""Reply length: the token that ends a reply is not counted, a cut reply has none."""

from __future__ import annotations

from pipelines.metrics.reply_length import METRIC
from tests.metrics.talks import material, replies, score, talk
from tests.tiny_models import Tiny


def test_means_of_both_models(tiny: Tiny) -> None:
    what = material(tiny, [talk("1", "a", "en"), talk("2", "a", "zh")])
    now, before = ["1 2 3", ""], ["12", "3456"]
    facts = score(METRIC, what, replies(tiny, now), replies(tiny, before, end=False)).facts
    lengths = [len(what.encoder.tokenizer.encode(text, add_special_tokens=False).ids) for text in now + before]
    assert facts == {
        "heldout/prompts": 2,
        "heldout/reply_tokens": sum(lengths[:2]) / 2,
        "heldout/replies_ended": 1.0,
        "heldout/reply_tokens_before": sum(lengths[2:]) / 2,
    }
    alone = score(METRIC, what, replies(tiny, now, end=False)).facts
    assert alone["heldout/replies_ended"] == 0 and "heldout/reply_tokens_before" not in alone
