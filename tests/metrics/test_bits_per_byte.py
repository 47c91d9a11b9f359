"""Bits per byte against sums by hand over transformers' log-probabilities; unigram against a hand loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pipelines.data.tokens.tokenizing import Encoder
from pipelines.metrics.bits_per_byte import bits_per_byte, score, unigram_nats, windows, windows_of_documents
from pipelines.metrics.metric import Document, Material, Outputs
from tests import tiny_models
from tests.tiny_models import CONTEXT, Tiny


def material(tiny: Tiny, **changes: Any) -> Material:
    documents = [
        Document(f"{language}/{number}", language, text[: 200 + 150 * number])
        for language, texts in tiny.texts.items()
        for number, text in enumerate(texts[:3])
    ]
    return Material(
        **({"encoder": Encoder.open(tiny.first), "context": CONTEXT, "seed": 7, "documents": documents} | changes)
    )


def test_windows_hold_every_token_once_and_begin_with_the_start_token() -> None:
    cut = list(windows(list(range(100, 110)), start_id=1, context=5))
    assert cut == [[1, 100, 101, 102, 103], [1, 104, 105, 106, 107], [1, 108, 109]]
    assert list(windows([5, 6, 7], start_id=1, context=4)) == [[1, 5, 6, 7]]
    assert list(windows([], start_id=1, context=4)) == []


def test_two_nats_of_log_two_over_one_byte_are_two_bits() -> None:
    assert bits_per_byte(2 * math.log(2), 1) == pytest.approx(2)


def test_unigram_equals_a_hand_loop() -> None:
    counts = np.array([0, 3, 0, 7, 1])
    tokens = [1, 1, 0, 3, 4, 2]
    by_hand = 0.0
    for token in tokens:
        by_hand -= math.log((counts[token] + 1) / (11 + 5))
    assert unigram_nats(np.array(tokens), counts) == pytest.approx(by_hand)


def by_hand(tiny: Tiny, what: Material) -> dict[str, tuple[float, int, int]]:
    """Nats, tokens and bytes of each language: each document alone, window by window, token by token."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny.first, dtype=torch.float32)
    bos = model.config.bos_token_id
    sums: dict[str, tuple[float, int, int]] = {}
    for document in what.documents:
        ids = what.encoder.tokenizer.encode(document.text, add_special_tokens=False).ids
        nats = 0.0
        for begin in range(0, len(ids), CONTEXT - 1):
            row = [bos, *ids[begin : begin + CONTEXT - 1]]
            with torch.no_grad():
                logprobs = torch.log_softmax(model(torch.tensor([row])).logits[0].double(), -1)
            for place in range(len(row) - 1):
                nats -= logprobs[place, row[place + 1]].item()
        before = sums.get(document.language, (0.0, 0, 0))
        sums[document.language] = (
            before[0] + nats,
            before[1] + len(ids),
            before[2] + len(document.text.encode("utf-8")),
        )
    return sums


