"""The written requests that the guard is trained on, and those that it is measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.guard import contrasts, counterparts, lexicon, training
from pipelines.data.guard.classifier import WINDOW
from pipelines.data.guard.disguises import canonical_text
from pipelines.data.guard.training import ORDINARY, OTHER, LabelledText
from tests.data.guard.blind_requests import KINDS, requests_of
from tests.data.guard.held_out_requests import HELD_OUT


def test_the_written_training_texts_come_in_pairs_in_both_languages() -> None:
    for language in ("en", "zh"):
        pairs = contrasts.pairs(language)
        assert len(pairs) == len(dict(pairs)) >= 2000
        assert not {text for pair in pairs for text in pair} & set(contrasts.harmless(language))
        assert set(counterparts.COUNTERPARTS[language]) <= set(lexicon.HARMS[language])
    texts = training.contrast_texts([])
    fold_of = dict(zip((text.text for text in texts), training.folds(texts), strict=True))
    for language in ("en", "zh"):  # the two of a pair are never on both sides of a validation
        for unsafe, harmless in contrasts.pairs(language):
            assert fold_of[canonical_text(unsafe)] == fold_of[canonical_text(harmless)]


def test_ordinary_lines_are_trained_on_in_the_windows_that_a_check_scores() -> None:
    texts = training.ordinary_texts()
    folds = training.folds(texts)
    for language in ("en", "zh"):
        lines = contrasts.ordinary(language)
        assert len(lines) == len(set(lines)) >= 500
        assert not set(lines) & {text for pair in contrasts.pairs(language) for text in pair}
        fold_of: dict[int, set[int]] = {}
        longest = 0
        for text, fold in zip(texts, folds, strict=True):
            if text.language == language:
                assert not text.unsafe and text.text in canonical_text(lines[text.line])
                fold_of.setdefault(text.line, set()).add(int(fold))
                longest = max(longest, len(text.text))
        assert set(fold_of) == set(range(len(lines))) and longest <= WINDOW
        assert all(len(of_line) == 1 for of_line in fold_of.values()), "a line is validated by a model without it"
        assert {fold for of_line in fold_of.values() for fold in of_line} == set(range(training.NUM_FOLDS))


def test_so_many_ordinary_lines_pass_by_the_threshold() -> None:
    """By the worst window of each."""
    texts = [LabelledText("a", "en", OTHER, ORDINARY, 1.0, number % 10) for number in range(20)]
    scores = np.array([0.0] * 10 + [number / 10 for number in range(10)])
    threshold = training.ordinary_threshold(texts, scores, 0.8)
    assert np.mean([number / 10 < threshold for number in range(10)]) == 0.8
    assert training.ordinary_threshold([LabelledText("a", "en", OTHER)], np.array([0.9]), 0.8) == 0.0


def test_the_requests_it_is_measured_on_are_not_in_the_training_texts() -> None:
    training_texts = {text.text for text in (*training.contrast_texts([]), *training.lexicon_texts([], seed=7))}
    training_texts |= {canonical_text(line) for language in ("en", "zh") for line in contrasts.ordinary(language)}
    measured_on = [requests for kinds in HELD_OUT.values() for requests in kinds.values()]
    measured_on += [requests_of(kind, language) for kind in KINDS for language in ("en", "zh")]
    for requests in measured_on:
        assert not {canonical_text(request) for request in requests.splitlines()} & training_texts


def test_a_pair_with_a_held_out_prompt_is_left_out_whole() -> None:
    unsafe, harmless = contrasts.pairs("en")[0]
    messages = [{"role": "user", "content": unsafe}, {"role": "assistant", "content": "No."}]
    held_out = Conversation("1", "en", "mine", "open", messages, safety="unsafe")
    texts = {text.text for text in training.contrast_texts([held_out])}
    assert not {canonical_text(unsafe), canonical_text(harmless)} & texts
    assert len(texts) == len({text.text for text in training.contrast_texts([])}) - 2


def test_a_line_without_two_requests_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrasts, "FOLDER", tmp_path)
    (tmp_path / "pairs_xx.txt").write_text("one | two\nthree\n")
    with pytest.raises(ValueError, match=r"pairs_xx\.txt, line 2: 'three': expected `unsafe \| harmless`"):
        contrasts.pairs("xx")
