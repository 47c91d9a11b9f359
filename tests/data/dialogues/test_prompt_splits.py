"""Choice of held-out prompts: by hash, whole prompts, a fraction of each language, consistent with earlier choices."""

from __future__ import annotations

import pytest

from pipelines.data.dialogues.prompt_splits import choose_held_out, prompt_key

PROMPTS = [(f"{language} {number}", language) for language in ("en", "zh") for number in range(200)]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_spellings_of_one_prompt_have_one_key() -> None:
    key = prompt_key(user("How  are you?"))
    assert key == prompt_key(user("“HOW are you”！")) == prompt_key([*user("how are you"), *user("And I?")])
    assert key != prompt_key(user("How old are you?"))
    assert prompt_key(user("???")) == "???"  # punctuation alone is a prompt as well


def test_about_the_fraction_of_each_language_is_held_out() -> None:
    keys = choose_held_out(PROMPTS, fraction=0.1, max_rows=1000, seed=7)
    assert [sum(key.startswith(language) for key in keys) for language in ("en", "zh")] == [20, 20]
    assert keys == choose_held_out(PROMPTS[::-1], fraction=0.1, max_rows=1000, seed=7)
    assert keys != choose_held_out(PROMPTS, fraction=0.1, max_rows=1000, seed=8)
    assert len(choose_held_out(PROMPTS, fraction=0.1, max_rows=5, seed=7)) == 10
    assert choose_held_out(PROMPTS, fraction=0, max_rows=5, seed=7) == set()


def test_prompts_with_a_side_already_keep_it() -> None:
    first = choose_held_out(PROMPTS, fraction=0.1, max_rows=1000, seed=7)
    train, held_out = set(list(first)[:10]), {key for key, _ in PROMPTS if key not in first and key.endswith("7")}
    keys = choose_held_out(PROMPTS, fraction=0.1, max_rows=1000, seed=7, train_keys=train, held_out_keys=held_out)
    assert not keys & train
    assert held_out <= keys
    assert len(keys) == pytest.approx(len(PROMPTS) * 0.1, abs=1) or held_out == keys


def test_a_single_prompt_is_for_training() -> None:
    assert choose_held_out([("a", "en")] * 5, fraction=0.5, max_rows=10, seed=7) == set()
