"""Reply length: the token that ends a reply is not counted, a cut reply has none."""

from __future__ import annotations

from pipelines.metrics import reply_length
from tests.metrics.dialogues import dialogue, material, replies, score
from tests.tiny_models import Tiny


def test_means_of_both_models(tiny: Tiny) -> None:
    what = material(tiny, [dialogue("1", "a", "en"), dialogue("2", "a", "zh")])
    now, before = ["1 2 3", ""], ["12", "3456"]
    facts = score(reply_length.score, what, replies(tiny, now), replies(tiny, before, end=False)).facts
    lengths = [len(what.encoder.tokenizer.encode(text, add_special_tokens=False).ids) for text in now + before]
    assert facts == {
        "heldout/prompts": 2,
        "heldout/reply_tokens": sum(lengths[:2]) / 2,
        "heldout/replies_ended": 1.0,
        "heldout/reply_tokens_before": sum(lengths[2:]) / 2,
    }
    alone = score(reply_length.score, what, replies(tiny, now, end=False)).facts
    assert alone["heldout/replies_ended"] == 0 and "heldout/reply_tokens_before" not in alone
