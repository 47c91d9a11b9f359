"""A lesson: what the loop trains. Rows, a module that turns a batch of them into a summed loss, and how it is saved.

    rows.read(indices) ──► batch ──learner──► loss, summed over batch.num_labels

Next tokens, preferences, reward models: each is a lesson, and none is a branch of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipelines.learning import model as models
from pipelines.learning.batch import PackedRows
from pipelines.learning.saving import Weights, save_proven


class Batch(Protocol):
    """Rows as tensors."""

    @property
    def num_labels(self) -> int:
        """Number of tokens or pairs that the loss is summed over, and that a step's gradient is divided by."""
        ...

    def to(self, device: str | torch.device, /) -> Any: ...


class Rows(Protocol):
    """Random access to training rows."""

    def __len__(self) -> int: ...

    @property
    def phases(self) -> tuple[int, ...]:
        """Numbers of rows that are read one after another, in each pass; one number where all are shuffled."""
        ...

    @property
    def row_tokens(self) -> float:
        """Mean tokens of a row: the unit of throughput."""
        ...

    @property
    def tokens_N(self) -> np.ndarray | None:
        """Tokens of each row, where they differ."""
        ...

    def batch_tokens(self, rows: np.ndarray, /) -> int:
        """Tokens of the batch of these rows, padding included."""
        ...

    def read(self, rows: np.ndarray, /) -> Any:
        """Rows by their indices, in this order, as a Batch; no rows give one without labels."""
        ...

    def padding(self) -> Any:
        """A Batch without labels, whose loss is 0."""
        ...


class Evaluate(Protocol):
    """What a lesson's `before` and `after` compute with."""

    def __call__(self, function: Callable[..., Tensor], /, *args: Any) -> Tensor:
        """function(*args) without a gradient and without dropout, on the weights as they are."""
        ...

    def progress(self, done: int, total: int) -> None:
        """Displays how many pairs of a pass have been scored."""
        ...


@dataclass(frozen=True)
class Lesson:
    """One objective of training.

    learner: module with the parameters; forward(batch) is the loss summed over its labels. model: the part of it that
    is saved, `learner.<path>`. save: writes weights, by the model's parameter names, into a folder. dtype: of these
    weights. only_trainable: `save` gets the trained weights alone. logits_again: see Setting. before, after: called on
    every rank with the engine's `evaluate`, when the learner has its initial weights, and its final ones; `after`
    returns figures."""

    learner: nn.Module
    model: PreTrainedModel
    path: str
    rows: Rows
    save: Callable[[Weights, Path], None]
    dtype: torch.dtype = torch.float32
    only_trainable: bool = False
    logits_again: bool = False
    before: Callable[[Evaluate], None] = lambda _: None
    after: Callable[[Evaluate], dict[str, float]] = lambda _: {}

    def weights(self, learner_weights: Weights) -> Iterator[tuple[str, Tensor]]:
        """The model's weights by its parameter names, from the learner's by its."""
        prefix = f"{self.path}."
        return ((name.removeprefix(prefix), weight) for name, weight in learner_weights if name.startswith(prefix))


def next_token(model: PreTrainedModel, rows: PackedRows, dtype: torch.dtype = torch.float32) -> Lesson:
    """Predicting the next token of packed rows, with dropout where the model has any. dtype: of the saved weights."""
    learner = models.NextTokenLearner(model).train()
    return Lesson(learner, model, "model", rows, partial(save_proven, model), dtype)