def test_score_equals_sums_by_hand_in_both_languages(tiny: Tiny) -> None:
    what = material(tiny)
    requests = windows_of_documents(what)
    assert requests is not None and any(len(row.tokens) == CONTEXT for row in requests.rows)
    rows = [row.tokens for row in requests.rows]
    outputs = Outputs(logprobs=[a.astype(np.float32) for a in tiny_models.reference_logprobs(tiny.first, rows)])
    facts = score(what, requests, outputs, None).facts
    sums = by_hand(tiny, what)
    for name in ("en", "zh"):
        nats, num_tokens, num_bytes = sums[name]
        assert facts[f"heldout/bits_per_byte_{name}"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-6)
        assert facts[f"heldout/perplexity_{name}"] == pytest.approx(math.exp(nats / num_tokens), rel=1e-5)
        uniform = math.log2(what.encoder.vocabulary) * num_tokens / num_bytes
        assert facts[f"heldout/bits_per_byte_uniform_{name}"] == pytest.approx(uniform)
    nats, num_tokens, num_bytes = (sum(parts) for parts in zip(*sums.values(), strict=True))
    assert facts["heldout/bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-6)
    assert facts["heldout/evaluated_tokens"] == num_tokens and facts["heldout/evaluated_bytes"] == num_bytes
    assert "heldout/bits_per_byte_unigram" not in facts


def test_unigram_is_of_each_language_and_evaluated_on_the_same_tokens(tiny: Tiny) -> None:
    plain = material(tiny)
    tables = {
        language: np.bincount(np.concatenate(plain.encoder.encode(texts)), minlength=plain.encoder.vocabulary)
        for language, texts in tiny.texts.items()
    }
    del tables["zh"]  # never trained on: as good as uniform
    what = material(tiny, unigram_counts=tables)
    requests = windows_of_documents(what)
    assert requests is not None
    outputs = Outputs(logprobs=[np.full(len(row.tokens) - 1, -1, np.float32) for row in requests.rows])
    facts = score(what, requests, outputs, None).facts
    bits, total = 0.0, tables["en"].sum() + what.encoder.vocabulary
    english = [document.text for document in what.documents if document.language == "en"]
    for text in english:
        for token in what.encoder.tokenizer.encode(text, add_special_tokens=False).ids:
            bits -= math.log2((tables["en"][token] + 1) / total)
    expected = bits / len("".join(english).encode())
    assert facts["heldout/bits_per_byte_unigram_en"] == pytest.approx(expected)
    assert facts["heldout/bits_per_byte_unigram_zh"] == pytest.approx(facts["heldout/bits_per_byte_uniform_zh"])
    assert expected < float(facts["heldout/bits_per_byte_uniform_en"])


def test_each_source_has_its_figure_whatever_its_languages(tiny: Tiny) -> None:
    documents = [
        Document(f"{('web', 'books/old')[number % 2]}/0/{language}{number}", language, text[:300])
        for language, texts in tiny.texts.items()
        for number, text in enumerate(texts[:3])
    ]
    what = material(tiny, documents=documents)
    requests = windows_of_documents(what)
    assert requests is not None
    outputs = Outputs(logprobs=[np.full(len(row.tokens) - 1, -2, np.float32) for row in requests.rows])
    facts = score(what, requests, outputs, None).facts
    for source, remainder in (("web", 0), ("books/old", 1)):
        texts = [document.text for number, document in enumerate(documents) if number % 3 % 2 == remainder]
        num_tokens = sum(len(what.encoder.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
        expected = 2 * num_tokens / math.log(2) / len("".join(texts).encode())
        assert facts[f"heldout/bits_per_byte_source_{source}"] == pytest.approx(expected)
    assert sum(name.startswith("heldout/bits_per_byte_source_") for name in facts) == 2


def test_a_language_that_is_not_there_has_no_figure_and_no_text_is_no_request(tiny: Tiny) -> None:
    what = material(tiny, documents=[Document("a", "en", "only English here, 1 2 3")])
    requests = windows_of_documents(what)
    assert requests is not None
    outputs = Outputs(logprobs=[np.full(len(row.tokens) - 1, -2, np.float32) for row in requests.rows])
    facts = score(what, requests, outputs, None).facts
    assert facts["heldout/bits_per_byte"] == facts["heldout/bits_per_byte_en"]
    assert not any(name.endswith("_zh") or "_source_" in name for name in facts)
    assert windows_of_documents(material(tiny, documents=())) is None


def test_a_model_without_a_start_token_begins_with_the_end_of_the_text_before(tiny: Tiny) -> None:
    encoder = Encoder.open(tiny.first)
    without = Encoder(encoder.tokenizer, None, encoder.eos_id, encoder.pad_id)
    requests = windows_of_documents(material(tiny, encoder=without))
    assert requests is not None and {row.tokens[0] for row in requests.rows} == {encoder.eos_id}
