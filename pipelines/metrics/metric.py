"""What a metric is: what it asks of a model, and how it scores the answers. Pure: no engine, no Ray, no files.

    material ──requests──► Requests ──(whoever has a model)──► Answers ──score──► Score: facts, rows for the report

A new metric is a file with a class that fits `Metric` and one line in METRICS. What it needs of the world is in
Material; where that is missing it asks nothing (None) and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipelines.data.tokenizing import Encoder
from pipelines.rollout.reply import Reply, Sampling


@dataclass(frozen=True)
class Document:
    """A held-out text."""

    id: str
    language: str
    text: str


@dataclass(frozen=True)
class Material:
    """All there is to judge a model with."""

    encoder: Encoder
    context: int  # tokens a model sees at once
    seed: int
    documents: Sequence[Document] = ()  # held out, in an order drawn by the seed
    unigram: Mapping[str, np.ndarray] | None = None  # by language: how often each token stands in training text [V]
    num_samples: int = 3  # of a language
    prompt_tokens: int = 32
    sampling: Sampling = field(default_factory=Sampling)  # of samples shown to people

    @property
    def start_id(self) -> int:
        """The token a text begins with: the start token, or the end of the text before where a model has none."""
        return self.encoder.eos_id if self.encoder.bos_id is None else self.encoder.bos_id

    @property
    def languages(self) -> list[str]:
        return sorted({document.language for document in self.documents})


@dataclass(frozen=True)
class Row:
    """A row whose tokens' log-probabilities are wanted. about: what the metric itself must remember of it."""

    tokens: list[int]
    about: Any = None


@dataclass(frozen=True)
class Prompt:
    """A prompt that wants a reply, drawn with this seed. about: what the metric itself must remember of it."""

    tokens: list[int]
    seed: int
    about: Any = None


@dataclass(frozen=True)
class Requests:
    """What a metric asks of a model. compares: asks the model before it in the lineage the same, where that can be."""

    rows: Sequence[Row] = ()
    prompts: Sequence[Prompt] = ()
    sampling: Sampling = field(default_factory=Sampling)
    compares: bool = False


@dataclass(frozen=True)
class Answers:
    """A model's answers, in the order of the requests. logprobs: nats [T-1] of each row's tokens but the first."""

    logprobs: Sequence[np.ndarray] = ()
    replies: Sequence[Reply] = ()


@dataclass(frozen=True)
class Score:
    """facts: flat figures named area/what_unit. rows: for the report, each with at least language, prompt, reply."""

    facts: dict[str, float | int | str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


class Metric(Protocol):
    """A way to judge a model."""

    def requests(self, material: Material) -> Requests | None:
        """What the model is asked; None where the material has nothing for this metric."""
        ...

    def score(self, material: Material, requests: Requests, answers: Answers, previous: Answers | None) -> Score:
        """Scores the answers. previous: those of the model before, where they were wanted and could be had."""
        ...
