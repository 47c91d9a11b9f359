"""Rows of a step, dealt to ranks and to their micro-batches, and pairs packed: numpy alone, for training and its plan.

rows of a step ──longest first, each to whoever has the fewest tokens──► ranks ──the same──► micro-batches
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

Cut = TypeVar("Cut", np.ndarray, list[Any])
TRIED_PAIRS, MIN_TRIES = 1000, 50  # in steps whose largest micro-batch is looked for: 0.1 to 0.5 s


def num_micro_batches(batch_rows: int, world: int, micro_batch_rows: int) -> int:
    """Backward passes of a rank in one optimiser step."""
    max_rank_rows = -(-batch_rows // world)
    return -(-max_rank_rows // micro_batch_rows)


def largest_rows(batch_rows: int, world: int, micro_batch_rows: int) -> int:
    """Rows of the largest micro-batch: those of a rank are cut into pieces of about one size."""
    max_rank_rows = -(-batch_rows // world)
    return -(-max_rank_rows // num_micro_batches(batch_rows, world, micro_batch_rows))


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


def packing(lengths: Sequence[int]) -> tuple[list[int], int, int]:
    """Packs sequences into rows as long as the longest of them: the longest first, each into the first row with room
    (first-fit decreasing). Returns where each begins in the rows, which lie end to end; the rows; their length."""
    width = max(lengths, default=2)
    filled: list[int] = []  # tokens in each row
    starts = [0] * len(lengths)
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        row = next((row for row, tokens in enumerate(filled) if tokens + lengths[number] <= width), len(filled))
        if row == len(filled):
            filled.append(0)
        starts[number] = row * width + filled[row]
        filled[row] += lengths[number]
    return starts, max(len(filled), 1), width


@dataclass(frozen=True)
class Drawn:
    """What random steps of pairs compute, padding included, about. largest: tokens of the largest micro-batch, where
    half of the steps have the longest pair; padded: of the other steps, if every rank computed as many tokens as the
    one that they wait for, for each token of their pairs."""

    largest: int
    padded: float


def drawn_steps(lengths_N2: np.ndarray, *, batch_pairs: int, world: int, micro_batch_pairs: int) -> Drawn:
    """lengths_N2: tokens of both sides of each pair, a side being the prompt with one of the replies; N > 0."""
    draw, tokens_N = np.random.default_rng(0), lengths_N2.sum(axis=1)
    longest = int(lengths_N2.max(axis=1).argmax())
    pieces = num_micro_batches(batch_pairs, world, micro_batch_pairs)
    largest, computed, tokens = 0, 0, 0
    for number in range(max(MIN_TRIES, TRIED_PAIRS // batch_pairs)):
        pairs = draw.choice(len(lengths_N2), batch_pairs, replace=len(lengths_N2) < batch_pairs)
        if number % 2 == 0 and longest not in pairs:
            pairs[0] = longest
        of_ranks = []
        for rank_pairs in deal(pairs, tokens_N[pairs], world):
            of_rank = []
            for piece in deal(rank_pairs, tokens_N[rank_pairs], pieces):
                _, rows, width = packing(lengths_N2[piece].ravel().tolist())
                of_rank.append(rows * width)
            largest = max(largest, *of_rank)
            of_ranks.append(sum(of_rank))
        if number % 2:
            computed += world * max(of_ranks)
            tokens += tokens_N[pairs].sum()
    return Drawn(largest, computed / tokens)
