"""What metrics of replies have in common: prompts, the text of replies, means over tasks and languages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.tokens import chat_format
from pipelines.metrics import METRICS, REQUEST_SETS
from pipelines.metrics.exchanges import Likelihood, cell_means, chat_prompts, exchanges, macro_averages
from tests.data.tokens.test_chat_templates import TIDE_TOOL, WITH_TOOLS, chat_with
from tests.metrics.dialogues import dialogue, likely, material, replies
from tests.tiny_models import Tiny


def test_prompts_are_what_the_template_renders_and_leave_room_for_a_reply(tiny: Tiny) -> None:
    dialogues = [dialogue("a", "sums", "en", "1 + 1?", "2"), dialogue("b", "sums", "zh", "一加一" * 60, "2")]
    what = material(tiny, dialogues)
    requests = chat_prompts(what)
    assert requests is not None and what.chat is not None and requests.models == "both"
    (prompt,) = requests.prompts  # the other fills the context
    text = what.encoder.tokenizer.decode(prompt.tokens, skip_special_tokens=False)
    assert text == "<|bos|><|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.conversation is dialogues[0] and requests.sampling.stop_ids == what.chat.stop_ids
    assert requests.not_used == {"too_long": 1}
    too_long = chat_prompts(material(tiny, dialogues[1:]))
    assert too_long is not None and too_long.is_empty and too_long.not_used == {"too_long": 1}
    assert chat_prompts(material(tiny, [])) is None
    assert chat_prompts(material(tiny, dialogues, chat=None)) is None


def test_tools_stand_in_the_prompts_of_a_template_that_takes_them(tiny: Tiny, tmp_path: Path) -> None:
    talk = dialogue("a", "sums", "en", "1 + 1?", "2")
    chat = chat_with(tiny, tmp_path, WITH_TOOLS)
    requests = chat_prompts(material(tiny, [talk, replace(talk, tools=TIDE_TOOL)], chat=chat))
    assert requests is not None
    with_tool = chat.prompt([{"role": "system", "content": "tide"}, *talk.prompt])
    assert [prompt.tokens for prompt in requests.prompts] == [chat.prompt(talk.prompt), with_tool]
    assert requests.rows[1].tokens[: len(with_tool)] == with_tool


def test_conversations_that_the_template_does_not_write_are_counted_by_reason(tiny: Tiny, tmp_path: Path) -> None:
    talk = dialogue("a", "sums", "en", "1 + 1?", "2")
    user, reply = talk.messages
    calling = {"role": "assistant", "content": "", "tool_calls": '[{"function": {"name": "add", "arguments": {}}}]'}
    refused = replace(talk, messages=[user, {"role": "bystander", "content": "?"}, reply])
    template = (
        "{{ raise_exception('who?') if messages[1:] and messages[1].role == 'bystander' }}" + chat_format.TEMPLATE
    )
    chat = chat_with(tiny, tmp_path, template)
    calls = replace(talk, messages=[user, calling, {"role": "tool", "content": "2"}, reply])
    requests = chat_prompts(material(tiny, [talk, calls, refused, calls], chat=chat))
    assert requests is not None and len(requests.prompts) == len(requests.rows) == 1
    assert requests.not_used == {"template_refuses": 1, "tools": 2}


def test_all_metrics_of_replies_score_the_outputs_for_one_request_set(tiny: Tiny) -> None:
    what = material(tiny, [dialogue("a", "sums", "en", "1 + 1?", "2")])
    with_requests = [key for key, make in REQUEST_SETS.items() if make(what) is not None]
    assert with_requests == ["replies"]
    assert sum(metric.requests == "replies" for metric in METRICS.values()) == 8
    assert {metric.requests for metric in METRICS.values()} == set(REQUEST_SETS)


def test_replies_are_text_and_tokens_without_the_one_that_ends_them(tiny: Tiny) -> None:
    what = material(tiny, [dialogue("a", "sums", "en"), dialogue("b", "sums", "zh")])
    requests = chat_prompts(what)
    assert requests is not None
    now, before = replies(tiny, ["Two.", "二。"]), replies(tiny, ["One", "一"], end=False)
    now, before = likely(requests, now, [0.5, 2.0]), likely(requests, before, [1.5, 1.0])
    pairs = exchanges(what, requests, now, before)
    assert [pair.reply.text for pair in pairs] == ["Two.", "二。"]
    assert [pair.previous_reply and pair.previous_reply.text for pair in pairs] == ["One", "一"]
    for pair, texts in zip(pairs, (("Two.", "One"), ("二。", "一")), strict=True):
        assert pair.previous_reply is not None
        for reply, text in zip((pair.reply, pair.previous_reply), texts, strict=True):
            assert reply.tokens == what.encoder.tokenizer.encode(text, add_special_tokens=False).ids
    of_reply = len(what.encoder.encode(["…"])[0]) + 1  # and the token that ends the turn
    assert [pair.likelihood for pair in pairs] == [Likelihood(nats * of_reply, of_reply) for nats in (0.5, 2.0)]
    assert [pair.previous_likelihood for pair in pairs] == [Likelihood(n * of_reply, of_reply) for n in (1.5, 1.0)]
    assert all(pair.previous_reply is None for pair in exchanges(what, requests, now, None))


def test_means_are_unweighted_over_tasks_and_languages_as_arrow_takes_them() -> None:
    random = np.random.default_rng(1)
    rows = [(f"task{random.integers(3)}", ("en", "zh")[random.integers(2)], float(random.integers(2)))
            for _ in range(200)]  # fmt: skip
    averages = macro_averages("x", cell_means((dialogue("a", task, language), value) for task, language, value in rows))
    table = pa.table(dict(zip(("task", "language", "value"), map(list, zip(*rows, strict=True)), strict=True)))
    by_cell = table.group_by(["task", "language"]).aggregate([("value", "mean")])
    means = by_cell["value_mean"].to_numpy()
    languages = by_cell["language"].to_numpy()
    assert averages["x"] == pytest.approx(means.mean())
    for language in ("en", "zh"):
        assert averages[f"x_{language}"] == pytest.approx(means[languages == language].mean())
    assert averages["x"] != pytest.approx(table["value"].to_numpy().mean())


def test_the_likelihood_is_of_the_last_reply_alone(tiny: Tiny) -> None:
    talk = dialogue("a", "open", "en", "?", reply="The last one")
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "A first reply, and a long one"}]
    what = material(tiny, [replace(talk, messages=[*earlier, *talk.messages])])
    requests = chat_prompts(what)
    assert requests is not None and requests.rows[0].loss_mask is not None
    masked = [token for token, m in zip(requests.rows[0].tokens, requests.rows[0].loss_mask, strict=True) if m]
    assert what.encoder.tokenizer.decode(masked, skip_special_tokens=True) == "The last one"
