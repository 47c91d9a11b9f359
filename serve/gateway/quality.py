"""Quality of replies, scored on a sample of them: after they were sent, so that no reader waits, or before.

    reply ──sampled──► scores {relevance, safety, fluency} ──► metrics, access log (joined with feedback by its id)
                                 └─ flag, regenerate: a reply, or its stream's last event, waits for them

A score is from 0 to 1, better towards 1; one below its threshold counts as low.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from pipelines.data.text.embeddings import embed
from pipelines.data.text.languages import language_of
from pipelines.metrics.distinct_n import distinct
from serve.gateway.guard import Guard
from serve.gateway.metrics import Metrics

# relevance: probability that the reply belongs to the user's last message and not to another one, both being equally
# likely before, from the cosine of their embeddings. safety: 1 − the guard's probability that the reply is unsafe.
# fluency: fraction of the reply's runs of four words (of Chinese: characters) that did not occur before in it, which
# falls where a model repeats itself.
THRESHOLDS = {"relevance": 0.8, "safety": 0.95, "fluency": 0.9}
RUN = 4
# Where nothing else is chosen: the fraction of the replies that is scored, and the part of a core's time that their
# scores take at most: those of a tiny model's replies cost more than the replies.
FRACTION, MAX_BUSY = 0.05, 0.01
# Logistic curve of relevance over the cosine, by language: (slope, cosine of relevance 0.5). Fitted to pairs of Alpaca
# in each language, with their replies and with other pairs' (tests/benchmarks/relevance.py).
CURVES = {"en": (78.1, 0.828), "zh": (156.3, 0.867)}
EMBEDDED_CHARACTERS = 200  # of either text, from its beginning: 0.2 s of a core for both


class Scorer:
    """Scores the sampled replies of a server, and counts the scores in its metrics.

    fraction: of the replies; None: FRACTION, and fewer where scores take more than MAX_BUSY of the time."""

    def __init__(
        self, guard: Guard, metrics: Metrics, fraction: float | None, clock: Callable[[], float] = time.monotonic
    ):
        self._guard, self._metrics = guard, metrics
        self._fraction, self._max_busy = (FRACTION, MAX_BUSY) if fraction is None else (fraction, math.inf)
        self._busy_s, self._clock, self._start_s = 0.0, clock, clock()

    def samples(self, reply_id: str) -> bool:
        """Whether a reply is in the sample."""
        has_time = self._busy_s / self._max_busy <= self._clock() - self._start_s
        return has_time and is_sampled(reply_id, self._fraction)

    def score(self, question: str, reply: str) -> dict[str, float]:
        """Scores of a reply. question: as `scores` takes it."""
        start_s = time.thread_time()
        scored = scores(question, reply, self._guard)
        self._busy_s += time.thread_time() - start_s
        return scored

    def count(self, scored: dict[str, float]) -> None:
        """Counts the scores of a reply that is sent."""
        for measure, score in scored.items():
            self._metrics.quality.labels(measure).observe(score)
            self._metrics.quality_low.labels(measure).inc(measure in low(scored))


def is_sampled(reply_id: str, fraction: float) -> bool:
    """Whether a reply is in the sample: decided by its id alone, the same on every replica.

    >>> is_sampled("chatcmpl-1", 1.0), is_sampled("chatcmpl-1", 0.0)
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(reply_id.encode()).digest()[:8]) < fraction * 2**64


def scores(question: str, reply: str, guard: Guard) -> dict[str, float]:
    """Scores of a reply, by the names of THRESHOLDS. question: the user's last message; empty where there is none, and
    then there is no score of relevance."""
    safety = 1.0 - guard.check_reply(reply, language_of(reply)).score
    of_question = {"relevance": relevance(question, reply)} if question.strip() else {}
    scored = {**of_question, "safety": safety, "fluency": fluency(reply)}
    return {name: round(score, 4) for name, score in scored.items()}


def relevance(question: str, reply: str) -> float:
    """Probability that a reply belongs to a question rather than to another one; 0 for an empty reply."""
    if not reply.strip():
        return 0.0
    cosine = float(vectors([question], "query")[0] @ vectors([reply], "passage")[0])
    slope, middle = CURVES[language_of(question)]
    return 1 / (1 + math.exp(-slope * (cosine - middle)))


def vectors(texts: Sequence[str], role: Literal["query", "passage"]) -> np.ndarray:
    """Embeddings of the beginnings of questions (query) or replies (passage): float32[N, 384], of unit length."""
    return embed([text[:EMBEDDED_CHARACTERS] for text in texts], role=role)


def fluency(text: str) -> float:
    """Fraction of a text's runs of RUN words or Chinese characters that are new; 1 for a text without a whole run.

    >>> fluency("the cat sat on the mat"), fluency("no no no no no no no no")
    (1.0, 0.2)
    """
    words = [word for part in text.lower().split() for word in ([part] if part.isascii() else part)]
    return distinct([words], RUN) if len(words) >= RUN else 1.0


def low(scored: dict[str, float]) -> list[str]:
    """The names of the scores that are below their thresholds."""
    return [name for name, score in scored.items() if score < THRESHOLDS[name]]
