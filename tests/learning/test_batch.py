"""Packed rows: labels, the order of rows, and that documents of a row do not see each other."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.data.tokens.packing import write_rows, write_sequences
from pipelines.errors import UserError
from pipelines.learning import batch as batch_module
from pipelines.learning.batch import DataOrder, PackedRows, batch_from_packed, labels_from_packed
from pipelines.learning.losses import IGNORE
from pipelines.learning.model import NextTokenLearner, Size, from_scratch, last_hidden, output_embedding
from tests.learning.packed import write_tokens

SIZE = Size(32, 2, 2, 1, 64)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens"), num_rows=37, length=64) / "train"


def test_labels_by_hand() -> None:
    tokens = torch.tensor([[1, 5, 6, 2, 1, 7, 2, 0]])
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 0]])
    assert labels_from_packed(tokens, segments).tolist() == [[5, 6, 2, IGNORE, 7, 2, IGNORE, IGNORE]]


def test_labels_are_only_what_is_learnt() -> None:
    tokens = torch.tensor([[1, 5, 6, 2, 1, 7, 2, 0]])
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 0]])
    loss_mask = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 0]])  # the first token of a segment cannot be predicted
    assert labels_from_packed(tokens, segments, loss_mask).tolist() == [
        [IGNORE, 6, 2, IGNORE, IGNORE, 2, IGNORE, IGNORE]
    ]


Packed = tuple[Path, list[np.ndarray], list[np.ndarray]]


@pytest.fixture(scope="module")
def packed_file(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """A file of packed sequences, the sequences, and their loss masks."""
    random = np.random.default_rng(3)
    sequences = [random.integers(3, 128, random.integers(4, 40)).astype(np.int32) for _ in range(30)]
    loss_masks = [random.random(len(sequence)) < 0.4 for sequence in sequences]
    file = tmp_path_factory.mktemp("whole") / "train.arrow"
    list(write_sequences(file, sequences, loss_masks, length=64, pad_id=0, seed=1))
    return file, sequences, loss_masks


def test_sequences_in_a_row_do_not_attend_to_each_other(packed_file: Packed) -> None:
    file, sequences, _ = packed_file
    model = from_scratch(SIZE, vocabulary=128, length=64, seed=0).eval()
    rows = PackedRows(file)
    batch = rows.read(np.arange(len(rows)))
    with torch.no_grad():
        packed = last_hidden(model, batch.tokens_BT, batch.positions_BT) @ output_embedding(model).T
        alone = {
            tuple(sequence.tolist()): model(input_ids=torch.from_numpy(sequence).long()[None]).logits[0]
            for sequence in sequences
        }
    compared = 0
    for row, (tokens, positions) in enumerate(zip(batch.tokens_BT, batch.positions_BT, strict=True)):
        starts = [*(positions == 0).nonzero().flatten().tolist(), 64]
        for start, end in itertools.pairwise(starts):
            expected = alone.get(tuple(tokens[start:end].tolist()))
            if expected is not None:  # otherwise padding
                torch.testing.assert_close(packed[row, start:end], expected, rtol=1e-5, atol=1e-5)
                compared += 1
    assert compared == len(sequences)


def test_the_loss_of_packed_sequences_is_that_of_the_loss_mask_of_each_alone(packed_file: Packed) -> None:
    file, sequences, loss_masks = packed_file
    model = from_scratch(SIZE, vocabulary=128, length=64, seed=0).eval()
    rows = PackedRows(file)
    batch = rows.read(np.arange(len(rows)))
    assert batch.num_labels == sum(int(mask[1:].sum()) for mask in loss_masks)
    total = 0.0
    for sequence, mask in zip(sequences, loss_masks, strict=True):
        ids = torch.from_numpy(sequence).long()[None]
        labels = torch.where(torch.from_numpy(mask)[None], ids, IGNORE)
        if mask[1:].any():
            total += model(input_ids=ids, labels=labels).loss.item() * int(mask[1:].sum())
    assert NextTokenLearner(model)(batch).item() == pytest.approx(total, rel=1e-5)


def test_a_loss_mask_of_fractions_weighs_the_loss_of_each_token(packed_file: Packed, tmp_path: Path) -> None:
    _, sequences, loss_masks = packed_file
    random = np.random.default_rng(4)
    weights = [(mask * random.random(len(mask)) * 3).astype(np.float32) for mask in loss_masks]
    list(write_sequences(tmp_path / "train.arrow", sequences, weights, length=64, pad_id=0, seed=1))
    model = from_scratch(SIZE, vocabulary=128, length=64, seed=0).eval()
    rows = PackedRows(tmp_path / "train.arrow")
    batch = rows.read(np.arange(len(rows))).to("cpu")
    assert batch.num_labels == sum(int(mask[1:].sum()) for mask in loss_masks)
    total = 0.0
    for sequence, weight in zip(sequences, weights, strict=True):
        ids = torch.from_numpy(sequence).long()
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1]
        nats = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        total += float((nats * torch.from_numpy(weight[1:])).sum())
    assert NextTokenLearner(model)(batch).item() == pytest.approx(total, rel=1e-5)


def test_rows_are_those_of_the_file(rows: Path) -> None:
    table = pa.ipc.open_file(pa.memory_map(str(rows / "part-00000.arrow"))).read_all()
    numbers = np.array([36, 0, 11, 11])
    batch = PackedRows(rows).read(numbers)
    assert batch.tokens_BT.tolist() == table.column("tokens").take(pa.array(numbers)).to_pylist()
    assert batch.positions_BT.tolist() == table.column("positions").take(pa.array(numbers)).to_pylist()


def test_rows_of_several_record_batches(tmp_path: Path) -> None:
    column = pa.list_(pa.int32(), 2)
    schema = pa.schema([(name, column) for name in ("tokens", "segments", "positions")])
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in (0, 3, 4):
            values = pa.array([[start, start + i] for i in range(3 if start == 0 else 1)], column)
            writer.write_batch(pa.record_batch([values] * 3, schema=schema))
    packed_rows = PackedRows(tmp_path / "x.arrow")
    assert len(packed_rows) == 5
    assert packed_rows.read(np.array([4, 2, 3, 0])).tokens_BT.tolist() == [[4, 4], [0, 2], [3, 3], [0, 0]]


def shards(folder: Path, sizes: list[int], phases: list[int] | None = None) -> Path:
    """Shards of rows of 2 tokens: the number of the shard and that of the row. phases: of the shards."""
    folder.mkdir()
    for number, size in enumerate(sizes):
        stream = np.stack([np.full(size, number), np.arange(size)], axis=1).reshape(-1).astype(np.uint16)
        starts = np.arange(2 * size) % 2 == 0
        phase = None if phases is None else phases[number]
        list(write_rows(folder / f"part-{number:05}.arrow", stream, starts, length=2, pad_id=0, seed=None, phase=phase))
    return folder


def test_a_batch_has_rows_of_many_shards_and_an_epoch_every_row_once(tmp_path: Path) -> None:
    sizes = [40, 0, 200, 100, 60]
    packed_rows = PackedRows(shards(tmp_path / "train", sizes))
    order = DataOrder(len(packed_rows), batch_rows=40, seed=1)
    assert order.num_rows == sum(sizes)
    batches = [packed_rows.read(order.rows_of_step(step)).tokens_BT for step in range(20)]
    every_row = sorted([shard, row] for shard, size in enumerate(sizes) for row in range(size))
    for epoch in (batches[:10], batches[10:]):
        assert sorted(torch.cat(epoch).tolist()) == every_row
        assert all(len(set(batch[:, 0].tolist())) >= 3 for batch in epoch)
    assert not torch.equal(torch.cat(batches[:10]), torch.cat(batches[10:]))
    assert batches[0].dtype == torch.int64


def test_each_epoch_reads_phase_by_phase_and_every_row_once(tmp_path: Path) -> None:
    phases = [0, 0, 2, 2, 2]  # none of phase 1 is left
    packed_rows = PackedRows(shards(tmp_path / "train", [30, 70, 50, 0, 50], phases))
    assert packed_rows.phases == (100, 100)
    order = DataOrder(len(packed_rows), batch_rows=50, seed=1, phases=packed_rows.phases)
    batches = [packed_rows.read(order.rows_of_step(step)).tokens_BT.tolist() for step in range(8)]
    assert [{phases[shard] for shard, _ in batch} for batch in batches] == [{0}, {0}, {2}, {2}] * 2
    assert all(len({shard for shard, _ in batch}) == 2 for batch in batches)  # rows of a phase are mixed
    for epoch in (batches[:4], batches[4:]):
        assert len({tuple(row) for batch in epoch for row in batch}) == 200
    assert batches[:4] != batches[4:]


def test_a_folder_with_one_shard_is_read_in_the_order_of_its_file(tmp_path: Path) -> None:
    folder = shards(tmp_path / "train", [50])
    batch = PackedRows(folder).read(np.arange(50))
    assert batch.tokens_BT.tolist() == [[0, row] for row in range(50)]
    assert batch.tokens_BT.tolist() == PackedRows(folder / "part-00000.arrow").read(np.arange(50)).tokens_BT.tolist()


@pytest.mark.parametrize("name", ["train", "empty"])
def test_a_folder_without_shards_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"expected files part-00000\.arrow.* train\.arrow: make the artifact again"):
        PackedRows(tmp_path / name)


def test_padding_teaches_nothing(rows: Path) -> None:
    batch = PackedRows(rows).read(np.array([], np.int64))
    assert batch.num_labels == 0
    learner = NextTokenLearner(from_scratch(SIZE, vocabulary=128, length=64, seed=0))
    total = learner(batch)
    total.backward()
    assert total.item() == 0
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in learner.parameters())


def test_logits_of_a_packed_row_are_those_of_its_documents_alone(rows: Path) -> None:
    model = from_scratch(SIZE, vocabulary=128, length=64, seed=0).eval()
    batch = PackedRows(rows).read(np.arange(8))
    segments = (batch.positions_BT == 0).cumsum(1)
    with torch.no_grad():
        packed = last_hidden(model, batch.tokens_BT, batch.positions_BT) @ output_embedding(model).T
        compared = 0
        for row, segment in {(r, int(s)) for r in range(8) for s in segments[r]}:
            inside = segments[row] == segment
            alone = model(input_ids=batch.tokens_BT[row, inside][None]).logits[0]
            torch.testing.assert_close(packed[row, inside], alone, rtol=1e-5, atol=1e-5)
            compared += 1
    assert compared > 16


def test_a_rows_loss_is_the_sum_of_its_documents_losses(rows: Path) -> None:
    model = from_scratch(SIZE, vocabulary=128, length=64, seed=0).eval()
    batch = PackedRows(rows).read(np.array([3]))
    segments = (batch.positions_BT == 0).cumsum(1)
    alone = 0.0
    for segment in segments.unique():
        ids = batch.tokens_BT[segments == segment][None]
        if ids.shape[1] > 1:
            alone += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    assert NextTokenLearner(model)(batch).item() == pytest.approx(alone, rel=1e-5)


def test_each_epoch_reads_each_row_once_and_the_first_reads_the_file_in_order() -> None:
    order = DataOrder(num_rows=10, batch_rows=4, seed=5)
    stream = np.concatenate([order.rows_of_step(step) for step in range(10)])  # 40 rows: four epochs
    assert stream[:10].tolist() == list(range(10))
    epochs = stream.reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_epochs_of_very_many_rows_are_permuted_without_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    table = DataOrder(num_rows=1000, batch_rows=250, seed=5)
    with_table = [table.rows_of_step(step).tolist() for step in range(12)]
    monkeypatch.setattr(batch_module, "MAX_TABLE_ROWS", 999)
    without = [table.rows_of_step(step).tolist() for step in range(12)]
    assert without[:4] == with_table[:4]
    epochs = [list(itertools.chain(*without[first : first + 4])) for first in (0, 4, 8)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(1000))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3 and without[4:8] != with_table[4:8]


def test_order_is_a_function_of_seed_and_step() -> None:
    first, again = DataOrder(100, 8, seed=1), DataOrder(100, 8, seed=1)
    assert first.rows_of_step(40).tolist() == again.rows_of_step(40).tolist()
    assert first.rows_of_step(40).tolist() != DataOrder(100, 8, seed=2).rows_of_step(40).tolist()


@pytest.mark.parametrize(("world", "micro"), [(1, 8), (1, 3), (2, 2), (3, 2), (3, 1), (5, 4), (16, 1)])
def test_workers_and_micro_batches_share_a_step_out_exactly(world: int, micro: int) -> None:
    order = DataOrder(50, batch_rows=8, seed=1)
    shares = [order.micro_batches(9, rank=r, world=world, micro_batch_rows=micro) for r in range(world)]
    assert len({len(sequences) for sequences in shares}) == 1  # as many backward passes on every rank
    assert max(len(sequence) for sequences in shares for sequence in sequences) <= micro
    joined = np.concatenate([sequence for sequences in shares for sequence in sequences])
    assert joined.tolist() == order.rows_of_step(9).tolist()


@pytest.mark.parametrize(("world", "micro"), [(1, 8), (1, 3), (2, 2), (3, 2), (3, 1), (5, 4), (16, 1)])
def test_ranks_and_pieces_get_about_as_many_tokens_where_rows_differ(world: int, micro: int) -> None:
    tokens_N = np.random.default_rng(0).integers(20, 500, 50)
    order = DataOrder(50, batch_rows=8, seed=1, tokens_N=tokens_N)
    for step in range(12):
        ranks = [order.micro_batches(step, rank=r, world=world, micro_batch_rows=micro) for r in range(world)]
        assert len({len(pieces) for pieces in ranks}) == 1
        assert max(len(piece) for pieces in ranks for piece in pieces) <= micro
        joined = np.concatenate([piece for pieces in ranks for piece in pieces])
        assert sorted(joined.tolist()) == sorted(order.rows_of_step(step).tolist())
        longest = tokens_N[joined].max()
        of_ranks = [sum(tokens_N[piece].sum() for piece in pieces) for pieces in ranks]
        assert max(of_ranks) - min(of_ranks) <= longest
        for pieces in ranks:
            of_pieces = [tokens_N[piece].sum() for piece in pieces]
            assert max(of_pieces) - min(of_pieces) <= longest


def test_lengths_are_balanced_better_than_rows_as_they_come() -> None:
    """The mean of the longer rank's tokens ÷ half of all, of 50 steps: what one rank waits for."""
    tokens_N = np.random.default_rng(1).lognormal(5, 0.7, 1000).astype(int)
    waits = []
    for tokens in (None, tokens_N):
        order = DataOrder(1000, batch_rows=16, seed=1, tokens_N=tokens)
        totals = [
            [
                tokens_N[np.concatenate(order.micro_batches(step, rank=r, world=2, micro_batch_rows=4))].sum()
                for r in (0, 1)
            ]
            for step in range(50)
        ]
        waits.append(np.mean([2 * max(both) / sum(both) for both in totals]))
    assert waits[0] > 1.1 and waits[1] < 1.03


