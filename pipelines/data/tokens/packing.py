"""Sequence packing: documents are concatenated and cut into rows of equal length, with segment and position ids.

    documents   [bos a a a eos][bos b b eos][bos c c c c c eos]
    stream       bos a a a eos bos b b eos bos c c │ c c c eos …          cut every T tokens: no padding within
    segments      1  1 1 1  1   2  2 2  2   3  3 3 │ 1 1 1  1             0 is padding, in the last row only
    positions     0  1 2 3  4   0  1 2  3   0  1 2 │ 0 1 2  3

A token attends within its segment only, so the logits of a packed row equal those of its documents alone. Rows are
shuffled once, when they are written, so that readers read them in order. Token ids, segments and positions take two
bytes each where they fit.

Conversations are not cut: each is placed whole in a row by best-fit packing (`best_fit`, `write_sequences`), and a
fourth column, `loss_mask`, is 1 for the tokens whose prediction is in the loss.

Shape suffixes: N tokens of the stream (or sequences), R rows, T tokens of a row, D documents.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError

PHASE = b"rayse.phase"  # the key of a file's phase in its metadata
BATCH_TOKENS = 2**21  # of the rows that are written at a time, one row at least: cutting takes 28 bytes for each


def id_dtype(num_ids: int) -> np.dtype:
    """The type of token ids below num_ids on disk: uint16 where they fit, otherwise int32."""
    return np.dtype(np.uint16 if num_ids <= 2**16 else np.int32)


def schema(length: int, ids: np.dtype | None = None) -> pa.Schema:
    """Schema of packed rows: tokens, segments, positions, [length] each. ids: type of the token ids, default int32."""
    places = pa.uint16() if length < 2**16 else pa.int32()
    types = {"tokens": pa.from_numpy_dtype(ids or np.dtype(np.int32)), "segments": places, "positions": places}
    return pa.schema([(name, pa.list_(item, length)) for name, item in types.items()])


def cut_rows(
    stream_N: np.ndarray, starts_N: np.ndarray, rows_R: np.ndarray, length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts rows out of a stream of documents.

    stream_N: token ids; starts_N: bool, True where a document begins; rows_R: the rows to cut (row r is tokens
    r·length to (r+1)·length). Returns tokens, of the stream's type, segments and positions, int32: [R, length] each."""
    index_RT = rows_R[:, None] * length + np.arange(length)
    inside_RT = index_RT < len(stream_N)
    index_RT = np.minimum(index_RT, len(stream_N) - 1)
    tokens_RT = np.where(inside_RT, stream_N[index_RT], pad_id).astype(stream_N.dtype)
    starts_RT = starts_N[index_RT] & inside_RT
    starts_RT[:, 0] = True  # a document that continues from the previous row is a new segment in this one
    segments_RT = np.where(inside_RT, np.cumsum(starts_RT, axis=1), 0).astype(np.int32)
    column_T = np.arange(length, dtype=np.int32)
    last_start_RT = np.maximum.accumulate(np.where(starts_RT, column_T, 0), axis=1)
    positions_RT = np.where(inside_RT, column_T - last_start_RT, 0).astype(np.int32)
    return tokens_RT, segments_RT, positions_RT


