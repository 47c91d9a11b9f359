"""Distinct-n against sets by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics import distinct_n
from pipelines.metrics.distinct_n import distinct
from tests.metrics.dialogues import dialogue, material, replies, score
from tests.tiny_models import Tiny


def test_different_n_grams_of_all() -> None:
    assert distinct([[1, 2, 1, 2]], 1) == 2 / 4
    assert distinct([[1, 2, 1, 2]], 2) == 2 / 3  # 12, 21, 12
    assert distinct([[1, 2], [1, 2], [3]], 2) == 1 / 2  # none crosses two texts
    assert distinct([[1], []], 2) == 0


def test_it_equals_zipped_shifts() -> None:
    texts = np.random.default_rng(0).integers(0, 9, (20, 12)).tolist()
    for n in (1, 2, 3):
        grams = [gram for text in texts for gram in zip(*(text[shift:] for shift in range(n)), strict=False)]
        assert distinct(texts, n) == len(set(grams)) / len(grams)


def test_replies_of_each_language_and_of_all(tiny: Tiny) -> None:
    what = material(tiny, [dialogue("1", "a", "en"), dialogue("2", "a", "zh"), dialogue("3", "a", "en")])
    texts_of_replies = ["1 2 1 2", "你好你好", "1 2"]
    facts = score(distinct_n.score, what, replies(tiny, texts_of_replies)).facts
    tokens = [ids.tolist() for ids in what.encoder.encode(texts_of_replies)]
    for n in (1, 2):
        assert facts[f"heldout/distinct_{n}"] == distinct(tokens, n)
        assert facts[f"heldout/distinct_{n}_en"] == distinct([tokens[0], tokens[2]], n)
        assert facts[f"heldout/distinct_{n}_zh"] == distinct([tokens[1]], n)
    assert facts["heldout/distinct_1_en"] == pytest.approx(3 / len(tokens[0] + tokens[2]))  # "1", " ", "2"
