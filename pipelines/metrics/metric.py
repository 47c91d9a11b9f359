"""Metric: which prompts or rows of held-out data it needs, and how it scores a model's outputs for them.

    material ──request set──► Requests ──inference, once a set──► Outputs ──each metric──► Score: facts, report rows

Pure: no engine, no Ray, no files. A metric names its request set by a key of REQUEST_SETS; metrics with the same key
(all metrics of replies) score the same outputs. What a metric needs of the world is in Material; where that is missing,
the request set is None and its metrics are left out. A new metric is a file with a function `score` and one line in
METRICS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import xxhash

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.inference.reply import Reply, Sampling


@dataclass(frozen=True)
class Document:
    """A held-out text. id: source/part/row of the corpus."""

    id: str
    language: str
    text: str

    @property
    def source(self) -> str:
        """The name of its source in the recipe."""
        return self.id.rsplit("/", 2)[0]


@dataclass(frozen=True)
class Material:
    """Everything that an evaluation measures a model with."""

    encoder: Encoder
    context: int  # tokens that the model attends to at once
    seed: int
    documents: Sequence[Document] = ()  # held out, in an order drawn by the seed
    unigram_counts: Mapping[str, np.ndarray] | None = None  # by language: of each token in the training text [V]
    num_samples: int = 3  # continued documents of each language
    prompt_tokens: int = 32  # of a document that is continued
    sampling: Sampling = field(default_factory=Sampling)  # of continuations
    chat: Chat | None = None  # the model's chat template
    conversations: Sequence[Conversation] = ()  # held out, in an order drawn by the seed
    chat_sampling: Sampling = field(default_factory=Sampling)  # of replies to them
    max_reply_rows: int = 2  # replies of each task and language in the report
    previous_is_base: bool = False  # whether the previous model was trained on plain text alone
    continues_base: bool = False  # whether the model's lineage began with another's, with the same tokenizer
    shots: Sequence[Conversation] = ()  # training examples with answers, for few-shot prompts to such a model
    num_shots: int = 4  # examples in a prompt

    @property
    def start_id(self) -> int:
        """The token a text begins with: the start token, or the end of the previous text where a model has none."""
        return self.encoder.eos_id if self.encoder.bos_id is None else self.encoder.bos_id

    @property
    def languages(self) -> list[str]:
        return sorted({document.language for document in self.documents})


@dataclass(frozen=True)
class Row:
    """A row of tokens whose log-probabilities are requested. loss_mask [T]: of a conversation, the tokens of its
    replies. source: of a held-out document."""

    tokens: list[int]
    language: str
    loss_mask: np.ndarray | None = None
    source: str = ""


@dataclass(frozen=True)
class Prompt:
    """A prompt whose reply is requested, sampled with this seed."""

    tokens: list[int]
    seed: int
    language: str
    conversation: Any = None  # the Conversation that it was rendered from, where it was


@dataclass(frozen=True)
class Requests:
    """A request set. models: which models it goes to: this one, the previous one in the lineage, both of them, or this
    one and the base that the lineage began with. not_used: numbers of held-out conversations without a request, by
    reason."""

    rows: Sequence[Row] = ()
    prompts: Sequence[Prompt] = ()
    sampling: Sampling = field(default_factory=Sampling)
    models: Literal["current", "previous", "both", "current and base"] = "current"
    not_used: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that a model could do."""
        return not self.rows and not self.prompts


@dataclass(frozen=True)
class Outputs:
    """A model's outputs, in the order of the requests. logprobs: nats [T-1] of each row's tokens but the first."""

    logprobs: Sequence[np.ndarray] = ()
    replies: Sequence[Reply] = ()


@dataclass(frozen=True)
class Score:
    """facts: flat figures named area/what_unit. rows: for the report, each with at least language, prompt, reply."""

    facts: dict[str, float | int | str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


MakeRequests = Callable[[Material], Requests | None]
"""Makes a request set; None where the material has nothing for it."""

Scorer = Callable[[Material, Requests, Outputs, Outputs | None], Score]
"""Scores the outputs of this model (empty where only the previous one was requested) and of the other one (None where
there is none, or it could not run)."""


@dataclass(frozen=True)
class Metric:
    """requests: key of its request set in REQUEST_SETS; score: turns the outputs for it into facts and rows."""

    requests: str
    score: Scorer


def named_seed(name: str, seed: int) -> int:
    """A separate sampling seed for each name. 63 bits: torch's seeds are signed."""
    return xxhash.xxh3_64_intdigest(name.encode(), seed) >> 1
