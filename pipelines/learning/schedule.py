"""Learning-rate schedules as functions of the step: a share of the peak, so that nothing has to be saved to resume."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """share(step) of the peak learning rate for steps 0 … total-1. Never 0, so that every step teaches something.

    wsd: warm-up, stable, decay (Hu et al. 2024, MiniCPM, section 4): linear up, flat, linear down.
    cosine: linear up, then half a cosine down to `floor` (Loshchilov and Hutter 2017).
    """

    kind: Literal["wsd", "cosine"]
    total: int
    warmup: int  # steps of linear warm-up
    decay: int = 0  # wsd: steps of decay at the end
    floor: float = 0.0  # cosine: the share at the end

    @classmethod
    def from_shares(
        cls, kind: Literal["wsd", "cosine"], total: int, warmup_share: float, decay_share: float
    ) -> Schedule:
        """Shares of the run's steps, rounded; warm-up and decay never overlap."""
        warmup = round(total * warmup_share)
        return cls(kind, total, warmup, decay=min(round(total * decay_share), total - warmup))

    def share(self, step: int) -> float:
        """The share of the peak at this step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        left = self.total - step  # steps still to come, this one included
        if self.kind == "cosine":
            progress = (step - self.warmup) / max(self.total - self.warmup, 1)
            return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
        return min(1.0, left / self.decay) if self.decay else 1.0
