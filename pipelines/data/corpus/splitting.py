"""Held-out text: chosen by whole groups of each language, and free of what training text says too.

    groups ──seeded hash──► held-out groups ──minus near duplicates and shared lines of training text──► held-out text

A judge who has seen the questions proves nothing: so a package, topic or file is held out as a whole, and what of it
stands in training text as well is taken out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import xxhash

from pipelines.data.text.measures import cut

LARGEST_SHARE = 4  # times the share asked for: a language whose smallest group is larger is split by documents


def held_out(
    ids: Sequence[str],
    groups: Sequence[str],
    languages: Sequence[str],
    sizes: Sequence[int],
    *,
    share: float,
    seed: int,
) -> np.ndarray:
    """bool[documents]: about `share` of each language's bytes, in whole groups; at least one and never all of them.

    sizes: bytes of each document. A language with one group, or whose every group is far larger than the share, is
    split by documents instead. A language with one document keeps it for training."""
    chosen = np.zeros(len(ids), np.bool_)
    places: dict[str, list[int]] = defaultdict(list)
    for place, language in enumerate(languages):
        places[language].append(place)
    for language, own in places.items():
        limit = share * sum(sizes[place] for place in own)
        for names in (groups, ids):
            total: dict[str, int] = defaultdict(int)
            for place in own:
                total[names[place]] += sizes[place]
            found = choose(total, limit, salt=f"{seed}/{language}")
            too_large = sum(total[name] for name in found) > LARGEST_SHARE * limit
            if (found and not too_large) or names is ids:
                for place in own:
                    chosen[place] = names[place] in found
                break
    return chosen


def choose(sizes: dict[str, int], limit: float, *, salt: str) -> set[str]:
    """Names in the order of their salted hashes, as many as fit into `limit`; if none fits, the smallest.

    Never all of them, and none if the limit is 0.

    >>> sorted(choose({"a": 5, "b": 5, "c": 90}, 10, salt=""))
    ['a', 'b']
    """
    if limit <= 0 or len(sizes) < 2:
        return set()
    taken: set[str] = set()
    used = 0
    order = sorted(sizes, key=lambda name: (xxhash.xxh3_64_intdigest(f"{salt}/{name}".encode()), name))
    # Those that would fill more than half come last, so that one large package does not judge alone.
    for name in sorted(order, key=lambda name: sizes[name] > limit / 2):
        if used + sizes[name] <= limit and len(taken) < len(sizes) - 1:
            taken.add(name)
            used += sizes[name]
    return taken or {min(sizes, key=lambda name: (sizes[name], name))}


def without_lines(text: str, lines: np.ndarray) -> tuple[str, float, int]:
    """(the text without its lines whose hashes are among `lines`, the share of its columns those had, their number).

    lines: uint64, sorted. Blanks around a line do not matter (measures.py)."""
    if not len(lines):
        return text, 0.0, 0
    own = text.split("\n")
    pieces = cut(pa.array(own, pa.string()))
    hashes = np.zeros(len(own), np.uint64)
    widths = np.zeros(len(own), np.int64)
    filled = np.diff(pieces.line_starts) > 0  # each piece is one line, or none if it is blank
    hashes[filled], widths[filled] = pieces.lines, pieces.line_widths
    gone = filled & among(hashes, lines)
    kept = "\n".join(line for line, drop in zip(own, gone, strict=True) if not drop)
    return kept.strip("\n"), float(widths[gone].sum() / max(widths.sum(), 1)), int(gone.sum())


def among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """bool: which values stand in the sorted array `known`."""
    if not len(known):
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return known[places] == values


def first_of_each(keys: np.ndarray) -> np.ndarray:
    """bool[documents]: whether no document before it has the same key. keys: uint64[documents, 2]."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable, so the first of equal ones comes first
    ordered = keys[order]
    first = np.ones(len(keys), np.bool_)
    first[order[1:]] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return first
