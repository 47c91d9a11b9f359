"""Pairs from replies with ratings: several in one row (K-way), or one a row, with a label, that share a prompt.

replies to one prompt ──every two with different ratings, widest difference first──► pairs
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.data.dialogues.answer_match import normalised
from pipelines.data.dialogues.conversation_records import Turns
from pipelines.data.tokens.chat_messages import reply_message, said


@dataclass(frozen=True)
class ParsedPair:
    """Two replies to a prompt, as Pair has them. refused: the chosen reply stands where OpenAI's API has refusals."""

    prompt: Turns
    chosen: str
    rejected: str
    chosen_calls: str = ""
    rejected_calls: str = ""
    tools: str = ""
    refused: bool = False

    @property
    def chosen_said(self) -> str:
        """The chosen reply and its calls."""
        return said(reply_message(self.chosen, self.chosen_calls))

    @property
    def rejected_said(self) -> str:
        """The rejected reply and its calls."""
        return said(reply_message(self.rejected, self.rejected_calls))


@dataclass(frozen=True)
class RatedReply:
    """A reply to a prompt; the higher its rating, the better. A label is 1 for good and 0 for bad. calls: in the reply;
    tools: as Pair has them."""

    prompt: Turns
    reply: str
    rating: float
    calls: str = ""
    tools: str = ""

    @property
    def said(self) -> str:
        """The reply and its calls."""
        return said(reply_message(self.reply, self.calls))


def pairs_of(replies: Sequence[RatedReply], max_pairs: int) -> tuple[list[ParsedPair], int]:
    """Pairs of replies to one prompt with different ratings, and the number of those beyond `max_pairs`.

    Those with the largest difference come first; replies that say the same make no pair.

    >>> replies = [RatedReply([], text, rating) for text, rating in (("a", 1), ("b", 3), ("c", 2), ("d", 3))]
    >>> [(pair.chosen, pair.rejected) for pair in pairs_of(replies, 3)[0]]
    [('b', 'a'), ('d', 'a'), ('b', 'c')]
    """
    widest = widest_pairs(replies, max_pairs)
    pairs = [_pair(replies[better], replies[worse]) for better, worse in widest]
    return pairs, sum(num_partners(replies)) // 2 - len(pairs)


def _pair(better: RatedReply, worse: RatedReply) -> ParsedPair:
    return ParsedPair(better.prompt, better.reply, worse.reply, better.calls, worse.calls, better.tools)


def num_partners(replies: Sequence[RatedReply]) -> list[int]:
    """For each reply, the number of those with another rating that do not say the same.

    >>> num_partners([RatedReply([], text, rating) for text, rating in (("a", 1), ("A", 2), ("b", 2))])
    [1, 0, 1]
    """
    keys = [(reply.rating, normalised(reply.said)) for reply in replies]
    ratings, texts, both = Counter(rating for rating, _ in keys), Counter(text for _, text in keys), Counter(keys)
    return [len(keys) - ratings[rating] - texts[text] + both[rating, text] for rating, text in keys]


def widest_pairs(replies: Sequence[RatedReply], max_pairs: int) -> list[tuple[int, int]]:
    """Positions (better, worse) of the `max_pairs` pairs with the widest differences, in the order of `pairs_of`.

    No more pairs are made than are returned: each reply's own pairs come widest first, and the heap holds the next one
    of each. Of two equal differences the pair whose better reply comes first, then whose worse one does."""
    order = sorted(range(len(replies)), key=lambda position: -replies[position].rating)
    ratings = [replies[position].rating for position in order]
    texts = [normalised(replies[position].said) for position in order]
    last = len(order) - 1
    other = next((place for place in range(last, -1, -1) if texts[place] != texts[last]), last)
    heap: list[tuple[float, int, int]] = []  # (-difference, better, worse); worse is -1 before a reply's first pair
    for better in range(len(order)):
        worst = last if texts[better] != texts[last] else other
        if ratings[worst] < ratings[better]:
            heap.append((ratings[worst] - ratings[better], better, -1))
    heapq.heapify(heap)
    following: dict[int, Iterator[tuple[float, int]]] = {}
    pairs: list[tuple[int, int]] = []
    while heap and len(pairs) < max_pairs:
        _, better, worse = heapq.heappop(heap)
        if worse < 0:
            following[better] = _worse_ones(better, ratings, texts)
        else:
            pairs.append((order[better], order[worse]))
        pair = next(following[better], None)
        if pair is not None:
            heapq.heappush(heap, (pair[0], better, pair[1]))
    return pairs


def _worse_ones(better: int, ratings: Sequence[float], texts: Sequence[str]) -> Iterator[tuple[float, int]]:
    """(-difference, place) of the replies with lower ratings, the lowest first; those of one difference in order."""
    end = len(ratings)
    while end > 0 and ratings[end - 1] < ratings[better]:
        difference, start = ratings[end - 1] - ratings[better], end - 1
        while ratings[start - 1] - ratings[better] == difference:
            start -= 1
        yield from ((difference, place) for place in range(start, end) if texts[place] != texts[better])
        end = start
