"""The written requests that the guard is trained on, and those that it is measured on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.guard import contrasts, counterparts, lexicon, training
from pipelines.data.guard.disguises import canonical_text
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


def test_the_requests_it_is_measured_on_are_not_in_the_training_texts() -> None:
    training_texts = {text.text for text in (*training.contrast_texts([]), *training.lexicon_texts([], seed=7))}
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
