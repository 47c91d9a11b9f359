"""Packed rows from disk as tensors, and the rows that each rank reads at each step.

    train/part-*.arrow (memory-mapped) ──rows of (seed, step, rank)──► PackedBatch{tokens, positions, labels} [B, T]

The order is a function of (seed, step): no iterator has a state, so training goes on exactly after any kill and on
another number of workers. A row holds several documents: `segments` numbers them from 1 (0 is padding) and `positions`
start at 0 in each, which is how attention keeps them apart (see model.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipelines.data.tokens.packing import PHASE
from pipelines.errors import UserError
from pipelines.learning.dealing import cut_evenly, dealt, num_micro_batches
from pipelines.learning.losses import IGNORE
from pipelines.learning.permutation import permuted

COLUMNS = ("tokens", "segments", "positions", "loss_mask")
LOOKED_AT_ROWS = 20_000  # of all steps, about: 0.3 s for pairs
MAX_TABLE_ROWS = 2**24  # more rows than these are permuted without a table, which would take 8 bytes a row


@dataclass(frozen=True)
class PackedBatch:
    """Rows of packed documents, ready for a model. All int64 [B, T], but the weights."""

    tokens_BT: Tensor
    positions_BT: Tensor  # in the document, from 0; padding: 0
    labels_BT: Tensor  # the next token of the same document; IGNORE at its end, in padding, and outside the loss mask

    weights_BT: Tensor | None = None  # of the labels' losses, float32 [B, T]; None: all 1

    @property
    def num_labels(self) -> int:
        return int((self.labels_BT != IGNORE).sum())

    @property
    def num_predicted(self) -> int:
        return self.num_labels

    def to(self, device: str | torch.device) -> PackedBatch:
        weights_BT = None if self.weights_BT is None else self.weights_BT.to(device)
        return PackedBatch(
            self.tokens_BT.to(device), self.positions_BT.to(device), self.labels_BT.to(device), weights_BT
        )


def labels_from_packed(tokens_BT: Tensor, segments_BT: Tensor, loss_mask_BT: Tensor | None = None) -> Tensor:
    """The next token where it belongs to the same document and is in the loss mask, otherwise IGNORE. int64 [B, T].

    loss_mask_BT: not 0 where a token is to be predicted from those before it; None: everywhere."""
    labels_BT = torch.full_like(tokens_BT, IGNORE, dtype=torch.int64)
    predicted_BT = (segments_BT[:, 1:] == segments_BT[:, :-1]) & (segments_BT[:, :-1] != 0)
    if loss_mask_BT is not None:
        predicted_BT &= loss_mask_BT[:, 1:] != 0
    labels_BT[:, :-1] = torch.where(predicted_BT, tokens_BT[:, 1:].long(), IGNORE)
    return labels_BT


def batch_from_packed(
    tokens_BT: Tensor, segments_BT: Tensor, positions_BT: Tensor, loss_mask_BT: Tensor | None = None
) -> PackedBatch:
    """The columns of packed rows as a model's input. A loss mask of fractions holds the labels' weights."""
    labels_BT, weights_BT = labels_from_packed(tokens_BT, segments_BT, loss_mask_BT), None
    if loss_mask_BT is not None and loss_mask_BT.is_floating_point():
        weights_BT = torch.zeros_like(loss_mask_BT)
        weights_BT[:, :-1] = loss_mask_BT[:, 1:]
    return PackedBatch(tokens_BT.long(), positions_BT.long(), labels_BT, weights_BT)


class PackedRows:
    """Random access to rows in Arrow IPC files; memory-mapped, so only the rows that are read cost anything.

    path: a file, or a folder of shards, part-*.arrow. A row's index is its place in the order of reading: that of the
    file; of several shards a fixed permutation of all their rows, so that every batch has rows of many shards. Shards
    that belong to phases are read phase by phase, the rows of each permuted; `phases` has their numbers of rows.
    Columns: tokens, segments, positions; and loss_mask, where not every token is to be predicted."""

    def __init__(self, path: Path):
        files = sorted(path.glob("part-*.arrow")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise UserError(
                f"{path}: no rows of tokens; expected files part-00000.arrow, … as the stage tokens writes them. An "
                f"earlier version wrote one file, train.arrow: make the artifact again with --force tokens"
            )
        self._mixed = len(files) > 1
        self._columns: dict[str, list[np.ndarray]] = {}
        phases: Counter[int] = Counter()
        for file in files:
            with pa.memory_map(str(file)) as source:  # the buffers keep the mapping, not the open file
                batches = pa.ipc.open_file(source)
                for number in range(batches.num_record_batches):
                    self._add(batches.get_batch(number))
                rows = sum(batches.get_batch(number).num_rows for number in range(batches.num_record_batches))
                phases[int((batches.schema.metadata or {}).get(PHASE, 0))] += rows
            self.length = int(batches.schema.field("tokens").type.list_size)
        self.phases = tuple(rows for _, rows in sorted(phases.items()))
        self._starts = np.cumsum([0] + [len(part) for part in self._columns.get("tokens", [])])

    def _add(self, batch: pa.RecordBatch) -> None:
        for name in (name for name in COLUMNS if name in batch.schema.names):
            # `flatten` respects a slice's offset; no bytes are copied until rows are picked.
            values = batch.column(name).flatten().to_numpy(zero_copy_only=True)
            self._columns.setdefault(name, []).append(values.reshape(batch.num_rows, -1))

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def row_tokens(self) -> float:
        return float(self.length)

    @property
    def tokens_N(self) -> None:
        return None

    def batch_tokens(self, rows: np.ndarray) -> int:
        return len(rows) * self.length

    def padding(self) -> PackedBatch:
        """One row of padding, whose loss is 0."""
        zeros = torch.zeros(1, self.length, dtype=torch.int64)
        return PackedBatch(zeros, zeros, torch.full_like(zeros, IGNORE))

    def read(self, rows: np.ndarray) -> PackedBatch:
        """These rows, in this order; one row of padding for no rows, since every rank takes part in every backward
        pass."""
        if not len(rows):
            return self.padding()
        if self._mixed:
            # Which rows are in which shard depends on the tokens' seed.
            rows = in_phases(rows, self.phases, lambda places, size: permuted(places, size, seed=[0]))
        part_of = np.searchsorted(self._starts, rows, side="right") - 1
        columns = []
        for parts in self._columns.values():
            is_whole = np.issubdtype(parts[0].dtype, np.integer)
            picked = np.empty((len(rows), self.length), np.int32 if is_whole else np.float32)
            for number, (row, part) in enumerate(zip(rows, part_of, strict=True)):
                picked[number] = parts[part][row - self._starts[part]]
            columns.append(torch.from_numpy(picked))
        return batch_from_packed(*columns)


def in_phases(
    rows_N: np.ndarray, phases: Sequence[int], permute: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
    """Permutes rows within their phases. phases: numbers of rows; permute(places in a phase, its rows)."""
    result = np.empty(len(rows_N), np.int64)
    for size, end in zip(phases, np.cumsum(phases).tolist(), strict=True):
        inside = (end - size <= rows_N) & (rows_N < end)
        if inside.any():
            result[inside] = end - size + permute(rows_N[inside] - (end - size), size)
    return result


@dataclass(frozen=True)
class DataOrder:
    """The rows of each step: epochs of seeded permutations, end to end, cut into steps."""

    num_rows: int
    batch_rows: int  # rows of an optimiser step, all ranks together
    seed: int
    phases: tuple[int, ...] = ()  # numbers of rows that are read one after another in each epoch; none: one phase
    tokens_N: np.ndarray | None = field(default=None, compare=False)  # of each row; None: all rows are as long

    def rows_of_step(self, step: int) -> np.ndarray:
        """The rows of a step's whole batch. int64 [batch_rows]."""
        first = step * self.batch_rows
        indices = np.arange(first, first + self.batch_rows)  # into all epochs, end to end
        epochs = indices // self.num_rows
        rows = np.empty(self.batch_rows, np.int64)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            within = indices[in_epoch] % self.num_rows
            rows[in_epoch] = self._rows_of_epoch(int(epoch), within)
        return rows

    def _rows_of_epoch(self, epoch: int, within: np.ndarray) -> np.ndarray:
        """The rows at these places of an epoch."""
        if epoch == 0:  # rows are shuffled once when they are written
            return within

        def permute(places: np.ndarray, size: int) -> np.ndarray:
            if size > MAX_TABLE_ROWS:
                return permuted(places, size, seed=[self.seed, epoch])
            return _permutation(size, self.seed, epoch)[places]

        return in_phases(within, self.phases or (self.num_rows,), permute)

    def micro_batches(self, step: int, *, rank: int, world: int, micro_batch_rows: int) -> list[np.ndarray]:
        """The rows of one rank at a step, in pieces of at most `micro_batch_rows`.

        Every rank gets the same number of pieces, since each backward pass may communicate; where the rows do not
        divide evenly some pieces are shorter, or empty. Rows of many lengths are dealt out so that ranks, which wait
        for each other, have about as many tokens, and so have pieces."""
        return self._cut(step, world, micro_batch_rows)[rank]

    def _cut(self, step: int, world: int, micro_batch_rows: int) -> list[list[np.ndarray]]:
        rows, num_pieces = self.rows_of_step(step), num_micro_batches(self.batch_rows, world, micro_batch_rows)
        if self.tokens_N is not None:
            return dealt(rows, self.tokens_N, world, num_pieces)
        return [cut_evenly(rank_rows, num_pieces) for rank_rows in cut_evenly(rows, world)]

    def largest_tokens(
        self, steps: range, batch_tokens: Callable[[np.ndarray], int], *, world: int, micro_batch_rows: int
    ) -> int:
        """Tokens of the largest micro-batch of the steps that are looked at: of many steps some, and all that have the
        longest row. batch_tokens: of a batch of rows, padding included."""
        looked_at = sorted({*self._some(steps), *self._steps_with_longest(steps)})
        cuts = (self._cut(step, world, micro_batch_rows) for step in looked_at)
        return max(batch_tokens(piece) for ranks in cuts for pieces in ranks for piece in pieces)

    def step_tokens(
        self, steps: range, batch_tokens: Callable[[np.ndarray], int], *, world: int, micro_batch_rows: int
    ) -> float:
        """Tokens of a step on average, as if all ranks computed as many as the one that they wait for; of many steps
        some are looked at. batch_tokens: as above."""
        looked_at = self._some(steps)
        cuts = (self._cut(step, world, micro_batch_rows) for step in looked_at)
        return sum(world * max(sum(map(batch_tokens, pieces)) for pieces in ranks) for ranks in cuts) / len(looked_at)

    def _some(self, steps: range) -> range:
        """Steps that stand for all of these: one where all rows are as long."""
        if self.tokens_N is None:
            return steps[:1]
        return steps[:: max(1, len(steps) * self.batch_rows // LOOKED_AT_ROWS)]

    def _steps_with_longest(self, steps: range) -> list[int]:
        if self.tokens_N is None:
            return []
        longest, places = self.tokens_N.argmax(), np.arange(self.num_rows)
        last_epoch = (steps.stop * self.batch_rows - 1) // self.num_rows
        found = []
        for epoch in range(steps.start * self.batch_rows // self.num_rows, last_epoch + 1):
            place = int(np.argmax(self._rows_of_epoch(epoch, places) == longest))
            found.append((epoch * self.num_rows + place) // self.batch_rows)
        return [step for step in found if step in steps]


@lru_cache(maxsize=2)  # a step may reach from one epoch into the next; num_rows × 8 bytes each
def _permutation(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_rows)
