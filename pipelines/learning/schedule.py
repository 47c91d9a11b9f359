"""Learning-rate schedules as functions of the step, so that there is no state to save and resume."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """lr_factor(step) of the peak learning rate for steps 0 … total-1. Never 0, so that every step has an effect.

    wsd: warm-up, stable, decay (Hu et al. 2024, MiniCPM, section 4): linear up, flat, linear down.
    cosine: linear up, then half a cosine down to `floor` (Loshchilov and Hutter 2017).
    """

    kind: Literal["wsd", "cosine"]
    total: int
    warmup: int  # steps of linear warm-up
    decay: int = 0  # wsd: steps of decay at the end
    floor: float = 0.0  # cosine: the factor at the end

    @classmethod
    def from_fractions(
        cls, kind: Literal["wsd", "cosine"], total: int, warmup_fraction: float, decay_fraction: float
    ) -> Schedule:
        """From fractions of the run's steps, rounded; warm-up and decay never overlap."""
        warmup = round(total * warmup_fraction)
        return cls(kind, total, warmup, decay=min(round(total * decay_fraction), total - warmup))

    def lr_factor(self, step: int) -> float:
        """The factor of the peak learning rate at this step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        remaining = self.total - step  # steps, this one included
        if self.kind == "cosine":
            progress = (step - self.warmup) / max(self.total - self.warmup, 1)
            return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
        return min(1.0, remaining / self.decay) if self.decay else 1.0
