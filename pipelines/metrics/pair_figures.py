"""How well rewards predict the preferred of two replies: accuracy with its interval, margin, calibration.

    margins_N = reward of chosen − reward of rejected ──► accuracy (ties half), Wilson's bound, reliability bins

Under Bradley-Terry, σ(margin) is the probability that the chosen reply is the better one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959964  # the standard normal's 97.5% quantile
NUM_BINS = 10  # of confidence, between ½ and 1


def accuracy(margins_N: np.ndarray) -> float:
    """Fraction of pairs with a positive margin; a margin of 0 counts half.

    >>> accuracy(np.array([2.0, -1.0, 0.0, 0.5]))
    0.625
    """
    return float((np.sign(margins_N) + 1).mean() / 2)


def wilson_low(fraction: float, count: int) -> float:
    """Lower bound of the 95% interval of a fraction of `count` independent trials (Wilson 1927, JASA 22, 209-212):

        low = ( p + z² ÷ 2n − z √( p (1 − p) ÷ n + z² ÷ 4n² ) ) ÷ ( 1 + z² ÷ n ),   z = 1.96

    >>> round(wilson_low(0.8, 300), 4), round(wilson_low(1.0, 10), 4)
    (0.7511, 0.7225)
    """
    square = Z95**2
    spread = Z95 * math.sqrt(fraction * (1 - fraction) / count + square / (4 * count**2))
    return (fraction + square / (2 * count) - spread) / (1 + square / count)


@dataclass(frozen=True)
class Bin:
    """Pairs of about equal confidence."""

    low: float  # bounds of the confidence, σ(|margin|)
    high: float
    pairs: int
    confidence: float  # mean of the pairs
    accuracy: float


def reliability(margins_N: np.ndarray) -> list[Bin]:
    """Bins of equal width over the confidence σ(|margin|) in [½, 1]; empty ones are left out."""
    confidence_N = 1 / (1 + np.exp(-np.abs(np.asarray(margins_N, np.float64))))
    edges = np.linspace(0.5, 1.0, NUM_BINS + 1)
    which_N = np.clip(np.searchsorted(edges, confidence_N, side="right") - 1, 0, NUM_BINS - 1)
    bins = []
    for number in np.unique(which_N):
        inside = which_N == number
        low, high = float(edges[number]), float(edges[number + 1])
        bins.append(Bin(low, high, int(inside.sum()), float(confidence_N[inside].mean()), accuracy(margins_N[inside])))
    return bins


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: |accuracy − confidence| of a pair's bin, mean over pairs (Guo et al. 2017, eq. 3)."""
    return sum(b.pairs * abs(b.accuracy - b.confidence) for b in bins) / sum(b.pairs for b in bins)


def figures(margins_N: np.ndarray, groups: Iterable[tuple[str, np.ndarray]] = ()) -> dict[str, float | int]:
    """Facts of held-out pairs. margins_N: [N], N ≥ 1; groups: names with a mask [N] each (a language, a rule), for
    heldout/accuracy_<name>."""
    total = accuracy(margins_N)
    facts: dict[str, float | int] = {
        "heldout/pairs": len(margins_N),
        "heldout/accuracy": total,
        "heldout/accuracy_low": wilson_low(total, len(margins_N)),
        "heldout/margin": float(margins_N.mean()),
    }
    return facts | {f"heldout/accuracy_{name}": accuracy(margins_N[mask]) for name, mask in groups if mask.any()}
