"""Order of prompts: which are in an iteration, as a function of the seed and the iteration, without a state to save.

Groups (a task in a language) take turns, so that a small one comes as often as a large one; each group's prompts come
in a new order every time all of them have come.
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
        """Indices of the prompts of an iteration."""
        names = sorted(set(self.groups))
        members = {name: [i for i, group in enumerate(self.groups) if group == name] for name in names}
        batch = []
        for number in range(iteration * size, (iteration + 1) * size):
            turn, which = divmod(number, len(names))
            indices = members[names[which]]
            epoch, within = divmod(turn, len(indices))
            order = np.random.default_rng([self.seed, which, epoch]).permutation(len(indices))
            batch.append(indices[order[within]])
        return batch
