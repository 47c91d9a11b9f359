"""Packed rows: documents laid end to end and cut into rows of equal length, with who-is-who kept beside them.

    documents   [bos a a a eos][bos b b eos][bos c c c c c eos]
    stream       bos a a a eos bos b b eos bos c c │ c c c eos …          cut every T tokens: nothing is wasted
    segments      1  1 1 1  1   2  2 2  2   3  3 3 │ 1 1 1  1             0 is padding, in the last row only
    positions     0  1 2 3  4   0  1 2  3   0  1 2 │ 0 1 2  3

A token attends within its segment only, so a packed row's logits are those of its documents alone. Rows are written
in a seeded order once, so that reading them in order is reading them shuffled.

Conversations are not cut where rows end: each lies whole in the row it fits best (`best_fit`, `write_whole`), and a
fourth column says which of its tokens are learnt.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError

WRITE_ROWS = 8192  # rows gathered and written at a time: 8,192 × 256 tokens × 3 columns × 4 bytes = 25 MB


def schema(length: int) -> pa.Schema:
    """tokens, segments, positions: int32 [length] each."""
    column = pa.list_(pa.int32(), length)
    return pa.schema([(name, column) for name in ("tokens", "segments", "positions")])


def cut_rows(stream_N: np.ndarray, starts_N: np.ndarray, rows_R: np.ndarray, length: int, pad_id: int):
    """Rows of a stream of documents.

    stream_N: token ids; starts_N: bool, True where a document begins; rows_R: which rows (row r holds tokens
    r·length to (r+1)·length). Returns tokens, segments, positions: int32 [R, length] each."""
    index_RT = rows_R[:, None] * length + np.arange(length)
    inside_RT = index_RT < len(stream_N)
    index_RT = np.minimum(index_RT, len(stream_N) - 1)
    tokens_RT = np.where(inside_RT, stream_N[index_RT], pad_id).astype(np.int32)
    starts_RT = starts_N[index_RT] & inside_RT
    starts_RT[:, 0] = True  # a document that goes on from the row before is a new segment here
    segments_RT = np.where(inside_RT, np.cumsum(starts_RT, axis=1), 0).astype(np.int32)
    place_T = np.arange(length, dtype=np.int32)
    last_start_RT = np.maximum.accumulate(np.where(starts_RT, place_T, 0), axis=1)
    positions_RT = np.where(inside_RT, place_T - last_start_RT, 0).astype(np.int32)
    return tokens_RT, segments_RT, positions_RT


def write_rows(
    path: Path, stream_N: np.ndarray, starts_N: np.ndarray, *, length: int, pad_id: int, seed: int | None
) -> Iterator[int]:
    """Writes every row of a stream as an uncompressed Arrow IPC file, in a seeded order (None: as they come).

    Yields the number of rows written so far."""
    num_rows = -(-len(stream_N) // length)
    order = np.arange(num_rows) if seed is None else np.random.default_rng(seed).permutation(num_rows)
    return _write(path, schema(length), order, lambda rows_R: cut_rows(stream_N, starts_N, rows_R, length, pad_id))


def _write(
    path: Path, wanted: pa.Schema, order_R: np.ndarray, columns: Callable[[np.ndarray], Iterable[np.ndarray]]
) -> Iterator[int]:
    """Writes rows in this order, `columns` of some of them at a time; yields how many are written so far."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, wanted) as writer:
        for first in range(0, len(order_R), WRITE_ROWS):
            rows_R = order_R[first : first + WRITE_ROWS]
            arrays = [pa.FixedSizeListArray.from_arrays(pa.array(c.reshape(-1)), c.shape[1]) for c in columns(rows_R)]
            writer.write_batch(pa.record_batch(arrays, schema=wanted))
            yield first + len(rows_R)


def best_fit(lengths_N: np.ndarray, length: int) -> list[list[int]]:
    """Rows that hold pieces whole: the numbers of the pieces in each. lengths_N: tokens of each, at most `length`.

    Longest first, each into the fullest row that has room for it (best-fit decreasing, Johnson et al. 1974: at most
    11/9 of the fewest rows possible, and rows that are full where there are many short pieces)."""
    rows: list[list[int]] = []
    with_space: list[list[int]] = [[] for _ in range(length + 1)]  # rows by the space that is left in them
    spaces: list[int] = []  # those that some row has, ascending
    for number in np.argsort(-lengths_N, kind="stable").tolist():
        size = int(lengths_N[number])
        place = bisect_left(spaces, size)
        if place == len(spaces):
            row, space = len(rows), length
            rows.append([])
        else:
            space = spaces[place]
            row = with_space[space].pop()
            if not with_space[space]:
                spaces.pop(place)
        rows[row].append(number)
        left = space - size
        if left and not with_space[left]:
            insort(spaces, left)
        with_space[left].append(row)
    return rows


