"""What the figures are to be, and whether they are: the one place where a benchmark's goals stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A bound: figures are to be at least, or at most, so much."""

    bound: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


GOALS: Mapping[str, Goal] = {
    "train/ratio_to_bare": Goal(0.9),
    "ppo/ratio_to_trl": Goal(1.5),
    "ppo/publish_share": Goal(0.02, at_least=False),
    "publish/logprob_gap": Goal(1e-4, at_least=False),
    "ppo/reward_last": Goal(0.9),
    "sampler/ratio_to_bare": Goal(0.9),
    "serve/ratio_to_bare_1": Goal(0.8),
    "serve/ratio_to_bare_8": Goal(0.8),
    "serve/ratio_to_bare_32": Goal(0.8),
    "serve/first_over_tenth": Goal(2.0, at_least=False),
}


def verdict(name: str, value: float) -> str:
    """`goal ≥ 0.9: met`, or nothing where there is no goal."""
    goal = GOALS.get(name)
    return "" if goal is None else f"goal {goal}: {'met' if goal.met(value) else 'MISSED'}"


def tell(figures: Mapping[str, float]) -> None:
    """Prints figures as a table, with the verdict on each that has a goal."""
    for name, value in figures.items():
        shown = f"{value:,.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
        print(f"{name:<36} {shown:>12}  {verdict(name, value)}".rstrip())
    judged = [GOALS[name].met(value) for name, value in figures.items() if name in GOALS]
    if judged:
        print(f"goals: {sum(judged)} of {len(judged)} met")