@pytest.mark.parametrize("longest", [0, 13, 388, 799])
@pytest.mark.parametrize("steps", [range(300), range(40, 300), range(90, 100)])
def test_the_step_of_the_longest_row_is_always_looked_at(
    steps: range, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though of all steps, of three epochs or of a part of them, a few are."""
    monkeypatch.setattr(batch_module, "LOOKED_AT_ROWS", 16)
    tokens_N = np.full(800, 100)
    tokens_N[longest] = 900
    order = DataOrder(800, batch_rows=8, seed=2, tokens_N=tokens_N)
    largest = order.largest_tokens(steps, lambda rows: int(tokens_N[rows].sum()), world=2, micro_batch_rows=2)
    assert largest == (1000 if any(longest in order.rows_of_step(step) for step in steps) else 200)


def test_rows_of_one_length_are_not_walked() -> None:
    """Of five rows one rank has three, for which the other waits."""
    batches: list[int] = []

    def batch_tokens(rows: np.ndarray) -> int:
        batches.append(len(rows))
        return len(rows) * 7

    order, cut = DataOrder(100, batch_rows=5, seed=2), {"world": 2, "micro_batch_rows": 2}
    assert order.largest_tokens(range(1000), batch_tokens, **cut) == 2 * 7
    assert order.step_tokens(range(1000), batch_tokens, **cut) == 2 * 3 * 7
    assert len(batches) <= 8


def test_batch_has_the_types_models_want() -> None:
    column = torch.ones(2, 4, dtype=torch.int32)
    batch = batch_from_packed(column, column, column)
    assert {t.dtype for t in (batch.tokens_BT, batch.positions_BT, batch.labels_BT)} == {torch.int64}
