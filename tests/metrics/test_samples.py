"""Samples: whole characters, seeds of their own, the model before beside the model."""

from __future__ import annotations

import numpy as np

from pipelines.data.tokens.tokenizing import Encoder
from pipelines.inference.reply import Reply, Sampling
from pipelines.metrics.metric import Answers, Document, Material
from pipelines.metrics.samples import METRIC
from tests.tiny_models import CONTEXT, Tiny


def material(tiny: Tiny, **changes) -> Material:
    documents = [Document(f"{n}/{i}", n, text) for n, own in tiny.texts.items() for i, text in enumerate(own)]
    values = {"encoder": Encoder.open(tiny.first), "context": CONTEXT, "seed": 7, "documents": documents,
              "sampling": Sampling(temperature=0.8, max_new_tokens=5)}  # fmt: skip
    return Material(**(values | changes))


def test_prompts_are_beginnings_of_documents_and_end_with_a_whole_character(tiny: Tiny) -> None:
    encoder = Encoder.open(tiny.first)
    for length in range(8, 40):
        what = material(tiny, num_samples=2, prompt_tokens=length)
        requests = METRIC.requests(what)
        assert requests is not None
        assert [prompt.about for prompt in requests.prompts] == ["en", "en", "zh", "zh"]
        for prompt in requests.prompts:
            text = encoder.tokenizer.decode(prompt.tokens[1:])
            assert prompt.tokens[0] == encoder.bos_id and length - 3 <= len(prompt.tokens) - 1 <= length
            assert any(own.startswith(text) for own in tiny.texts[prompt.about])


def test_each_prompt_has_a_seed_of_its_own_that_the_run_decides(tiny: Tiny) -> None:
    def seeds(seed: int) -> list[int]:
        requests = METRIC.requests(material(tiny, seed=seed))
        assert requests is not None
        return [prompt.seed for prompt in requests.prompts]

    assert seeds(1) == seeds(1) != seeds(2)
    assert len(set(seeds(1))) == 6
    assert all(0 <= seed < 2**63 for seed in seeds(1))


def test_rows_hold_the_reply_and_the_one_before(tiny: Tiny) -> None:
    what = material(tiny, num_samples=1)
    requests = METRIC.requests(what)
    assert requests is not None and requests.asks == "both"
    encoder = what.encoder

    def answers(text: str) -> Answers:
        tokens = [*encoder.encode([text])[0].tolist(), encoder.eos_id]
        return Answers(replies=[Reply(tokens, np.zeros(len(tokens), np.float32), "stop")] * len(requests.prompts))

    score = METRIC.score(what, requests, answers(" and so on, 等等"), answers("before"))
    assert [row["language"] for row in score.rows] == ["en", "zh"]
    assert {(row["reply"], row["reply_before"]) for row in score.rows} == {(" and so on, 等等", "before")}
    assert "reply_before" not in METRIC.score(what, requests, answers("x"), None).rows[0]
    assert score.facts == {}


def test_documents_that_are_not_longer_than_a_prompt_are_no_samples(tiny: Tiny) -> None:
    assert METRIC.requests(material(tiny, documents=[Document("a", "en", "short")])) is None
    assert METRIC.requests(material(tiny, num_samples=0)) is None
