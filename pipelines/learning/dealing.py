"""Rows of a step, dealt to ranks and to their micro-batches: numpy alone, for training and for its plan.

rows of a step ──longest first, each to whoever has the fewest tokens──► ranks ──the same──► micro-batches
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from pipelines.data.dialogues.tokenized_pairs import packing

Cut = TypeVar("Cut", np.ndarray, list[Any])
TRIED_PAIRS, MIN_TRIES = 1000, 50  # in steps whose largest micro-batch is looked for: 0.1 to 0.5 s


def num_micro_batches(batch_rows: int, world: int, micro_batch_rows: int) -> int:
    """Backward passes of a rank in one optimiser step."""
    max_rank_rows = -(-batch_rows // world)
    return -(-max_rank_rows // micro_batch_rows)


def cut_evenly(rows: Cut, num_pieces: int) -> list[Cut]:
    """Contiguous pieces whose sizes differ by at most one."""
    edges = [len(rows) * i // num_pieces for i in range(num_pieces + 1)]
    return [rows[start:end] for start, end in pairwise(edges)]


def deal(rows: np.ndarray, tokens: np.ndarray, num_hands: int) -> list[np.ndarray]:
    """Deals rows out in numbers that differ by at most one, and in about equal tokens: the longest first, each to the
    hand with the fewest tokens that has room. tokens: of each row."""
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    sizes = [len(piece) for piece in cut_evenly(rows, num_hands)]
    with_room = [(0, hand) for hand, size in enumerate(sizes) if size]  # a heap, by tokens
    for place in np.argsort(-tokens, kind="stable").tolist():
        total, hand = heappop(with_room)
        hands[hand].append(place)
        if len(hands[hand]) < sizes[hand]:
            heappush(with_room, (total + int(tokens[place]), hand))
    return [rows[places] for places in hands]


def largest_micro_batch(lengths_N2: np.ndarray, *, batch_pairs: int, world: int, micro_batch_pairs: int) -> int:
    """Tokens of the largest micro-batch of pairs, padding included, about: of random steps, half of them with the
    longest pair.

    lengths_N2: tokens of both sides of each pair, a side being the prompt with one of the replies; N > 0."""
    draw, tokens_N = np.random.default_rng(0), lengths_N2.sum(axis=1)
    longest = int(lengths_N2.max(axis=1).argmax())
    pieces, largest = num_micro_batches(batch_pairs, world, micro_batch_pairs), 0
    for number in range(max(MIN_TRIES, TRIED_PAIRS // batch_pairs)):
        pairs = draw.choice(len(lengths_N2), batch_pairs, replace=len(lengths_N2) < batch_pairs)
        if number % 2 == 0 and longest not in pairs:
            pairs[0] = longest
        for rank_pairs in deal(pairs, tokens_N[pairs], world):
            for piece in deal(rank_pairs, tokens_N[rank_pairs], pieces):
                _, rows, width = packing(lengths_N2[piece].ravel().tolist())
                largest = max(largest, rows * width)
    return largest
