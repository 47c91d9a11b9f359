"""Distinct-n: how varied replies are (Li et al. 2016, A Diversity-Promoting Objective Function, §5.2), over tokens.

Falls with the amount of text, so compare models on the same prompts only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipelines.metrics.exchanges import exchanges
from pipelines.metrics.metric import Answers, Material, Requests, Score


def distinct(texts: Iterable[Sequence[int]], n: int) -> float:
    """Different n-grams ÷ all n-grams of all texts; no n-gram crosses two of them. 0 where there is none."""
    grams = [tuple(text[at : at + n]) for text in texts for at in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


class DistinctN:
    """heldout/distinct_1, heldout/distinct_2; each with _en, _zh."""

    def requests(self, material: Material) -> Requests | None:
        return material.asked

    def score(self, material: Material, requests: Requests, answers: Answers, previous: Answers | None) -> Score:
        replies: dict[str, list[list[int]]] = {"": []}
        for one in exchanges(material, requests, answers, previous):
            for key in ("", f"_{one.conversation.language}"):
                replies.setdefault(key, []).append(one.reply.tokens)
        return Score({f"heldout/distinct_{n}{key}": distinct(own, n) for n in (1, 2) for key, own in replies.items()})


METRIC = DistinctN()
