"""The held-out split: whole groups of each language, decontaminated from training text.

    groups ──seeded hash──► held-out groups ──minus near duplicates and shared lines of training text──► held-out text

An evaluation on training text is worthless. So a package, topic or file is held out as a whole,
and the parts of it that also occur in training text are removed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipelines.data.text.measures import hash_texts

MAX_OVERSIZE = 4  # times the requested size: with larger groups than this a language is split by documents


def held_out_mask(
    ids: Sequence[str],
    groups: Sequence[str],
    languages: Sequence[str],
    sizes: Sequence[int],
    *,
    fraction: float,
    seed: int,
) -> np.ndarray:
    """Returns bool[documents]: about `fraction` of each language's bytes, in whole groups; at least one, never all.

    ids: of documents; equal for the parts of one, which stay together. sizes: bytes of each. A language with one group,
    or whose smallest group is far too large, is split by documents instead. A language with one document keeps it for
    training."""
    held_out = np.zeros(len(ids), np.bool_)
    by_language: dict[str, list[int]] = defaultdict(list)
    for index, language in enumerate(languages):
        by_language[language].append(index)
    for language, indices in by_language.items():
        limit = fraction * sum(sizes[index] for index in indices)
        name_sizes: list[dict[str, int]] = []
        for names in (groups, ids):
            name_sizes.append(defaultdict(int))
            for index in indices:
                name_sizes[-1][names[index]] += sizes[index]
        whole_groups, chosen = choose(name_sizes[0], name_sizes[1], limit, salt=f"{seed}/{language}")
        names = groups if whole_groups else ids
        for index in indices:
            held_out[index] = names[index] in chosen
    return held_out


def choose(
    group_sizes: dict[str, int],
    document_sizes: dict[str, int],
    limit: float,
    *,
    salt: str,
    most: float | None = None,
) -> tuple[bool, set[str]]:
    """Chooses the text of a language to hold out: (True, names of groups), or (False, ids of documents).

    The sizes are bytes; documents are chosen where there is one group, or the smallest is larger than `most`, which is
    MAX_OVERSIZE times the limit by default."""
    most = MAX_OVERSIZE * limit if most is None else most
    chosen = choose_groups(group_sizes, limit, salt=salt)
    if chosen and sum(group_sizes[name] for name in chosen) <= most:
        return True, chosen
    return False, choose_groups(document_sizes, limit, salt=salt)


def choose_groups(sizes: dict[str, int], limit: float, *, salt: str) -> set[str]:
    """Chooses groups in the order of their salted hashes, as many as fit into `limit`; if none fits, the smallest.

    Never all of them, and none if the limit is 0.

    >>> sorted(choose_groups({"a": 5, "b": 5, "c": 90}, 10, salt=""))
    ['a', 'b']
    """
    if limit <= 0 or len(sizes) < 2:
        return set()
    chosen: set[str] = set()
    total = 0
    order = sorted(sizes, key=lambda name: (salted_hash(name, salt), name))
    # Groups that would fill more than half come last, so that held-out text is not one large package alone.
    for name in sorted(order, key=lambda name: sizes[name] > limit / 2):
        if total + sizes[name] <= limit and len(chosen) < len(sizes) - 1:
            chosen.add(name)
            total += sizes[name]
    return chosen or {min(sizes, key=lambda name: (sizes[name], name))}


def salted_hash(name: str, salt: str) -> int:
    """Returns the 64-bit number by which names are ordered to be held out: those with the lowest come first."""
    return xxhash.xxh3_64_intdigest(f"{salt}/{name}".encode())


def salted_hashes(names: pa.Array | pa.ChunkedArray, salts: pa.ChunkedArray | str) -> np.ndarray:
    """Returns uint64: the `salted_hash` of each name, with its salt or that of all."""
    salted = pc.call_function("binary_join_element_wise", [salts, names, "/"]).cast(pa.binary()).to_pylist()
    return np.fromiter(map(xxhash.xxh3_64_intdigest, salted), np.uint64, len(salted))


def remove_lines(text: str, hashes: np.ndarray) -> tuple[str, float, int]:
    """Removes the lines whose hashes are among `hashes` (uint64, sorted). Blanks around a line do not matter.

    Returns (the remaining text, the fraction of the text's columns in removed lines, the number of removed lines)."""
    if not len(hashes):
        return text, 0.0, 0
    lines = text.split("\n")
    hashed = hash_texts(pa.array(lines, pa.string()))
    line_hashes = np.zeros(len(lines), np.uint64)
    widths = np.zeros(len(lines), np.int64)
    not_blank = np.diff(hashed.line_starts) > 0  # each text is one line, or none if it is blank
    line_hashes[not_blank], widths[not_blank] = hashed.lines, hashed.line_widths
    removed = not_blank & is_in_sorted(line_hashes, hashes)
    kept = "\n".join(line for line, remove in zip(lines, removed, strict=True) if not remove)
    return kept.strip("\n"), float(widths[removed].sum() / max(widths.sum(), 1)), int(removed.sum())


def is_in_sorted(values: np.ndarray, sorted_values: np.ndarray) -> np.ndarray:
    """Returns bool, as many as `values`: whether each is in the sorted array."""
    if not len(sorted_values):
        return np.zeros(len(values), np.bool_)
    positions = np.minimum(np.searchsorted(sorted_values, values), len(sorted_values) - 1)
    return sorted_values[positions] == values


def first_occurrences(keys: np.ndarray) -> np.ndarray:
    """Returns bool[documents]: whether no earlier document has the same key. keys: uint64[documents, 2]."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable, so the first of equal keys comes first
    ordered = keys[order]
    first = np.ones(len(keys), np.bool_)
    first[order[1:]] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return first
