"""Held-out prompts: by hash, whole, a share of each language, bound by what is known already."""

from __future__ import annotations

import pytest

from pipelines.data.dialogues.prompt_splits import held_out, key

PROMPTS = [(f"{language} {number}", language) for language in ("en", "zh") for number in range(200)]


def asks(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_spellings_of_one_prompt_have_one_key() -> None:
    assert key(asks("How  are you?")) == key(asks("“HOW are you”！")) == key([*asks("how are you"), *asks("And I?")])
    assert key(asks("How are you?")) != key(asks("How old are you?"))
    assert key(asks("???")) == "???"  # punctuation alone is a prompt as well


def test_about_the_share_of_each_language_is_held_out() -> None:
    found = held_out(PROMPTS, share=0.1, most=1000, seed=7)
    assert [sum(own.startswith(name) for own in found) for name in ("en", "zh")] == [20, 20]
    assert found == held_out(PROMPTS[::-1], share=0.1, most=1000, seed=7)
    assert found != held_out(PROMPTS, share=0.1, most=1000, seed=8)
    assert len(held_out(PROMPTS, share=0.1, most=5, seed=7)) == 10
    assert held_out(PROMPTS, share=0, most=5, seed=7) == set()


def test_prompts_with_a_side_already_keep_it() -> None:
    first = held_out(PROMPTS, share=0.1, most=1000, seed=7)
    train, held = set(list(first)[:10]), {own for own, _ in PROMPTS if own not in first and own.endswith("7")}
    found = held_out(PROMPTS, share=0.1, most=1000, seed=7, train=train, held=held)
    assert not found & train
    assert held <= found
    assert len(found) == pytest.approx(len(PROMPTS) * 0.1, abs=1) or held == found


def test_a_single_prompt_is_for_training() -> None:
    assert held_out([("a", "en")] * 5, share=0.5, most=10, seed=7) == set()
