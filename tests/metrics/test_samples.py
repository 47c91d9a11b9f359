"""Samples: whole characters, a seed for each, the previous model beside the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.data.tokens.tokenizing import Encoder
from pipelines.inference.reply import Reply, Sampling
from pipelines.metrics.metric import Document, Material, Outputs
from pipelines.metrics.samples import beginnings, score
from tests.tiny_models import CONTEXT, Tiny


def material(tiny: Tiny, **changes: Any) -> Material:
    documents = [Document(f"{n}/{i}", n, text) for n, texts in tiny.texts.items() for i, text in enumerate(texts)]
    values = {"encoder": Encoder.open(tiny.first), "context": CONTEXT, "seed": 7, "documents": documents,
              "sampling": Sampling(temperature=0.8, max_new_tokens=5)}  # fmt: skip
    return Material(**(values | changes))


def test_prompts_are_beginnings_of_documents_and_end_with_a_whole_character(tiny: Tiny) -> None:
    encoder = Encoder.open(tiny.first)
    for length in range(8, 40):
        what = material(tiny, num_samples=2, prompt_tokens=length)
        requests = beginnings(what)
        assert requests is not None
        assert [prompt.language for prompt in requests.prompts] == ["en", "en", "zh", "zh"]
        for prompt in requests.prompts:
            text = encoder.tokenizer.decode(prompt.tokens[1:])
            assert prompt.tokens[0] == encoder.bos_id and length - 3 <= len(prompt.tokens) - 1 <= length
            assert any(whole.startswith(text) for whole in tiny.texts[prompt.language])


def test_each_prompt_has_another_seed_that_the_runs_seed_decides(tiny: Tiny) -> None:
    def seeds(seed: int) -> list[int]:
        requests = beginnings(material(tiny, seed=seed))
        assert requests is not None
        return [prompt.seed for prompt in requests.prompts]

    assert seeds(1) == seeds(1) != seeds(2)
    assert len(set(seeds(1))) == 6
    assert all(0 <= seed < 2**63 for seed in seeds(1))


def test_rows_hold_the_reply_and_the_one_before(tiny: Tiny) -> None:
    what = material(tiny, num_samples=1)
    requests = beginnings(what)
    assert requests is not None and requests.models == "both"
    encoder = what.encoder

    def outputs(text: str) -> Outputs:
        tokens = [*encoder.encode([text])[0].tolist(), encoder.eos_id]
        return Outputs(replies=[Reply(tokens, np.zeros(len(tokens), np.float32), "stop")] * len(requests.prompts))

    scored = score(what, requests, outputs(" and so on, 等等"), outputs("before"))
    assert [row["language"] for row in scored.rows] == ["en", "zh"]
    assert {(row["reply"], row["reply_before"]) for row in scored.rows} == {(" and so on, 等等", "before")}
    assert "reply_before" not in score(what, requests, outputs("x"), None).rows[0]
    assert scored.facts == {}


def test_documents_that_are_not_longer_than_a_prompt_are_no_samples(tiny: Tiny) -> None:
    assert beginnings(material(tiny, documents=[Document("a", "en", "short")])) is None
    assert beginnings(material(tiny, num_samples=0)) is None
