"""A curriculum: the phases in which documents are read, by a value that each of them has.

    value of a document ──levels_of──► level ──tokens at each level, added up──► edges ──phases_of──► phase, from 0

A phase has about the same number of tokens as any other, of each kind of documents (a language, a group of the mixture)
by itself: values of a quality model or lengths are not comparable between languages, and each phase keeps the mixture's
weights. Only counts by level leave the task that has the documents. Within a phase documents are shuffled: a batch of
equal documents has noisier gradients than a mixed one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

NUM_PHASES = 10  # of an order by a value
NEVER = 2**16  # an edge above all levels


def levels_of(values_D: np.ndarray) -> np.ndarray:
    """The level of each value, in the order of the values: their order as float16, 1,024 levels for each doubling.

    values_D: finite numbers; those beyond ±65,504 share a level. uint16 [D]."""
    bits_D = np.clip(values_D, -65504, 65504).astype(np.float16).view(np.uint16)
    return np.where(bits_D >> 15, ~bits_D, bits_D | np.uint16(0x8000)).astype(np.uint16)


def edges_of(tokens: Mapping[int, int], num_phases: int) -> list[int]:
    """The first level of each phase but the first, so that all have about the same number of tokens.

    tokens: at each level. Documents of one level are in one phase."""
    levels = np.array(sorted(tokens), np.int64)
    counts = np.array([tokens[level] for level in levels.tolist()], np.int64)
    before = np.cumsum(counts) - counts
    starts = np.searchsorted(before, counts.sum() * np.arange(1, num_phases) / num_phases)
    return np.append(levels, NEVER)[starts].tolist()


def phases_of(levels_D: np.ndarray, edges: list[int]) -> np.ndarray:
    """The phase of each document by its level. int64 [D]."""
    return np.searchsorted(np.array(edges, np.int64), levels_D.astype(np.int64), side="right")
