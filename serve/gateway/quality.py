"""Quality of replies, scored on a sample of them after they were sent, so that no reader waits.

    reply ──sampled──► scores {safety, fluency} ──► metrics, access log (joined with feedback by the reply's id)

A score is from 0 to 1, better towards 1; one below its threshold counts as low.
"""

from __future__ import annotations

import hashlib

from pipelines.data.text.languages import language_of
from pipelines.metrics.distinct_n import distinct
from serve.gateway.guard import Guard

# safety: 1 − the guard's probability that the reply is unsafe. fluency: fraction of the reply's runs of four words (of
# Chinese: characters) that did not occur before in it, which falls where a model repeats itself.
THRESHOLDS = {"safety": 0.95, "fluency": 0.9}
RUN = 4


def is_sampled(reply_id: str, fraction: float) -> bool:
    """Whether a reply is in the sample: decided by its id alone, the same on every replica.

    >>> is_sampled("chatcmpl-1", 1.0), is_sampled("chatcmpl-1", 0.0)
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(reply_id.encode()).digest()[:8]) < fraction * 2**64


def scores(reply: str, guard: Guard) -> dict[str, float]:
    """Scores of a reply, by the names of THRESHOLDS."""
    safety = 1.0 - guard.check_reply(reply, language_of(reply)).score
    return {"safety": round(safety, 4), "fluency": round(fluency(reply), 4)}


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
