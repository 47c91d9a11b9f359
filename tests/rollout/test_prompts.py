"""The order of prompts: groups in turn, all prompts of a group before any comes again."""

from __future__ import annotations

from collections import Counter

from pipelines.rollout.prompts import PromptOrder

GROUPS = ["sums en"] * 6 + ["sums zh"] * 2 + ["persona en"]


def batches(seed: int, iterations: range, size: int) -> list[int]:
    order = PromptOrder(GROUPS, seed)
    return [number for iteration in iterations for number in order.batch(iteration, size)]


def test_groups_take_turns() -> None:
    counts = Counter(GROUPS[number] for number in batches(0, range(5), 6))
    assert counts == {"sums en": 10, "sums zh": 10, "persona en": 10}


def test_a_groups_prompts_all_come_before_one_comes_again() -> None:
    sums = [number for number in batches(3, range(6), 6) if GROUPS[number] == "sums en"]
    assert sorted(sums[:6]) == sorted(sums[6:12]) == list(range(6))
    assert sums[:6] != sums[6:12]


def test_it_does_not_depend_on_how_it_is_cut() -> None:
    assert batches(1, range(12), 3) == batches(1, range(4), 9)
    assert batches(1, range(4), 9) != batches(2, range(4), 9)
