"""Sequence packing against plain reference loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.tokens import packing
from pipelines.errors import UserError

PAD = 0


def reference_rows(documents: list[list[int]], length: int) -> list[tuple[list[int], list[int], list[int]]]:
    """(tokens, segments, positions) of each row, one token at a time."""
    rows, row = [], ([], [], [])
    for document in documents:
        for index, token in enumerate(document):
            tokens, segments, positions = row
            begins = not tokens or index == 0
            segments.append((segments[-1] if segments else 0) + begins)
            positions.append(0 if begins else positions[-1] + 1)
            tokens.append(token)
            if len(tokens) == length:
                rows.append(row)
                row = ([], [], [])
    if row[0]:
        for column in row:
            column += [0] * (length - len(column))
        rows.append(row)
    return rows


def lay_out(documents: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    stream = np.array([token for document in documents for token in document], np.int32)
    starts = np.array([index == 0 for document in documents for index in range(len(document))], bool)
    return stream, starts


def some_documents(seed: int, count: int = 40) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, 1000, generator.integers(1, 30)).tolist() for _ in range(count)]


@pytest.mark.parametrize("length", [1, 2, 7, 16, 64, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_rows_equal_those_of_a_reference_loop(length: int, seed: int) -> None:
    documents = some_documents(seed)
    expected = reference_rows(documents, length)
    stream, starts = lay_out(documents)
    columns = packing.cut_rows(stream, starts, np.arange(len(expected)), length, PAD)
    for column, name in zip(columns, ("tokens", "segments", "positions"), strict=True):
        assert column.dtype == np.int32
        expected_column = [row[("tokens", "segments", "positions").index(name)] for row in expected]
        np.testing.assert_array_equal(column, expected_column, err_msg=name)


def test_rows_can_be_cut_in_any_order() -> None:
    stream, starts = lay_out(some_documents(2))
    order = np.array([3, 0, 5])
    all_rows = packing.cut_rows(stream, starts, np.arange(-(-len(stream) // 16)), 16, PAD)
    some = packing.cut_rows(stream, starts, order, 16, PAD)
    for column, all_columns in zip(some, all_rows, strict=True):
        np.testing.assert_array_equal(column, all_columns[order])


@pytest.mark.parametrize("seed", [None, 7])
def test_every_token_is_written_once(tmp_path: Path, seed: int | None) -> None:
    documents = some_documents(3, 300)
    stream, starts = lay_out(documents)
    progress = list(packing.write_rows(tmp_path / "rows", stream, starts, length=32, pad_id=PAD, seed=seed))
    table = pa.ipc.open_file(pa.memory_map(str(tmp_path / "rows"))).read_all()
    num_rows = -(-len(stream) // 32)
    assert progress[-1] == table.num_rows == num_rows
    assert table.schema == packing.schema(32)
    tokens = np.array(table["tokens"].to_pylist())
    segments = np.array(table["segments"].to_pylist())
    assert sorted(tokens[segments > 0].tolist()) == sorted(stream.tolist())
    assert (tokens[segments == 0] == PAD).all()
    assert (segments == 0).sum() == num_rows * 32 - len(stream)
    if seed is None:
        assert tokens[segments > 0].tolist() == stream.tolist()
    else:
        order = np.random.default_rng(seed).permutation(num_rows)
        expected = packing.cut_rows(stream, starts, order, 32, PAD)[0]
        np.testing.assert_array_equal(tokens, expected)
        assert tokens[segments > 0].tolist() != stream.tolist()


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    stream, starts = lay_out(some_documents(4, 200))
    written = []
    for number, seed in enumerate((5, 5, 6)):
        file = tmp_path / str(number)
        list(packing.write_rows(file, stream, starts, length=16, pad_id=PAD, seed=seed))
        written.append(file.read_bytes())
    assert written[0] == written[1] != written[2]


def test_more_rows_than_in_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BATCH_TOKENS", 7 * 16)
    stream, starts = lay_out(some_documents(5, 100))
    progress = list(packing.write_rows(tmp_path / "rows", stream, starts, length=16, pad_id=PAD, seed=1))
    num_rows = -(-len(stream) // 16)
    assert progress == [*range(7, num_rows, 7), num_rows]
    reader = pa.ipc.open_file(str(tmp_path / "rows"))
    expected = packing.cut_rows(stream, starts, np.random.default_rng(1).permutation(num_rows), 16, PAD)
    np.testing.assert_array_equal(np.array(reader.read_all()["positions"].to_pylist()), expected[2])


@pytest.mark.parametrize(("length", "rows"), [(256, 8192), (16_384, 128), (1_048_576, 2)])
def test_a_batch_has_so_many_tokens_however_long_the_rows_are(tmp_path: Path, length: int, rows: int) -> None:
    stream = np.ones(packing.BATCH_TOKENS + 2 * length, np.uint16)
    starts = np.zeros(len(stream), bool)
    progress = packing.write_rows(tmp_path / "rows", stream, starts, length=length, pad_id=PAD, seed=1)
    assert list(progress) == [rows, rows + 2]


def test_an_empty_stream_is_an_empty_file(tmp_path: Path) -> None:
    empty = np.zeros(0, np.int32)
    assert list(packing.write_rows(tmp_path / "rows", empty, empty.astype(bool), length=16, pad_id=PAD, seed=1)) == []
    assert pa.ipc.open_file(str(tmp_path / "rows")).read_all().num_rows == 0


@pytest.mark.parametrize(
    ("tokens", "weights", "max_repeats", "expected"),
    [
        ({"en": 800, "zh": 200}, None, 1, {"en": 1, "zh": 1}),
        ({"en": 800, "zh": 200}, {"en": 0.8, "zh": 0.2}, 1, {"en": 1, "zh": 1}),
        # equal weights, at most once: all of the smaller language, as much of the larger
        ({"en": 800, "zh": 200}, {"en": 0.5, "zh": 0.5}, 1, {"en": 0.25, "zh": 1}),
        ({"en": 800, "zh": 200}, {"en": 0.5, "zh": 0.5}, 3, {"en": 0.75, "zh": 3}),
        ({"en": 800, "zh": 200}, {"en": 5, "zh": 5}, 3, {"en": 0.75, "zh": 3}),  # weights need not sum to 1
        ({"en": 800, "zh": 200}, {"en": 1}, 1, {"en": 1, "zh": 0}),
        ({"en": 800, "zh": 200}, {"en": 1, "zh": 0}, 2, {"en": 2, "zh": 0}),
        ({"en": 300}, {"en": 0.1}, 1, {"en": 1}),
    ],
)
def test_mixture_repeats(
    tokens: dict[str, int], weights: dict[str, float] | None, max_repeats: float, expected: dict[str, float]
) -> None:
    assert packing.mixture_repeats(tokens, weights, max_repeats) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tokens", "min_fraction", "max_repeats", "expected"),
    [
        ({"en": 90, "zh": 10}, 0.2, 3, {"en": 1, "zh": 2.25}),
        ({"en": 99, "zh": 1}, 0.2, 3, {"en": 1, "zh": 3}),
        ({"en": 60, "zh": 40}, 0.2, 3, {"en": 1, "zh": 1}),
        ({"en": 60, "zh": 40}, 0.0, 3, {"en": 1, "zh": 1}),
        ({"en": 10}, 0.5, 3, {"en": 1}),
        ({"en": 80, "zh": 20, "fr": 0}, 0.5, 9, {"en": 1, "zh": 4, "fr": 1}),
        ({"a": 70, "b": 22, "c": 8}, 0.25, 9, {"a": 1, "b": 35 / 22, "c": 35 / 8}),
    ],
)
def test_small_languages_are_repeated_to_reach_the_minimum_fraction(
    tokens: dict[str, int], min_fraction: float, max_repeats: float, expected: dict[str, float]
) -> None:
    assert packing.min_fraction_repeats(tokens, min_fraction, max_repeats) == pytest.approx(expected)


def test_a_mixture_has_its_weights_and_is_the_largest_possible() -> None:
    tokens, weights = {"en": 12_345, "zh": 6_789, "de": 42_000}, {"en": 0.6, "zh": 0.3, "de": 0.1}
    repeats = packing.mixture_repeats(tokens, weights, 2)
    used = {language: tokens[language] * repeats[language] for language in tokens}
    for language, weight in weights.items():
        assert used[language] / sum(used.values()) == pytest.approx(weight)
    assert max(repeats.values()) == pytest.approx(2)


@pytest.mark.parametrize("tokens", [{"en": 800}, {"en": 800, "zh": 0}])
def test_a_weight_of_a_missing_language_is_a_user_error(tokens: dict[str, int]) -> None:
    with pytest.raises(
        UserError,
        match="mixture: zh has a weight, but the corpus has no text in it; expected languages of the corpus: en",
    ):
        packing.mixture_repeats(tokens, {"en": 0.8, "zh": 0.2}, 1)


def test_a_total_that_repeats_a_group_too_often_is_a_user_error() -> None:
    tokens, weights = {"general": 7000, "synthetic": 100}, {"general": 0.9, "synthetic": 0.1}
    repeats = packing.mixture_repeats(tokens, weights, 4, total_tokens=2000)
    assert repeats == pytest.approx({"general": 1800 / 7000, "synthetic": 2})
    problem = (
        r"the 100 tokens of synthetic would be used 10 times to be 0.1 of 10,000 tokens, more than max_repeats: 4; set "
        r"total_tokens to at most 4000"
    )
    with pytest.raises(UserError, match=problem):
        packing.mixture_repeats(tokens, weights, 4, total_tokens=10_000)


@pytest.mark.parametrize("repeats", [0.0, 0.3, 2 / 3, 1.0, 2.0, 2.71, 100.0])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_documents_are_used_as_often_as_requested_and_evenly(repeats: float, count: int) -> None:
    times = packing.times_used(np.arange(count), repeats)
    assert set(times.tolist()) <= {int(repeats), int(repeats) + 1}
    used, due = 0, 0.0
    for number in times.tolist():
        used, due = used + number, due + repeats
        assert abs(used - due) <= 0.5 + 1e-9  # up to any document: the nearest whole number
    pieces = [packing.times_used(np.arange(first, min(first + 3, count)), repeats) for first in range(0, count, 3)]
    assert np.concatenate(pieces).tolist() == times.tolist()


@pytest.mark.parametrize(("num_ids", "length", "widths"), [(65_536, 65_535, (2, 2)), (65_537, 65_536, (4, 4))])
def test_rows_take_two_bytes_a_number_where_they_fit(
    tmp_path: Path, num_ids: int, length: int, widths: tuple[int, int]
) -> None:
    dtype = packing.id_dtype(num_ids)
    stream = np.array([num_ids - 1, *range(length - 1)], dtype)
    list(packing.write_rows(tmp_path / "rows", stream, np.ones(length, bool), length=length, pad_id=PAD, seed=None))
    table = pa.ipc.open_file(str(tmp_path / "rows")).read_all()
    assert tuple(table.schema.field(name).type.value_type.byte_width for name in ("tokens", "segments")) == widths
    assert table["tokens"].to_pylist() == [stream.tolist()]
    assert table["segments"].to_pylist() == [list(range(1, length + 1))]


def test_documents_are_chosen_as_often_as_requested() -> None:
    languages = np.array(["en", "zh", "en", "zh", "en", "de"])
    chosen = packing.choose_documents(languages, {"en": 2 / 3, "zh": 2.5, "de": 0.0}, seed=1)
    times = np.bincount(chosen, minlength=6)
    assert times[languages == "en"].sum() == 2 and times[languages == "en"].max() == 1
    assert sorted(times[languages == "zh"]) == [2, 3]
    assert times[languages == "de"].sum() == 0
    np.testing.assert_array_equal(
        chosen, packing.choose_documents(languages, {"en": 2 / 3, "zh": 2.5, "de": 0.0}, seed=1)
    )


def test_all_documents_once_is_a_permutation_by_the_seed() -> None:
    languages = np.array(["en"] * 60 + ["zh"] * 40)
    first, second = (packing.choose_documents(languages, {"en": 1.0, "zh": 1.0}, seed) for seed in (1, 2))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first.tolist() != second.tolist()


def test_no_documents_give_an_empty_order() -> None:
    assert packing.choose_documents(np.zeros(0, dtype="U2"), {}, 1).tolist() == []


def some_sequences(seed: int, count: int, max_length: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    generator = np.random.default_rng(seed)
    sequences = [
        generator.integers(1, 1000, generator.integers(1, max_length + 1)).astype(np.int32) for _ in range(count)
    ]
    return sequences, [generator.random(len(ids)) < 0.5 for ids in sequences]


def reference_best_fit(lengths: list[int], length: int) -> list[int]:
    """Tokens in each row: longest first, into the fullest row with room, searching all rows."""
    rows: list[int] = []
    for size in sorted(lengths, reverse=True):
        fitting = [row for row in range(len(rows)) if rows[row] + size <= length]
        if fitting:
            rows[max(fitting, key=lambda row: rows[row])] += size
        else:
            rows.append(size)
    return rows


@pytest.mark.parametrize(("count", "max_length"), [(0, 5), (1, 32), (300, 32), (300, 9), (50, 32)])
def test_best_fit_equals_a_reference_loop(count: int, max_length: int) -> None:
    lengths = np.random.default_rng(count).integers(1, max_length + 1, count)
    rows = packing.best_fit(lengths, 32)
    assert sorted(number for row in rows for number in row) == list(range(count))
    assert sorted(int(lengths[row].sum()) for row in rows) == sorted(reference_best_fit(lengths.tolist(), 32))


def test_many_short_sequences_fill_their_rows() -> None:
    lengths = np.random.default_rng(0).geometric(1 / 40, 5000).clip(8, 256)
    rows = packing.best_fit(lengths, 256)
    assert lengths.sum() / (len(rows) * 256) > 0.99


def test_sequences_are_whole_in_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BATCH_TOKENS", 7 * 16)
    sequences, loss_masks = some_sequences(1, 60, 16)
    progress = list(packing.write_sequences(tmp_path / "rows", sequences, loss_masks, length=16, pad_id=PAD, seed=3))
    table = pa.ipc.open_file(str(tmp_path / "rows")).read_all()
    columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    assert progress[-1] == table.num_rows == len(columns["tokens"]) > 7
    packed = []
    for row in range(table.num_rows):
        tokens, segments, positions, mask = (columns[n][row] for n in ("tokens", "segments", "positions", "loss_mask"))
        assert (np.diff(segments[segments > 0]) >= 0).all() and segments[0] == 1
        assert not tokens[segments == 0].any() and not mask[segments == 0].any()
        for segment in range(1, segments.max() + 1):
            inside = segments == segment
            assert positions[inside].tolist() == list(range(inside.sum()))
            packed.append((tokens[inside].tolist(), mask[inside].astype(bool).tolist()))
    expected = [(ids.tolist(), mask.tolist()) for ids, mask in zip(sequences, loss_masks, strict=True)]
    assert sorted(packed) == sorted(expected)


def test_sequences_are_shuffled_by_the_seed(tmp_path: Path) -> None:
    sequences, loss_masks = some_sequences(2, 40, 16)
    written = []
    for number, seed in enumerate((5, 5, 6)):
        list(packing.write_sequences(tmp_path / str(number), sequences, loss_masks, length=16, pad_id=PAD, seed=seed))
        written.append((tmp_path / str(number)).read_bytes())
    assert written[0] == written[1] != written[2]
