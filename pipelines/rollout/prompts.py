"""Which prompts are asked in which iteration: a function of the seed and the iteration, with nothing to save.

Groups (a task in a language) take turns, so that a small one is asked as often as a large one; each group's prompts
come in a new order every time all of them have been asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PromptOrder:
    """groups: the group of each prompt."""

    groups: Sequence[str]
    seed: int

    def batch(self, iteration: int, size: int) -> list[int]:
        """The numbers of the prompts of an iteration."""
        names = sorted(set(self.groups))
        members = {name: [i for i, group in enumerate(self.groups) if group == name] for name in names}
        chosen = []
        for place in range(iteration * size, (iteration + 1) * size):
            turn, which = divmod(place, len(names))
            own = members[names[which]]
            epoch, within = divmod(turn, len(own))
            chosen.append(own[np.random.default_rng([self.seed, which, epoch]).permutation(len(own))[within]])
        return chosen
