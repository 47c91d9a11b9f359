"""How well a reward tells the preferred of two replies: accuracy with its interval, margin, calibration.

    margins_N = reward of chosen − reward of rejected ──► accuracy (ties half), Wilson's bound, reliability bins

Rewards are read as Bradley-Terry's: σ(margin) is the probability that the chosen reply is the better one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

Z95 = 1.959964  # the standard normal's 97.5% quantile
NUM_BINS = 10  # of confidence, between ½ and 1


def accuracy(margins_N: np.ndarray) -> float:
    """Share of pairs with a positive margin; no margin counts half.

    >>> accuracy(np.array([2.0, -1.0, 0.0, 0.5]))
    0.625
    """
    return float((np.sign(margins_N) + 1).mean() / 2)


def wilson_low(share: float, count: int) -> float:
    """Lower bound of the 95% interval of a share of `count` independent trials (Wilson 1927, JASA 22, 209-212):

        low = ( p + z² ÷ 2n − z √( p (1 − p) ÷ n + z² ÷ 4n² ) ) ÷ ( 1 + z² ÷ n ),   z = 1.96

    >>> round(wilson_low(0.8, 300), 4), round(wilson_low(1.0, 10), 4)
    (0.7511, 0.7225)
    """
    square = Z95**2
    spread = Z95 * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return (share + square / (2 * count) - spread) / (1 + square / count)


@dataclass(frozen=True)
class Bin:
    """Pairs about which the reward is about equally sure."""

    low: float  # of the confidence, which is σ(|margin|)
    high: float
    pairs: int
    confidence: float  # mean
    accuracy: float


def reliability(margins_N: np.ndarray) -> list[Bin]:
    """Bins of equal width over the confidence σ(|margin|) in [½, 1]; those without a pair are left out."""
    confidence_N = 1 / (1 + np.exp(-np.abs(np.asarray(margins_N, np.float64))))
    edges = np.linspace(0.5, 1.0, NUM_BINS + 1)
    which_N = np.clip(np.searchsorted(edges, confidence_N, side="right") - 1, 0, NUM_BINS - 1)
    found = []
    for number in np.unique(which_N):
        inside = which_N == number
        found.append(
            Bin(
                float(edges[number]),
                float(edges[number + 1]),
                int(inside.sum()),
                float(confidence_N[inside].mean()),
                accuracy(margins_N[inside]),
            )
        )
    return found


def calibration_error(bins: Iterable[Bin]) -> float:
    """Expected calibration error: |accuracy − confidence| of a pair's bin, mean over pairs (Guo et al. 2017, eq. 3)."""
    found = list(bins)
    return sum(one.pairs * abs(one.accuracy - one.confidence) for one in found) / sum(one.pairs for one in found)


def figures(margins_N: np.ndarray, groups: Iterable[tuple[str, np.ndarray]] = ()) -> dict[str, float | int]:
    """Facts of held-out pairs. margins_N: [N], N ≥ 1; groups: names with a mask [N] each (a language, a rule), for
    heldout/accuracy_<name>."""
    found = accuracy(margins_N)
    facts: dict[str, float | int] = {
        "heldout/pairs": len(margins_N),
        "heldout/accuracy": found,
        "heldout/accuracy_low": wilson_low(found, len(margins_N)),
        "heldout/margin": float(margins_N.mean()),
    }
    return facts | {f"heldout/accuracy_{name}": accuracy(margins_N[mask]) for name, mask in groups if mask.any()}
