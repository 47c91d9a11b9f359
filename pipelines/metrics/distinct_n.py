"""Distinct-n: diversity of replies (Li et al. 2016, A Diversity-Promoting Objective Function, §5.2), over tokens.

Falls with the amount of text, so compare models on the same prompts only.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from pipelines.metrics.exchanges import exchanges
from pipelines.metrics.metric import Material, Outputs, Requests, Score


def distinct(texts: Iterable[Sequence[Hashable]], n: int) -> float:
    """Different n-grams ÷ all n-grams of all texts; no n-gram crosses two of them. 0 where there is none."""
    grams = [tuple(text[start : start + n]) for text in texts for start in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def score(material: Material, requests: Requests, outputs: Outputs, previous: Outputs | None) -> Score:
    """heldout/distinct_1, heldout/distinct_2; each with _en, _zh."""
    replies: dict[str, list[list[int]]] = {"": []}
    for exchange in exchanges(material, requests, outputs, previous):
        for suffix in ("", f"_{exchange.conversation.language}"):
            replies.setdefault(suffix, []).append(exchange.reply.tokens)
    return Score(
        {f"heldout/distinct_{n}{suffix}": distinct(texts, n) for n in (1, 2) for suffix, texts in replies.items()}
    )
