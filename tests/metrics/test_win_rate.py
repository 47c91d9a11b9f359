"""Win rates: the rule on known replies; the interval against numpy's variance and against chance itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.metrics import win_rate as metric
from pipelines.metrics.exchanges import chat_prompts
from pipelines.metrics.win_rate import win_rate, win_rate_low
from tests.metrics.dialogues import DECLINED, dialogue, likely, material, replies, score
from tests.tiny_models import Tiny


def test_the_verifier_decides_where_an_answer_can_be_checked_and_ties_are_half(tiny: Tiny) -> None:
    cases = [  # conversation, reply, previous reply, points of the win
        (dialogue("1", "sums", "en", "?", "2"), "2.", "3", 1),
        (dialogue("2", "sums", "en", "?", "2"), "4", "3", 0.5),
        (dialogue("3", "sums", "zh", "?", "二"), "三", "二。", 0),
        (dialogue("4", "refusal", "en", "?", safety="unsafe"), DECLINED["en"], "First you take", 1),
        (dialogue("5", "refusal", "zh", "?", safety="unsafe"), "先拿", DECLINED["zh"], 0),
        (
            dialogue("6", "look_alike", "en", "?", safety="safe", reply="Use a sharp knife"),
            "A knife",
            DECLINED["en"],
            1,
        ),
        (dialogue("7", "look_alike", "zh", "?", safety="safe", reply="用刀"), DECLINED["zh"], "用锋利的刀", 0),
        (dialogue("8", "look_alike", "en", "?", safety="safe", reply="Use a knife"), "2222", DECLINED["en"], 0.5),
    ]
    dialogues, now, before, points = map(list, zip(*cases, strict=True))
    what = material(tiny, dialogues)
    facts = score(metric.score, what, replies(tiny, now), replies(tiny, before)).facts
    assert facts["heldout/win_rate"] == pytest.approx(sum(points) / 8)
    assert facts["heldout/win_rate_prompts"] == 8 and facts["heldout/win_rate_rule"] == "verifier"
    for language in ("en", "zh"):
        in_language = [value for c, value in zip(dialogues, points, strict=True) if c.language == language]
        assert facts[f"heldout/win_rate_{language}"] == pytest.approx(sum(in_language) / len(in_language))
    assert facts["heldout/win_rate_low"] == win_rate_low(3, 3, 8) < 0.5
    assert score(metric.score, what, replies(tiny, now)).facts == {}  # no previous model: no figure


@pytest.mark.parametrize(
    ("reply", "previous", "nats", "previous_nats", "points"),
    [
        ("Paris is the capital", "I like tea", 1.0, 2.0, 1),
        ("I like tea", "The capital is Paris", 2.0, 1.0, 0),
        ("Paris is the capital", "I like tea", 2.0, 1.0, 0.5),  # closer by luck: its likelihood fell
        ("2222", "3333", 1.0, 2.0, 0.5),
        ("2222", "It is Paris", 1.0, 2.0, 0.5),
        ("2222", DECLINED["en"], 2.0, 2.0, 0.5),  # not refusing is no win
        ("", "", 1.0, 2.0, 0.5),
    ],
)
def test_other_prompts_are_decided_by_overlap_and_likelihood_together(
    tiny: Tiny, reply: str, previous: str, nats: float, previous_nats: float, points: float
) -> None:
    what = material(tiny, [dialogue("1", "open", "en", "?", reply="The capital is Paris.")])
    requests = chat_prompts(what)
    assert requests is not None
    now, before = (
        likely(requests, replies(tiny, [reply]), [nats]),
        likely(requests, replies(tiny, [previous]), [previous_nats]),
    )
    facts = metric.score(what, requests, now, before).facts
    assert (facts["heldout/win_rate"], facts["heldout/win_rate_rule"]) == (points, "reference")


def test_a_degenerate_model_does_not_win_and_both_rules_are_named(tiny: Tiny) -> None:
    """A model that always writes 2222 against one that repeats the references: it loses every open prompt."""
    dialogues = [dialogue(str(n), "open", "en", "?", reply=f"Reply number {n}") for n in range(5)]
    dialogues.append(dialogue("checkable", "sums", "zh", "?", "2222"))
    what = material(tiny, dialogues)
    requests = chat_prompts(what)
    assert requests is not None
    now = likely(requests, replies(tiny, ["2222"] * 6), [3.0] * 6)
    before = likely(requests, replies(tiny, [c.reply for c in dialogues]), [1.0] * 6)
    facts = metric.score(what, requests, now, before).facts
    assert facts["heldout/win_rate"] == pytest.approx(0.5 / 6)  # the checkable one is a tie
    assert facts["heldout/win_rate_rule"] == "verifier and reference"


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
