"""Loss on the replies of held-out conversations: the mean over tokens, not over conversations."""

from __future__ import annotations

import pytest

from pipelines.metrics import reply_loss
from pipelines.metrics.exchanges import chat_prompts
from tests.metrics.dialogues import dialogue, likely, material, replies
from tests.tiny_models import Tiny


def test_the_loss_is_the_mean_over_the_tokens_of_all_replies(tiny: Tiny) -> None:
    texts = ["Yes", "A much longer reply, of many tokens"]
    what = material(tiny, [dialogue(str(n), "open", "en", "?", reply=text) for n, text in enumerate(texts)])
    requests = chat_prompts(what)
    assert requests is not None
    lengths = [len(ids) + 1 for ids in what.encoder.encode(texts)]  # with the token that ends the turn
    now, before = (likely(requests, replies(tiny, ["", ""]), nats) for nats in ([1.0, 3.0], [2.0, 2.0]))
    expected = (lengths[0] * 1.0 + lengths[1] * 3.0) / sum(lengths)
    facts = reply_loss.score(what, requests, now, before).facts
    assert facts["heldout/loss_nats"] == pytest.approx(expected)
    assert facts["heldout/loss_nats_before"] == pytest.approx(2.0)
    assert set(reply_loss.score(what, requests, now, None).facts) == {"heldout/loss_nats"}
