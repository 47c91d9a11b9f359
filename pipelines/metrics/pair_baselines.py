"""What can be told of two replies without understanding them: from their lengths, or from the characters they hold.

Both learn from the training pairs and are judged on the held-out ones. A reward model that is no better has found a
shortcut in how the pairs were made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from pipelines.metrics.pair_figures import accuracy

MAX_PAIRS = 20_000  # to learn from
MAX_CHARACTERS = 2_000  # the commonest: 20,000 × 2,000 × 4 bytes = 160 MB
STEPS = 200  # of L-BFGS, which converges in fewer

Texts = Sequence[tuple[str, str]]
"""(chosen, rejected) of each pair."""


def length_only(train_lengths_N2: np.ndarray, lengths_N2: np.ndarray) -> float:
    """Accuracy of "the longer wins" or "the shorter wins", whichever is right more often in training; ties half.

    Both int [N, 2]: lengths of the chosen and the rejected replies."""
    train, held_out = (column[:, 0] - column[:, 1] for column in (train_lengths_N2, lengths_N2))
    return accuracy(held_out if accuracy(train) >= 0.5 else -held_out)


def bag_of_characters(train: Texts, held_out: Texts) -> float:
    """Accuracy of a logistic regression on how often each character stands in the chosen reply and in the rejected."""
    characters = commonest([text for pair in train[:MAX_PAIRS] for text in pair], MAX_CHARACTERS)
    weights_C = logistic_regression(count_differences(train[:MAX_PAIRS], characters))
    return accuracy((count_differences(held_out, characters) @ weights_C).numpy())


def commonest(texts: Sequence[str], most: int) -> dict[str, int]:
    """Characters and the columns they get; equally common ones in the order of their code points."""
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    return {character: column for column, character in enumerate(ordered[:most])}


def count_differences(pairs: Texts, columns: dict[str, int]) -> torch.Tensor:
    """How much more often each character stands in the chosen reply. float32 [N, C]."""
    found_NC = np.zeros((len(pairs), len(columns)), np.float32)
    for row, sides in zip(found_NC, pairs, strict=True):
        for text, sign in zip(sides, (1, -1), strict=True):
            for character, count in Counter(text).items():
                if character in columns:
                    row[columns[character]] += sign * count
    return torch.from_numpy(found_NC)


def logistic_regression(differences_NC: torch.Tensor) -> torch.Tensor:
    """The weights [C] that minimise ½ |w|² + Σ log(1 + exp(−w · d)): scikit-learn's LogisticRegression as it is by
    default, of pairs in both orders. There is no intercept: a pair the other way round has the other answer."""
    weights_C = torch.zeros(differences_NC.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights_C], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-5)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = weights_C.square().sum() / 2 + torch.nn.functional.softplus(-(differences_NC @ weights_C)).sum()
        total.backward()
        return total

    optimizer.step(loss)
    return weights_C.detach()
