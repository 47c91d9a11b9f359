"""Choice of held-out prompts: by hash, whole prompts, a fraction of each language, consistent with earlier choices."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from pipelines.data.dialogues import similar_texts
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


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return set(itertools.pairwise(words)) or {tuple(words)}


def similarity(one: str, other: str) -> float:
    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


def test_prompts_a_little_beyond_the_threshold_are_always_one_group() -> None:
    rng = random.Random(1)
    pairs = []
    for number in range(500):
        words = [f"w{rng.randrange(10**6)}" for _ in range(22)]
        pairs.append((" ".join(words[:20]), " ".join([*words[2:20], *words[20:]])))  # 17 of 21 pairs of words
        assert similarity(*pairs[number]) == pytest.approx(0.81, abs=0.001)
    groups = prompt_groups([text for pair in pairs for text in pair])
    assert sum(groups[one] != groups[other] for one, other in pairs) == 0
    assert len(set(groups.values())) == 500


def test_groups_are_those_of_all_comparisons() -> None:
    rng = random.Random(2)
    texts = {" ".join(rng.choices("abcd", k=rng.choice((1, 2, 3, 9)))) for _ in range(300)}
    texts |= {
        " ".join([*(f"w{n}" for n in range(30)), *rng.choices("abcdef", k=rng.choice((2, 5)))]) for _ in range(200)
    }
    expected = {text: text for text in sorted(texts)}
    for one in expected:
        for other in [other for other in expected if similarity(one, other) >= 0.8]:
            first, second = sorted((expected[one], expected[other]))
            expected.update({text: first for text, group in expected.items() if group == second})
    assert prompt_groups(rng.sample(sorted(texts), len(texts))) == expected
    assert 20 < len(set(expected.values())) < len(texts) - 20
    ordered = list(expected)
    beside = [any(similarity(one, other) >= 0.8 for other in ordered[::7]) for one in ordered[1::2]]
    assert similar_texts.similar(ordered[1::2], ordered[::7], 0.8) == beside
    assert similar_texts.similar(ordered, [], 0.8) == [False] * len(ordered)
    assert prompt_groups([]) == {}


@pytest.mark.parametrize(
    "text", ["please classify this review as good or bad in one word {}", "{} how many legs have {} ants"]
)
def test_many_prompts_of_one_template_take_seconds(text: str) -> None:
    started = time.process_time()
    prompt_groups([text.format(number, number) for number in range(50_000)])
    assert time.process_time() - started < 20


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


def test_a_prompt_that_is_nearly_one_of_each_side_is_for_training() -> None:
    words = [f"w{n}" for n in range(22)]
    earlier_train, between, earlier_held_out = (" ".join(words[first : first + 20]) for first in (0, 1, 2))
    sides = {"train": [earlier_train], "held_out": [earlier_held_out]}
    assert split_of([between], **sides) == ({between}, set())
    assert split_of([between, earlier_held_out], **sides) == ({between}, {earlier_held_out})  # the same prompt keeps it
    assert choose_held_out([("a", "en")], fraction=0.3, max_rows=9, seed=7, train_keys="a", held_out_keys="a") == set()


def test_split_does_not_depend_on_the_order_of_rows() -> None:
    rng = random.Random(3)
    texts = [" ".join(f"w{rng.randrange(10**6)}" for _ in range(12)) for _ in range(40)]
    rows = [Row(user(f"{text}{end}"), language) for text in texts
            for end, language in (("", "zh"), (" please", "en"), (" now", rng.choice(("en", "zh"))))]  # fmt: skip
    rows += [Row(user(f"{text} then"), "en") for text in texts[::2]]  # some have as many rows of both languages
    splits = []
    for _ in range(5):
        rng.shuffle(rows)
        sides = split_rows(rows, train=(), held_out=(), fraction=0.3, max_rows=1000, seed=7)
        splits.append([{row.prompt[0]["content"] for row in side} for side in sides])
    assert splits[0][1] and splits == splits[:1] * 5
