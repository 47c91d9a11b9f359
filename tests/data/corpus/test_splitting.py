"""The held-out split: whole groups, about the requested fraction, and free of training text."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.corpus.splitting import (
    choose,
    choose_groups,
    first_occurrences,
    held_out_mask,
    is_in_sorted,
    remove_lines,
)
from pipelines.data.text.measures import hash_texts


def corpus(groups: dict[str, list[int]], language: str) -> dict[str, list]:
    """Columns of documents. groups: the sizes of the documents of each group."""
    rows = [
        (f"{language}/{name}/{n}", name, language, size)
        for name, sizes in groups.items()
        for n, size in enumerate(sizes)
    ]
    return {key: [row[n] for row in rows] for n, key in enumerate(("ids", "groups", "languages", "sizes"))}


def many_groups(number: int = 60, language: str = "en") -> dict[str, list]:
    rng = random.Random(1)
    return corpus(
        {f"g{n}": [rng.randint(100, 3000) for _ in range(rng.randint(1, 40))] for n in range(number)}, language
    )


def held_out_fraction(columns: dict[str, list], chosen: np.ndarray, language: str) -> float:
    in_language = np.array(columns["languages"]) == language
    sizes = np.array(columns["sizes"])
    return float(sizes[in_language & chosen].sum() / sizes[in_language].sum())


@pytest.mark.parametrize("seed", range(5))
def test_whole_groups_of_each_language_are_held_out(seed: int) -> None:
    english, chinese = many_groups(), many_groups(30, "zh")
    columns = {key: english[key] + chinese[key] for key in english}
    chosen = held_out_mask(**columns, fraction=0.05, seed=seed)
    for language in ("en", "zh"):
        assert 0.01 < held_out_fraction(columns, chosen, language) <= 0.05
        for group in set(columns["groups"]):
            indices = [n for n, name in enumerate(columns["ids"]) if name.startswith(f"{language}/{group}/")]
            assert len(set(chosen[indices].tolist())) <= 1


def test_the_split_depends_on_the_seed_only() -> None:
    columns = many_groups()
    chosen = held_out_mask(**columns, fraction=0.05, seed=1)
    assert np.array_equal(chosen, held_out_mask(**columns, fraction=0.05, seed=1))
    assert not np.array_equal(chosen, held_out_mask(**columns, fraction=0.05, seed=2))
    order = random.Random(0).sample(range(len(chosen)), len(chosen))
    shuffled = {key: [values[index] for index in order] for key, values in columns.items()}
    assert np.array_equal(held_out_mask(**shuffled, fraction=0.05, seed=1), chosen[order])


def test_one_group_is_split_by_documents() -> None:
    columns = corpus({"only": [100] * 400}, "zh")
    assert 0.04 <= held_out_fraction(columns, held_out_mask(**columns, fraction=0.05, seed=0), "zh") <= 0.05


def test_groups_that_exceed_the_most_bytes_are_split_by_documents() -> None:
    groups, documents = {"a": 300, "b": 300}, {f"{name}{n}": 30 for name in "ab" for n in range(10)}
    assert choose(groups, documents, 100, salt="")[0]
    whole_groups, names = choose(groups, documents, 100, salt="", most=100)
    assert not whole_groups and len(names) == 3


def test_two_large_groups_are_split_by_documents() -> None:
    columns = corpus({"a": [100] * 300, "b": [100] * 300}, "en")
    assert 0.04 <= held_out_fraction(columns, held_out_mask(**columns, fraction=0.05, seed=0), "en") <= 0.05


def test_the_smallest_of_few_groups_is_held_out() -> None:
    columns = corpus({"a": [100] * 50, "b": [100] * 60, "c": [100] * 10}, "en")
    chosen = held_out_mask(**columns, fraction=0.05, seed=0)
    assert {group for group, held in zip(columns["groups"], chosen, strict=True) if held} == {"c"}


def test_training_documents_always_remain() -> None:
    one, two = corpus({"a": [100]}, "en"), corpus({"a": [100], "b": [100]}, "en")
    assert held_out_mask(**one, fraction=0.5, seed=0).sum() == 0
    assert held_out_mask(**two, fraction=0.5, seed=0).sum() == 1
    assert held_out_mask(**many_groups(), fraction=0.0, seed=0).sum() == 0


def test_one_large_group_is_not_held_out_alone() -> None:
    sizes = {"large": 90} | {f"small{n}": 5 for n in range(400)}
    assert all("large" not in choose_groups(sizes, 100, salt=str(seed)) for seed in range(20))


def lines_of(*texts: str) -> np.ndarray:
    return np.unique(
        np.array([h for hashes in hash_texts(pa.array(texts)).long_lines().to_pylist() for h in hashes], np.uint64)
    )


def test_lines_of_training_text_are_removed() -> None:
    shared = "This function is deprecated and will be removed in a future version of the library."
    unique = "Opens the file and returns a handle that must be closed by the caller in the end."
    text, fraction, number = remove_lines(f"{unique}\n\n    {shared}\n- short\n", lines_of(f"prefix\n{shared}\nother"))
    assert (text, number) == (f"{unique}\n\n- short", 1)
    assert 0.4 < fraction < 0.6
    chinese = "这个函数已经废弃，将在以后的版本里删去，请改用新的那个函数。"
    assert remove_lines(chinese, lines_of(chinese))[0] == ""
    assert remove_lines(unique, lines_of(shared)) == (unique, 0.0, 0)
    assert remove_lines(unique, np.empty(0, np.uint64)) == (unique, 0.0, 0)


def test_first_occurrences_and_membership() -> None:
    keys = np.array([[1, 2], [0, 0], [1, 2], [1, 3], [0, 0], [1, 2]], np.uint64)
    assert first_occurrences(keys).tolist() == [True, True, False, True, False, False]
    assert is_in_sorted(np.array([5, 7, 9], np.uint64), np.array([5, 9, 11], np.uint64)).tolist() == [True, False, True]
    assert is_in_sorted(np.array([5], np.uint64), np.empty(0, np.uint64)).tolist() == [False]