def write_rows(
    path: Path,
    stream_N: np.ndarray,
    starts_N: np.ndarray,
    *,
    length: int,
    pad_id: int,
    seed: int | Sequence[int] | None,
    phase: int | None = None,
) -> Iterator[int]:
    """Writes every row of a stream to an uncompressed Arrow IPC file, shuffled by the seed (None: in their order).

    phase: of the file's rows, in its metadata; files of a phase are read before those of the next. Yields the number of
    rows written so far."""
    num_rows = -(-len(stream_N) // length)
    order = np.arange(num_rows) if seed is None else np.random.default_rng(seed).permutation(num_rows)
    row_schema = schema(length, stream_N.dtype).with_metadata(None if phase is None else {PHASE: str(phase)})
    return _write(path, row_schema, order, lambda rows_R: cut_rows(stream_N, starts_N, rows_R, length, pad_id))


def _write(
    path: Path, row_schema: pa.Schema, order_R: np.ndarray, columns: Callable[[np.ndarray], Iterable[np.ndarray]]
) -> Iterator[int]:
    """Writes rows in this order, in batches; yields the number of rows written so far.

    columns: maps row numbers to the columns of those rows, [rows, length] each."""
    batch_rows = max(1, BATCH_TOKENS // row_schema.field("tokens").type.list_size)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, row_schema) as writer:
        for first in range(0, len(order_R), batch_rows):
            rows_R = order_R[first : first + batch_rows]
            arrays = [
                pa.FixedSizeListArray.from_arrays(
                    pa.array(column_RT.reshape(-1), field.type.value_type), column_RT.shape[1]
                )
                for column_RT, field in zip(columns(rows_R), row_schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=row_schema))
            yield first + len(rows_R)


def best_fit(lengths_N: np.ndarray, length: int) -> list[list[int]]:
    """Packs whole sequences into rows; returns the numbers of the sequences in each row.

    lengths_N: tokens of each sequence, at most `length`. Longest first, each into the fullest row that has room for it
    (best-fit decreasing, Johnson et al. 1974: at most 11/9 of the minimum number of rows; with many short sequences
    rows are nearly full)."""
    rows: list[list[int]] = []
    rows_by_space: list[list[int]] = [[] for _ in range(length + 1)]  # row numbers, by the tokens left in the row
    spaces: list[int] = []  # values of space that at least one row has, ascending
    for number in np.argsort(-lengths_N, kind="stable").tolist():
        size = int(lengths_N[number])
        index = bisect_left(spaces, size)
        if index == len(spaces):
            row, space = len(rows), length
            rows.append([])
        else:
            space = spaces[index]
            row = rows_by_space[space].pop()
            if not rows_by_space[space]:
                spaces.pop(index)
        rows[row].append(number)
        space_left = space - size
        if space_left and not rows_by_space[space_left]:
            insort(spaces, space_left)
        rows_by_space[space_left].append(row)
    return rows


def write_sequences(
    path: Path,
    sequences: Sequence[np.ndarray],
    loss_masks: Sequence[np.ndarray],
    *,
    length: int,
    pad_id: int,
    seed: int,
) -> Iterator[int]:
    """Packs whole sequences into rows and writes them shuffled, with the loss mask as a column `loss_mask`.

    sequences: token ids of each, at most `length`; loss_masks: bool, as long, or float32 with a weight of each token's
    loss. Yields the number of rows written so far."""
    packed = best_fit(np.array([len(ids) for ids in sequences], np.int64), length)
    order = np.random.default_rng(seed).permutation(len(packed))
    kind = pa.float32() if any(mask.dtype == np.float32 for mask in loss_masks) else pa.int8()
    row_schema = schema(length).append(pa.field("loss_mask", pa.list_(kind, length)))

    def columns(rows_R: np.ndarray) -> tuple[np.ndarray, ...]:
        rows = [[(sequences[number], loss_masks[number]) for number in packed[row]] for row in rows_R]
        *columns, loss_mask_RT = lay_out_sequences(rows, length, pad_id)
        return *columns, loss_mask_RT.astype(kind.to_pandas_dtype())

    return _write(path, row_schema, order, columns)


def lay_out_sequences(
    rows: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]], length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lays out the sequences (ids, loss mask) of each row.

    Returns tokens, segments, positions: int32 [R, length] each, and the loss mask: float32 [R, length]."""
    tokens_RT = np.full((len(rows), length), pad_id, np.int32)
    segments_RT, positions_RT = np.zeros_like(tokens_RT), np.zeros_like(tokens_RT)
    loss_mask_RT = np.zeros(tokens_RT.shape, np.float32)
    position_T = np.arange(length, dtype=np.int32)
    for row, sequences in enumerate(rows):
        start = 0
        for segment, (ids, loss_mask) in enumerate(sequences, 1):
            end = start + len(ids)
            tokens_RT[row, start:end] = ids
            segments_RT[row, start:end] = segment
            positions_RT[row, start:end] = position_T[: len(ids)]
            loss_mask_RT[row, start:end] = loss_mask
            start = end
    return tokens_RT, segments_RT, positions_RT, loss_mask_RT


def mixture_repeats(
    tokens: Mapping[str, int],
    weights: Mapping[str, float] | None,
    max_repeats: float,
    *,
    choices: str | None = None,
    total_tokens: int | None = None,
) -> dict[str, float]:
    """Returns how often each group's documents are used so that training tokens have the mixture's weights.

    tokens: tokens in the corpus; weights: of training tokens, need not sum to 1 (None: all documents once). 0.2 uses a
    fifth of the documents, 1.5 all of them once and half of them twice. A group without a weight is not used. choices:
    the groups that there are, for messages; by default languages. total_tokens: of training; None: as many as no group
    is used more than `max_repeats` times for.

    Raises UserError for a weight of a group that has no tokens, and for a total that a group would be used more often
    for: no mixture can have them."""
    if weights is None:
        return dict.fromkeys(tokens, 1.0)
    positive = {group: weight for group, weight in weights.items() if weight > 0}
    for group in positive:
        if not tokens.get(group):
            languages = ", ".join(name for name in tokens if tokens[name]) or "none"
            raise UserError(
                f"mixture: {group} has a weight, but the corpus has no text in it; expected "
                f"{choices or f'languages of the corpus: {languages}'}"
            )
    total_weight = sum(positive.values())
    totals = {group: max_repeats * tokens[group] * total_weight / weight for group, weight in positive.items()}
    scarcest = min(totals, key=lambda group: totals[group])
    total = totals[scarcest] if total_tokens is None else total_tokens
    if total > totals[scarcest]:
        times = total / totals[scarcest] * max_repeats
        raise UserError(
            f"mixture: the {tokens[scarcest]:,} tokens of {scarcest} would be used {times:.3g} times to be "
            f"{positive[scarcest] / total_weight:.3g} of {total:,} tokens, more than max_repeats: {max_repeats:g}; "
            f"set total_tokens to at most {int(totals[scarcest])}, lower its weight, or raise max_repeats"
        )
    return {group: total * positive.get(group, 0.0) / total_weight / tokens[group] for group in tokens}


def min_fraction_repeats(tokens: Mapping[str, int], min_fraction: float, max_repeats: float) -> dict[str, float]:
    """Returns how often each language's documents are used so that it has at least this fraction of training tokens.

    Languages with more are used once; the others as often as they need, at most `max_repeats` times.
    {en: 90, zh: 10} with a minimum of 0.2 uses zh 2.25 times: 22.5 of 112.5 tokens. If the minimum fractions of all
    languages exceed 1, all get equal fractions."""
    sizes = {language: count for language, count in tokens.items() if count}
    fraction = min(min_fraction, 1 / max(1, len(sizes)))
    repeated: set[str] = set()  # languages below the minimum
    while True:  # repeating one language can push another below the minimum
        rest = sum(count for language, count in sizes.items() if language not in repeated)
        total = rest / (1 - fraction * len(repeated)) if rest else max(sizes.values(), default=0) * len(sizes)
        below = {name for name, count in sizes.items() if name not in repeated and count < fraction * total}
        if not below:
            break
        repeated |= below
    return {name: min(max_repeats, fraction * total / sizes[name]) if name in repeated else 1.0 for name in tokens}


def times_used(ranks_D: np.ndarray, repeats: float) -> np.ndarray:
    """How often each document of a group is used, by its rank among them (from 0). int64 [D].

    D documents are used round(repeats × D) times in all, each floor(repeats) or one more; those that are used once
    more are evenly spaced, so that every range of ranks has its part of them (systematic sampling)."""
    return (np.floor((ranks_D + 1) * repeats + 0.5) - np.floor(ranks_D * repeats + 0.5)).astype(np.int64)


def choose_documents(languages_D: np.ndarray, repeats: Mapping[str, float], seed: int) -> np.ndarray:
    """Returns document numbers in shuffled order, each as often as `repeats` says for its language. int64 [N].

    A fraction of a repetition uses a random part of the language's documents."""
    generator = np.random.default_rng(seed)
    chosen = []
    for language in sorted(repeats):
        documents = generator.permutation(np.flatnonzero(languages_D == language))
        count = round(len(documents) * repeats[language])
        times, rest = divmod(count, len(documents)) if len(documents) else (0, 0)
        chosen += [documents] * times + [documents[:rest]]
    return generator.permutation(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