def write_whole(
    path: Path,
    pieces: Sequence[np.ndarray],
    learnt: Sequence[np.ndarray],
    *,
    length: int,
    pad_id: int,
    seed: int,
) -> Iterator[int]:
    """Writes pieces whole into rows, in a seeded order, with a column `learn`: which tokens are to be predicted.

    pieces: token ids of each, at most `length`; learnt: bool, as long. Yields the number of rows written so far."""
    packed = best_fit(np.array([len(piece) for piece in pieces], np.int64), length)
    order = np.random.default_rng(seed).permutation(len(packed))
    wanted = schema(length).append(pa.field("learn", pa.list_(pa.int8(), length)))
    rows = lambda rows_R: [[(pieces[n], learnt[n]) for n in packed[row]] for row in rows_R]  # noqa: E731
    return _write(path, wanted, order, lambda rows_R: lay_whole(rows(rows_R), length, pad_id))


def lay_whole(rows: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]], length: int, pad_id: int):
    """Rows of whole pieces (ids, learnt): tokens, segments, positions int32 [R, length] and learn int8 [R, length]."""
    tokens_RT = np.full((len(rows), length), pad_id, np.int32)
    segments_RT, positions_RT = np.zeros_like(tokens_RT), np.zeros_like(tokens_RT)
    learn_RT = np.zeros(tokens_RT.shape, np.int8)
    place_T = np.arange(length, dtype=np.int32)
    for row, pieces in enumerate(rows):
        start = 0
        for segment, (ids, learnt) in enumerate(pieces, 1):
            end = start + len(ids)
            tokens_RT[row, start:end] = ids
            segments_RT[row, start:end] = segment
            positions_RT[row, start:end] = place_T[: len(ids)]
            learn_RT[row, start:end] = learnt
            start = end
    return tokens_RT, segments_RT, positions_RT, learn_RT


def mixture_counts(
    tokens: Mapping[str, int], shares: Mapping[str, float] | None, max_repeats: float
) -> dict[str, float]:
    """How often each language's documents are used so that training tokens have the wanted shares.

    tokens: tokens there are; shares: of the training tokens, need not sum to 1 (None: all documents once).
    The total is the largest for which no language is repeated more than `max_repeats` times; 0.2 uses a fifth of the
    documents, 1.5 all of them once and half of them twice. A language without a share is not used.

    Raises UserError for a share of a language that has no tokens: no mixture can hold it."""
    if shares is None:
        return dict.fromkeys(tokens, 1.0)
    wanted = {language: share for language, share in shares.items() if share > 0}
    for language in wanted:
        if not tokens.get(language):
            there = ", ".join(name for name in tokens if tokens[name]) or "nothing"
            raise UserError(f"mixture: {language} has a share, but the corpus holds no text in it; there is {there}")
    whole = sum(wanted.values())
    total = min(max_repeats * tokens[language] * whole / share for language, share in wanted.items())
    return {language: total * wanted.get(language, 0.0) / whole / tokens[language] for language in tokens}


def lifted_counts(tokens: Mapping[str, int], least_share: float, max_repeats: float) -> dict[str, float]:
    """How often each language's documents are used so that every language has at least this share of the training
    tokens, as far as `max_repeats` lets it; the others are used once.

    {en: 90, zh: 10} with a share of 0.2 uses zh 2.25 times: 22.5 of 112.5. Languages that would need more than there
    is room for (a share times their number over 1) get equal shares."""
    there = {language: count for language, count in tokens.items() if count}
    least = min(least_share, 1 / max(1, len(there)))
    low: set[str] = set()
    while True:  # lifting one can push another below
        rest = sum(count for language, count in there.items() if language not in low)
        total = rest / (1 - least * len(low)) if rest else max(there.values(), default=0) * len(there)
        found = {n for n, count in there.items() if n not in low and count < least * total}
        if not found:
            break
        low |= found
    return {n: min(max_repeats, least * total / there[n]) if n in low else 1.0 for n in tokens}


def choose_documents(languages_D: np.ndarray, repeats: Mapping[str, float], seed: int) -> np.ndarray:
    """Document numbers in the order they are laid out, each as often as its language asks for. int64 [N]."""
    generator = np.random.default_rng(seed)
    chosen = []
    for language in sorted(repeats):
        own = generator.permutation(np.flatnonzero(languages_D == language))
        wanted = round(len(own) * repeats[language])
        whole, rest = divmod(wanted, len(own)) if len(own) else (0, 0)
        chosen += [own] * whole + [own[:rest]]
    return generator.permutation(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
