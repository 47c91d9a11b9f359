"""Postal addresses: precision and recall, on text apart from that of the patterns, too; surrogates; time."""

from __future__ import annotations

import time

import pytest

from pipelines.data.text.privacy import Privacy, spans, surrogate
from tests.data.text.address_texts import DEVELOPMENT, HELD_OUT
from tests.data.text.private_texts import labelled

ADDRESS = frozenset({"address"})


@pytest.mark.parametrize(("lines", "precision", "recall"), [(DEVELOPMENT, 0.95, 0.95), (HELD_OUT, 0.9, 0.85)])
def test_precision_and_recall(lines: str, precision: float, recall: float) -> None:
    rows = labelled(lines)
    found = {(text, span) for text, _ in rows for span in spans(text, ADDRESS)}  # pyright: ignore[reportArgumentType]
    expected = {(text, span) for text, of_text in rows for span in of_text}
    right = found & expected
    assert len(expected) >= 12
    assert len(right) >= precision * len(found), [text[span.start : span.stop] for text, span in found - expected]
    assert len(right) >= recall * len(expected), [text[span.start : span.stop] for text, span in expected - found]


def test_an_address_is_replaced_with_the_words_around_it_left() -> None:
    text = "We moved to 9 Rose Terrace, not far. 请寄到文三路398号。Or to 9 Rose Terrace."
    clean, counts = Privacy({"address": "mask"}, seed=7).replace(text)
    assert clean == "We moved to [address], not far. 请寄到[address]。Or to [address]."
    assert counts == {"address": 3}
    first, second = (surrogate("address", place, 7) for place in ("9 Rose Terrace", "文三路398号"))
    clean, _ = Privacy({"address": "surrogate"}, seed=7).replace(text)
    assert clean == f"We moved to {first}, not far. 请寄到{second}。Or to {first}."
    assert first != second and surrogate("address", "9 Rose Terrace", 8) != first


@pytest.mark.parametrize(
    "text", ["12 Aa " * 1000, "街1" * 3000, "1号" * 3000, f"在{'路' * 3000}号", f"{'中' * 3000}路1号", "12 A. " * 2000]
)
def test_a_long_run_of_anything_takes_little_time(text: str) -> None:
    start = time.process_time()
    spans(text, ADDRESS)  # pyright: ignore[reportArgumentType]
    assert time.process_time() - start < 2
