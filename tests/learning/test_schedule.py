"""Schedules by hand."""

from typing import Literal

import pytest

from pipelines.learning.schedule import Schedule


def lr_factors(schedule: Schedule) -> list[float]:
    return [schedule.lr_factor(step) for step in range(schedule.total)]


def test_wsd_rises_stays_and_falls() -> None:
    schedule = Schedule("wsd", total=10, warmup=2, decay=4)
    assert lr_factors(schedule) == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_wsd_without_warmup_and_decay_is_flat() -> None:
    assert lr_factors(Schedule("wsd", total=3, warmup=0)) == [1, 1, 1]


def test_cosine_falls_by_half_a_wave_to_its_floor() -> None:
    schedule = Schedule("cosine", total=5, warmup=1, floor=0.2)
    # 0.2 + 0.8 · (1 + cos(π·i/4)) / 2 for i = 0 … 3
    assert lr_factors(schedule) == pytest.approx([1, 1, 0.2 + 0.8 * 0.8535534, 0.6, 0.2 + 0.8 * 0.1464466])


@pytest.mark.parametrize("kind", ["wsd", "cosine"])
@pytest.mark.parametrize(("warmup", "decay"), [(0, 0), (0.1, 0.5), (0.7, 0.7), (1, 1)])
def test_factors_of_a_run_are_never_zero_and_never_more_than_one(
    kind: Literal["wsd", "cosine"], warmup: float, decay: float
) -> None:
    schedule = Schedule.from_fractions(kind, 97, warmup, decay)
    assert schedule.warmup + schedule.decay <= schedule.total
    assert all(0 < factor <= 1 for factor in lr_factors(schedule))
