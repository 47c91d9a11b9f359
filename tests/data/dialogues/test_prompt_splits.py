"""Choice of held-out prompts: by hash, whole prompts, a fraction of each language, consistent with earlier choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from pipelines.data.dialogues.prompt_splits import choose_held_out, prompt_groups, prompt_key, split_rows

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


BASES = ("how do i take a wine stain out of a white linen shirt", "why is the sky blue in the morning and red at night")
CHINESE = "水在高山上为什么不到一百度就会沸腾"


def test_prompts_that_are_nearly_the_same_are_one_group() -> None:
    variants = [[base, f"{base} please", f"so {base}"] for base in (*BASES, CHINESE)]
    groups = prompt_groups([key for keys in variants for key in keys])
    assert [len({groups[key] for key in keys}) for keys in variants] == [1, 1, 1]
    assert len(set(groups.values())) == 3
    others = ["what is the capital of france", "what is the capital of spain", "is 3 a number", "is 4 a number"]
    assert prompt_groups(others) == {key: key for key in others}


@dataclass(frozen=True)
class Row:
    prompt: list[dict[str, str]]
    language: str = "en"


def split_of(texts: list[str], *, train: Sequence[str] = (), held_out: Sequence[str] = ()) -> tuple[set[str], set[str]]:
    rows = [Row(user(text)) for text in texts]
    sides = split_rows(
        rows, train=[Row(user(text)) for text in train], held_out=[Row(user(text)) for text in held_out],
        fraction=0.3, max_rows=1000, seed=7,
    )  # fmt: skip
    train_texts, held_out_texts = ({row.prompt[0]["content"] for row in side} for side in sides)
    return train_texts, held_out_texts


def test_near_duplicates_never_stand_on_both_sides() -> None:
    texts = [f"tell me what you know about the number {n} and its neighbours in the list" for n in range(60)]
    variants = [f"{text} please" for text in texts]
    train, held_out = split_of([*texts, *variants])
    assert {f"{text} please" for text in train if text in texts} == train & set(variants)
    assert len(held_out) == pytest.approx(36, abs=2)
    assert split_of([*variants, *texts][::-1]) == (train, held_out)  # whatever the order of rows


def test_a_prompt_that_is_nearly_an_earlier_one_stays_on_its_side() -> None:
    texts = [f"so {BASES[0]}", f"so {BASES[1]}", "a third prompt", "and a fourth one"]
    train, held_out = split_of(texts, train=[BASES[0]], held_out=[BASES[1]])
    assert texts[0] in train
    assert texts[1] in held_out
