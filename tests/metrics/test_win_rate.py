"""Win rates: the rule on known replies; the interval against numpy's variance and against chance itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.metrics import win_rate as metric
from pipelines.metrics.win_rate import win_rate, win_rate_low
from tests.metrics.dialogues import DECLINED, dialogue, material, replies, score
from tests.tiny_models import Tiny


def test_the_rule_decides_and_ties_are_half(tiny: Tiny) -> None:
    cases = [  # conversation, reply, previous reply, points of the win
        (dialogue("1", "sums", "en", "?", "2"), "2.", "3", 1),
        (dialogue("2", "sums", "en", "?", "2"), "4", "3", 0.5),
        (dialogue("3", "sums", "zh", "?", "二"), "三", "二。", 0),
        (dialogue("4", "refusal", "en", "?", safety="unsafe"), DECLINED["en"], "First you take", 1),
        (dialogue("5", "refusal", "zh", "?", safety="unsafe"), "先拿", DECLINED["zh"], 0),
        (dialogue("6", "look_alike", "zh", "?", safety="safe"), "先拿", DECLINED["zh"], 1),
        (dialogue("7", "look_alike", "en", "?", safety="safe"), "First", "You take", 0.5),
        (dialogue("8", "small_talk", "en", "Hello"), "Hello!", DECLINED["en"], 1),
        (dialogue("9", "small_talk", "zh", "你好"), "", "你好", 0),
        (dialogue("10", "open", "en", "?"), "", "", 0.5),
    ]
    dialogues, now, before, points = map(list, zip(*cases, strict=True))
    what = material(tiny, dialogues)
    facts = score(metric.score, what, replies(tiny, now), replies(tiny, before)).facts
    assert facts["heldout/win_rate"] == pytest.approx(sum(points) / 10)
    assert facts["heldout/win_rate_prompts"] == 10
    for language in ("en", "zh"):
        in_language = [value for c, value in zip(dialogues, points, strict=True) if c.language == language]
        assert facts[f"heldout/win_rate_{language}"] == pytest.approx(sum(in_language) / len(in_language))
    assert facts["heldout/win_rate_low"] == win_rate_low(4, 3, 10) < 0.5
    assert score(metric.score, what, replies(tiny, now)).facts == {}  # no previous model: no figure


@pytest.mark.parametrize(("wins", "losses", "prompts"), [(90, 40, 600), (0, 0, 400), (5, 0, 5), (0, 7, 20)])
def test_the_interval_is_numpys_on_counts_with_a_half_more_of_each_outcome(
    wins: int, losses: int, prompts: int
) -> None:
    values = np.array([1.0, 0.0, 0.5])
    weights = np.array([wins + 0.5, losses + 0.5, prompts - wins - losses + 1.0])
    mean = float(np.average(values, weights=weights))
    error = math.sqrt(float(np.cov(values, aweights=weights, ddof=0)) / weights.sum())
    assert win_rate_low(wins, losses, prompts) == pytest.approx(mean - 1.959964 * error, abs=1e-9)
    assert win_rate_low(wins, losses, prompts) < win_rate(wins, losses, prompts)


@pytest.mark.parametrize("outcomes", [(0.25, 0.15), (0.05, 0.05), (0.6, 0.3), (0.02, 0.0)])
def test_the_true_rate_is_below_the_bound_once_in_forty_times(outcomes: tuple[float, float]) -> None:
    won, lost = outcomes
    drawn = np.random.default_rng(3).multinomial(400, (won, lost, 1 - won - lost), 4000)
    bounds = [win_rate_low(int(wins), int(losses), 400) for wins, losses, _ in drawn]
    missed = float(np.mean(np.array(bounds) > 0.5 + (won - lost) / 2))
    assert missed < 0.035
    assert missed > 0.01 or won < 0.05  # so few that the bound cannot be that sharp
