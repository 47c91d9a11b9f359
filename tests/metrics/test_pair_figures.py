"""How well rewards tell the better of two replies, and what lengths and characters tell: against published numbers and
loops written by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.metrics import pair_baselines
from pipelines.metrics.pair_figures import accuracy, calibration_error, figures, reliability, wilson_low


@pytest.mark.parametrize(
    ("right", "count", "low"),
    # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3
    [(81, 263, 0.2553), (15, 148, 0.0624), (0, 20, 0.0), (1, 29, 0.0061)],
)
def test_wilsons_bound_is_the_published_one(right: int, count: int, low: float) -> None:
    assert wilson_low(right / count, count) == pytest.approx(low, abs=5e-5)


def test_calibration_is_what_a_loop_says() -> None:
    margins = np.random.default_rng(0).normal(0.7, 2.0, 500)
    margins[:20] = 0.0
    expected = 0.0
    for low in np.arange(10) / 20 + 0.5:
        sure = [m for m in margins if low <= 1 / (1 + math.exp(-abs(m))) < low + 0.05]
        if sure:
            right = sum(1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in sure)
            expected += abs(right - sum(1 / (1 + math.exp(-abs(m))) for m in sure)) / 500
    bins = reliability(margins)
    assert calibration_error(bins) == pytest.approx(expected, abs=1e-9)
    assert sum(one.pairs for one in bins) == 500


def test_honest_rewards_are_calibrated_and_proud_ones_are_not() -> None:
    random = np.random.default_rng(1)
    sizes = np.abs(random.normal(0, 2, 20_000))
    right = random.random(20_000) < 1 / (1 + np.exp(-sizes))
    margins = np.where(right, sizes, -sizes)
    assert calibration_error(reliability(margins)) < 0.015
    assert calibration_error(reliability(5 * margins)) > 0.1


def test_sure_of_everything_is_in_the_last_bin() -> None:
    (only,) = reliability(np.array([900.0, 1e6]))
    assert (only.low, only.pairs, only.confidence, only.accuracy) == (0.95, 2, 1.0, 1.0)


def test_figures_of_groups() -> None:
    margins = np.array([1.0, -1.0, 0.0, 2.0])
    facts = figures(margins, [("en", np.array([True, True, False, False])), ("none", np.zeros(4, bool))])
    assert facts["heldout/accuracy"] == accuracy(margins) == 0.625
    assert facts["heldout/accuracy_en"] == 0.5
    assert "heldout/accuracy_none" not in facts
    assert facts["heldout/margin"] == 0.5


def test_length_learns_its_direction_from_training_pairs() -> None:
    shorter = np.array([[3, 9], [4, 5], [7, 6]])
    held_out = np.array([[1, 2], [5, 4], [3, 3], [2, 8]])
    assert pair_baselines.length_only(shorter, held_out) == 2.5 / 4
    assert pair_baselines.length_only(shorter[:, ::-1], held_out) == 1.5 / 4


def test_bag_of_characters_finds_a_letter_that_tells() -> None:
    train = [(f"{n} yes", f"{n} no") for n in range(50)]
    assert pair_baselines.bag_of_characters(train, [("yes", "no"), ("no", "yes"), ("a", "b")]) == 0.5
    assert pair_baselines.bag_of_characters(train, [("a yes", "b no")] * 3) == 1.0


def test_same_characters_in_another_order_tell_nothing() -> None:
    train = [(f"{n:02d}", f"{n:02d}"[::-1]) for n in range(100)]
    assert pair_baselines.bag_of_characters(train, train) == 0.5


def test_logistic_regression_is_at_its_minimum() -> None:
    """Newton's method in float64, from its formulas."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(2)
    differences = random.integers(-2, 3, (200, 7)).astype(np.float32) + 0.3
    weights = np.zeros(7)
    for _ in range(30):
        p = 1 / (1 + np.exp(differences @ weights))
        hessian = np.eye(7) + differences.T @ (differences * (p * (1 - p))[:, None])
        weights -= np.linalg.solve(hessian, weights - differences.T @ p)
    fitted = pair_baselines.logistic_regression(torch.from_numpy(differences))
    np.testing.assert_allclose(fitted.numpy(), weights, atol=2e-4)
