"""The order of prompts: groups in turn, all prompts of a group before any comes again."""

from __future__ import annotations

from collections import Counter

from pipelines.rollout.prompts import PromptOrder

GROUPS = ["sums en"] * 6 + ["sums zh"] * 2 + ["persona en"]


def asked(seed: int, iterations: range, size: int) -> list[int]:
    order = PromptOrder(GROUPS, seed)
    return [number for iteration in iterations for number in order.batch(iteration, size)]


def test_groups_take_turns() -> None:
    counts = Counter(GROUPS[number] for number in asked(0, range(5), 6))
    assert counts == {"sums en": 10, "sums zh": 10, "persona en": 10}


def test_a_groups_prompts_all_come_before_one_comes_again() -> None:
    of_sums = [number for number in asked(3, range(6), 6) if GROUPS[number] == "sums en"]
    assert sorted(of_sums[:6]) == sorted(of_sums[6:12]) == list(range(6))
    assert of_sums[:6] != of_sums[6:12]


def test_it_does_not_depend_on_how_it_is_cut() -> None:
    assert asked(1, range(12), 3) == asked(1, range(4), 9)
    assert asked(1, range(4), 9) != asked(2, range(4), 9)
