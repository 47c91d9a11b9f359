"""Distinct-n against sets by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics.distinct_n import METRIC, distinct
from tests.metrics.talks import material, replies, score, talk
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
    what = material(tiny, [talk("1", "a", "en"), talk("2", "a", "zh"), talk("3", "a", "en")])
    said = ["1 2 1 2", "你好你好", "1 2"]
    facts = score(METRIC, what, replies(tiny, said)).facts
    tokens = [ids.tolist() for ids in what.encoder.encode(said)]
    for n in (1, 2):
        assert facts[f"heldout/distinct_{n}"] == distinct(tokens, n)
        assert facts[f"heldout/distinct_{n}_en"] == distinct([tokens[0], tokens[2]], n)
        assert facts[f"heldout/distinct_{n}_zh"] == distinct([tokens[1]], n)
    assert facts["heldout/distinct_1_en"] == pytest.approx(3 / len(tokens[0] + tokens[2]))  # "1", " ", "2"
