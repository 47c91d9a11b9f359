"""Baselines of a reward model that do not understand the replies: by their lengths, or by the characters in them.

Both are fitted to the training pairs and evaluated on the held-out ones. A reward model that is no better exploits a
shortcut in how the pairs were made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from pipelines.metrics.pair_figures import accuracy

MAX_PAIRS = 20_000  # to fit to
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
    """Accuracy of a logistic regression on the counts of each character in the chosen and in the rejected reply."""
    characters = commonest_characters([text for pair in train[:MAX_PAIRS] for text in pair], MAX_CHARACTERS)
    weights_C = logistic_regression(count_differences(train[:MAX_PAIRS], characters))
    return accuracy((count_differences(held_out, characters) @ weights_C).numpy())


def commonest_characters(texts: Sequence[str], max_characters: int) -> dict[str, int]:
    """The most frequent characters and their columns; equally frequent ones in the order of their code points."""
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    return {character: column for column, character in enumerate(ordered[:max_characters])}


def count_differences(pairs: Texts, columns: dict[str, int]) -> torch.Tensor:
    """How much more often each character occurs in the chosen reply than in the rejected one. float32 [N, C]."""
    differences_NC = np.zeros((len(pairs), len(columns)), np.float32)
    for row, pair in zip(differences_NC, pairs, strict=True):
        for text, sign in zip(pair, (1, -1), strict=True):
            for character, count in Counter(text).items():
                if character in columns:
                    row[columns[character]] += sign * count
    return torch.from_numpy(differences_NC)


def logistic_regression(differences_NC: torch.Tensor) -> torch.Tensor:
    """The weights [C] that minimise ½ |w|² + Σ log(1 + exp(−w · d)): scikit-learn's LogisticRegression with its
    defaults, fitted to pairs in both orders. No intercept, since swapping a pair swaps its label."""
    weights_C = torch.zeros(differences_NC.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights_C], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-5)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = weights_C.square().sum() / 2 + torch.nn.functional.softplus(-(differences_NC @ weights_C)).sum()
        total.backward()
        return total

    optimizer.step(loss)
    return weights_C.detach()
