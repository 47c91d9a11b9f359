"""A lesson: what the loop teaches. Rows, a module that turns a batch of them into a summed loss, and what is saved.

    rows.read(numbers) ──► batch ──learner──► loss, summed over batch.num_labels

Next tokens, preferences, rewards: each is a lesson, and none is a branch of the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipelines.inference import probe
from pipelines.learning import model as models
from pipelines.learning.batch import PackedRows


class Batch(Protocol):
    """Rows as tensors."""

    @property
    def num_labels(self) -> int:
        """What the loss is summed over, and a step's gradient divided by: tokens, pairs."""
        ...

    def to(self, device: str | torch.device, /) -> Any: ...


class Rows(Protocol):
    """Random access to training rows."""

    def __len__(self) -> int: ...

    @property
    def row_tokens(self) -> float:
        """Tokens of a row, on average, padding included where it is computed: what speed is counted in."""
        ...

    def read(self, rows: np.ndarray, /) -> Any:
        """These rows, in this order, as a Batch; one without labels for no rows."""
        ...

    def padding(self) -> Any:
        """A Batch without labels, which adds nothing to a loss."""
        ...


@dataclass(frozen=True)
class Lesson:
    """One thing to learn.

    learner: has the parameters; forward(batch) gives the loss summed over its labels. model: the part of it that is
    kept, as `learner.<path>`. save: writes weights (by the model's own names) into a folder."""

    learner: nn.Module
    model: PreTrainedModel
    path: str
    rows: Rows
    save: Callable[[dict[str, Tensor], Path], None]

    def weights(self, learnt: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's weights by its own names, from the learner's."""
        prefix = f"{self.path}."
        return {name.removeprefix(prefix): w for name, w in learnt.items() if name.startswith(prefix)}


def next_token(model: PreTrainedModel, rows: PackedRows, dtype: torch.dtype) -> Lesson:
    """Predicting the next token of packed rows."""
    return Lesson(models.NextTokenLearner(model, dtype), model, "model", rows, partial(save_proven, model))


def save_proven(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes a causal model with its probe, the proof of a later push."""
    models.save(model, weights, folder)
    probe.write(folder, probe.by_transformers(folder))
