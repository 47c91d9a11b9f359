"""What metrics of replies share: the prompts that are asked, the text of replies, means over tasks and languages."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from pipelines.metrics import METRICS
from pipelines.metrics.exchanges import averaged, cells, exchanges
from tests.metrics.talks import material, replies, talk
from tests.tiny_models import Tiny


def test_prompts_are_what_the_template_renders_and_leave_room_for_a_reply(tiny: Tiny) -> None:
    talks = [talk("a", "sums", "en", "1 + 1?", "2"), talk("b", "sums", "zh", "一加一" * 60, "2")]
    what = material(tiny, talks)
    assert what.asked is not None and what.chat is not None and what.asked.asks == "both"
    (prompt,) = what.asked.prompts  # the other fills the context
    text = what.encoder.tokenizer.decode(prompt.tokens, skip_special_tokens=False)
    assert text == "<|bos|><|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.about is talks[0] and what.asked.sampling.stop_ids == what.chat.stop_ids
    assert material(tiny, talks[1:]).asked is None
    assert material(tiny, talks, chat=None).asked is None


def test_all_metrics_of_replies_ask_the_same_once(tiny: Tiny) -> None:
    what = material(tiny, [talk("a", "sums", "en", "1 + 1?", "2")])
    asked = [requests for metric in METRICS.values() if (requests := metric.requests(what)) is not None]
    assert len(asked) == 7 and all(one is other for one, other in pairwise(asked))


def test_replies_are_text_and_tokens_without_the_one_that_ends_them(tiny: Tiny) -> None:
    what = material(tiny, [talk("a", "sums", "en"), talk("b", "sums", "zh")])
    assert what.asked is not None
    now, before = replies(tiny, ["Two.", "二。"]), replies(tiny, ["One", "一"], end=False)
    found = exchanges(what, what.asked, now, before)
    assert [one.reply.text for one in found] == ["Two.", "二。"]
    assert [one.before and one.before.text for one in found] == ["One", "一"]
    for one, texts in zip(found, (("Two.", "One"), ("二。", "一")), strict=True):
        assert one.before is not None
        for said, text in zip((one.reply, one.before), texts, strict=True):
            assert said.tokens == what.encoder.tokenizer.encode(text, add_special_tokens=False).ids
    assert all(one.before is None for one in exchanges(what, what.asked, now, None))


def test_means_are_unweighted_over_tasks_and_languages_as_arrow_takes_them() -> None:
    random = np.random.default_rng(1)
    rows = [(f"task{random.integers(3)}", ("en", "zh")[random.integers(2)], float(random.integers(2)))
            for _ in range(200)]  # fmt: skip
    found = averaged("x", cells((talk("a", task, language), value) for task, language, value in rows))
    table = pa.table(dict(zip(("task", "language", "value"), map(list, zip(*rows, strict=True)), strict=True)))
    by_cell = table.group_by(["task", "language"]).aggregate([("value", "mean")])
    means = by_cell["value_mean"].to_numpy()
    languages = by_cell["language"].to_numpy()
    assert found["x"] == pytest.approx(means.mean())
    for language in ("en", "zh"):
        assert found[f"x_{language}"] == pytest.approx(means[languages == language].mean())
    assert found["x"] != pytest.approx(table["value"].to_numpy().mean())
