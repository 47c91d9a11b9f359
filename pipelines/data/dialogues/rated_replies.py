"""Pairs from replies with ratings: several in one row (K-way), or one a row, with a label, that share a prompt.

replies to one prompt ──every two with different ratings, widest difference first──► pairs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from pipelines.data.dialogues.answer_match import normalised
from pipelines.data.dialogues.conversation_records import Turns


@dataclass(frozen=True)
class ParsedPair:
    """Two replies to a prompt that ends with a user turn."""

    prompt: Turns
    chosen: str
    rejected: str


@dataclass(frozen=True)
class RatedReply:
    """A reply to a prompt; the higher its rating, the better. A label is 1 for good and 0 for bad."""

    prompt: Turns
    reply: str
    rating: float


def pairs_of(replies: Sequence[RatedReply], max_pairs: int) -> tuple[list[ParsedPair], int]:
    """Pairs of replies to one prompt with different ratings, and the number of those beyond `max_pairs`.

    Those with the largest difference come first; replies that say the same make no pair.

    >>> replies = [RatedReply([], text, rating) for text, rating in (("a", 1), ("b", 3), ("c", 2), ("d", 3))]
    >>> [(pair.chosen, pair.rejected) for pair in pairs_of(replies, 3)[0]]
    [('b', 'a'), ('d', 'a'), ('b', 'c')]
    """
    ordered = sorted(replies, key=lambda reply: -reply.rating)
    different = [
        (better, worse)
        for better, worse in combinations(ordered, 2)
        if better.rating > worse.rating and normalised(better.reply) != normalised(worse.reply)
    ]
    different.sort(key=lambda replies: replies[1].rating - replies[0].rating)
    pairs = [ParsedPair(better.prompt, better.reply, worse.reply) for better, worse in different[:max_pairs]]
    return pairs, len(different) - len(pairs)
