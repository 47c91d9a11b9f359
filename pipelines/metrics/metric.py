"""What a metric is: what it asks of a model, and how it scores the answers. Pure: no engine, no Ray, no files.

    material ──requests──► Requests ──(whoever has a model)──► Answers ──score──► Score: facts, rows for the report

A new metric is a file with a class that fits `Metric` and one line in METRICS. What it needs of the world is in
Material; where that is missing it asks nothing (None) and is left out. Metrics that return the same Requests object
share its answers: `Material.asked`, the held-out conversations, is asked once and scored by many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import xxhash

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.inference.reply import Reply, Sampling


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
    chat: Chat | None = None  # the model's own template
    conversations: Sequence[Conversation] = ()  # held out, in an order drawn by the seed
    chat_sampling: Sampling = field(default_factory=Sampling)  # of replies to them
    num_shown: int = 2  # replies of a task and language that people are shown
    previous_is_base: bool = False  # whether the model before has only ever seen plain text
    shots: Sequence[Conversation] = ()  # training examples with answers, for prompts of such a model
    num_shots: int = 4  # of a prompt

    @cached_property
    def asked(self) -> Requests | None:
        """The prompts of the held-out conversations, for this model and the one before; about: the Conversation.

        Always the same object, so that all metrics of replies share one pass. A prompt that leaves no room for a
        whole reply is left out."""
        if self.chat is None:
            return None
        prompts = [
            Prompt(self.chat.prompt(one.prompt), seed=drawn_seed(one.id, self.seed), about=one)
            for one in self.conversations
        ]
        room = self.context - self.chat_sampling.max_new_tokens
        prompts = [prompt for prompt in prompts if len(prompt.tokens) <= room]
        return Requests(prompts=prompts, sampling=self.chat_sampling, asks="both") if prompts else None

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
    """What a metric asks. asks: the model, the one before it in the lineage where that can be, or both of them."""

    rows: Sequence[Row] = ()
    prompts: Sequence[Prompt] = ()
    sampling: Sampling = field(default_factory=Sampling)
    asks: Literal["model", "previous", "both"] = "model"


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
        """Scores the answers; there are none (empty) where only the model before was asked.

        previous: those of the model before, where they were wanted and could be had."""
        ...


def drawn_seed(name: str, seed: int) -> int:
    """A seed of its own for each name. 63 bits: torch's seeds are signed."""
    return xxhash.xxh3_64_intdigest(name.encode(), seed) >> 1
