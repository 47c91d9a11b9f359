"""Packed rows against a loop that does it by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.tokens import packing
from pipelines.errors import UserError

PAD = 0


def by_hand(documents: list[list[int]], length: int) -> list[tuple[list[int], list[int], list[int]]]:
    """(tokens, segments, positions) of each row, one token at a time."""
    rows, row = [], ([], [], [])
    for document in documents:
        for place, token in enumerate(document):
            tokens, segments, positions = row
            begins = not tokens or place == 0
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
    starts = np.array([place == 0 for document in documents for place in range(len(document))], bool)
    return stream, starts


def some_documents(seed: int, count: int = 40) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, 1000, generator.integers(1, 30)).tolist() for _ in range(count)]


@pytest.mark.parametrize("length", [1, 2, 7, 16, 64, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_rows_are_those_of_a_loop_by_hand(length: int, seed: int) -> None:
    documents = some_documents(seed)
    expected = by_hand(documents, length)
    stream, starts = lay_out(documents)
    columns = packing.cut_rows(stream, starts, np.arange(len(expected)), length, PAD)
    for column, name in zip(columns, ("tokens", "segments", "positions"), strict=True):
        assert column.dtype == np.int32
        wanted = [row[("tokens", "segments", "positions").index(name)] for row in expected]
        np.testing.assert_array_equal(column, wanted, err_msg=name)


def test_rows_can_be_cut_in_any_order() -> None:
    stream, starts = lay_out(some_documents(2))
    order = np.array([3, 0, 5])
    every = packing.cut_rows(stream, starts, np.arange(-(-len(stream) // 16)), 16, PAD)
    some = packing.cut_rows(stream, starts, order, 16, PAD)
    for ours, all_rows in zip(some, every, strict=True):
        np.testing.assert_array_equal(ours, all_rows[order])


@pytest.mark.parametrize("seed", [None, 7])
def test_every_token_is_written_once(tmp_path: Path, seed: int | None) -> None:
    documents = some_documents(3, 300)
    stream, starts = lay_out(documents)
    told = list(packing.write_rows(tmp_path / "rows", stream, starts, length=32, pad_id=PAD, seed=seed))
    table = pa.ipc.open_file(pa.memory_map(str(tmp_path / "rows"))).read_all()
    num_rows = -(-len(stream) // 32)
    assert told[-1] == table.num_rows == num_rows
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


def test_more_rows_than_are_written_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WRITE_ROWS", 7)
    stream, starts = lay_out(some_documents(5, 100))
    told = list(packing.write_rows(tmp_path / "rows", stream, starts, length=16, pad_id=PAD, seed=1))
    num_rows = -(-len(stream) // 16)
    assert told == [*range(7, num_rows, 7), num_rows]
    reader = pa.ipc.open_file(str(tmp_path / "rows"))
    expected = packing.cut_rows(stream, starts, np.random.default_rng(1).permutation(num_rows), 16, PAD)
    np.testing.assert_array_equal(np.array(reader.read_all()["positions"].to_pylist()), expected[2])


def test_nothing_to_write_is_an_empty_file(tmp_path: Path) -> None:
    empty = np.zeros(0, np.int32)
    assert list(packing.write_rows(tmp_path / "rows", empty, empty.astype(bool), length=16, pad_id=PAD, seed=1)) == []
    assert pa.ipc.open_file(str(tmp_path / "rows")).read_all().num_rows == 0


@pytest.mark.parametrize(
    ("tokens", "shares", "max_repeats", "expected"),
    [
        ({"en": 800, "zh": 200}, None, 1, {"en": 1, "zh": 1}),
        ({"en": 800, "zh": 200}, {"en": 0.8, "zh": 0.2}, 1, {"en": 1, "zh": 1}),
        # half and half, each once at most: all of the smaller, as much of the larger
        ({"en": 800, "zh": 200}, {"en": 0.5, "zh": 0.5}, 1, {"en": 0.25, "zh": 1}),
        ({"en": 800, "zh": 200}, {"en": 0.5, "zh": 0.5}, 3, {"en": 0.75, "zh": 3}),
        ({"en": 800, "zh": 200}, {"en": 5, "zh": 5}, 3, {"en": 0.75, "zh": 3}),  # shares need not sum to 1
        ({"en": 800, "zh": 200}, {"en": 1}, 1, {"en": 1, "zh": 0}),
        ({"en": 800, "zh": 200}, {"en": 1, "zh": 0}, 2, {"en": 2, "zh": 0}),
        ({"en": 300}, {"en": 0.1}, 1, {"en": 1}),
    ],
)
def test_mixture_arithmetic(tokens, shares, max_repeats: float, expected) -> None:
    found = packing.mixture_counts(tokens, shares, max_repeats)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tokens", "least", "max_repeats", "expected"),
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
def test_a_small_language_is_lifted(tokens, least: float, max_repeats: float, expected) -> None:
    assert packing.lifted_counts(tokens, least, max_repeats) == pytest.approx(expected)


def test_a_mixture_has_its_shares_and_is_the_largest_that_has() -> None:
    tokens, shares = {"en": 12_345, "zh": 6_789, "de": 42_000}, {"en": 0.6, "zh": 0.3, "de": 0.1}
    repeats = packing.mixture_counts(tokens, shares, 2)
    used = {language: tokens[language] * repeats[language] for language in tokens}
    for language, share in shares.items():
        assert used[language] / sum(used.values()) == pytest.approx(share)
    assert max(repeats.values()) == pytest.approx(2)


@pytest.mark.parametrize("tokens", [{"en": 800}, {"en": 800, "zh": 0}])
def test_a_share_of_a_language_that_is_not_there_is_the_users_mistake(tokens: dict[str, int]) -> None:
    with pytest.raises(UserError, match="mixture: zh has a share, but the corpus holds no text in it; there is en"):
        packing.mixture_counts(tokens, {"en": 0.8, "zh": 0.2}, 1)


def test_documents_are_chosen_as_often_as_asked() -> None:
    languages = np.array(["en", "zh", "en", "zh", "en", "de"])
    chosen = packing.choose_documents(languages, {"en": 2 / 3, "zh": 2.5, "de": 0.0}, seed=1)
    times = np.bincount(chosen, minlength=6)
    assert times[languages == "en"].sum() == 2 and times[languages == "en"].max() == 1
    assert sorted(times[languages == "zh"]) == [2, 3]
    assert times[languages == "de"].sum() == 0
    np.testing.assert_array_equal(
        chosen, packing.choose_documents(languages, {"en": 2 / 3, "zh": 2.5, "de": 0.0}, seed=1)
    )


def test_all_documents_once_is_a_permutation_that_the_seed_decides() -> None:
    languages = np.array(["en"] * 60 + ["zh"] * 40)
    first, second = (packing.choose_documents(languages, {"en": 1.0, "zh": 1.0}, seed) for seed in (1, 2))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first.tolist() != second.tolist()


def test_no_documents_are_no_order() -> None:
    assert packing.choose_documents(np.zeros(0, dtype="U2"), {}, 1).tolist() == []


def some_pieces(seed: int, count: int, longest: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    generator = np.random.default_rng(seed)
    pieces = [generator.integers(1, 1000, generator.integers(1, longest + 1)).astype(np.int32) for _ in range(count)]
    return pieces, [generator.random(len(piece)) < 0.5 for piece in pieces]


def best_fit_by_hand(lengths: list[int], length: int) -> list[int]:
    """Tokens in each row: longest first, into the fullest row with room, found by looking at all."""
    rows: list[int] = []
    for size in sorted(lengths, reverse=True):
        fitting = [row for row in range(len(rows)) if rows[row] + size <= length]
        if fitting:
            rows[max(fitting, key=lambda row: rows[row])] += size
        else:
            rows.append(size)
    return rows


@pytest.mark.parametrize(("count", "longest"), [(0, 5), (1, 32), (300, 32), (300, 9), (50, 32)])
def test_best_fit_is_that_of_a_loop_by_hand(count: int, longest: int) -> None:
    lengths = np.random.default_rng(count).integers(1, longest + 1, count)
    rows = packing.best_fit(lengths, 32)
    assert sorted(number for row in rows for number in row) == list(range(count))
    assert sorted(int(lengths[row].sum()) for row in rows) == sorted(best_fit_by_hand(lengths.tolist(), 32))


def test_many_short_pieces_fill_their_rows() -> None:
    lengths = np.random.default_rng(0).geometric(1 / 40, 5000).clip(8, 256)
    rows = packing.best_fit(lengths, 256)
    assert lengths.sum() / (len(rows) * 256) > 0.99


def test_whole_pieces_lie_in_rows_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WRITE_ROWS", 7)
    pieces, learnt = some_pieces(1, 60, 16)
    told = list(packing.write_whole(tmp_path / "rows", pieces, learnt, length=16, pad_id=PAD, seed=3))
    table = pa.ipc.open_file(str(tmp_path / "rows")).read_all()
    columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    assert told[-1] == table.num_rows == len(columns["tokens"]) > 7
    found = []
    for row in range(table.num_rows):
        tokens, segments, positions, learn = (columns[n][row] for n in ("tokens", "segments", "positions", "learn"))
        assert (np.diff(segments[segments > 0]) >= 0).all() and segments[0] == 1
        assert not tokens[segments == 0].any() and not learn[segments == 0].any()
        for segment in range(1, segments.max() + 1):
            inside = segments == segment
            assert positions[inside].tolist() == list(range(inside.sum()))
            found.append((tokens[inside].tolist(), learn[inside].astype(bool).tolist()))
    assert sorted(found) == sorted((p.tolist(), m.tolist()) for p, m in zip(pieces, learnt, strict=True))


def test_whole_pieces_are_written_in_the_seeds_order(tmp_path: Path) -> None:
    pieces, learnt = some_pieces(2, 40, 16)
    written = []
    for number, seed in enumerate((5, 5, 6)):
        list(packing.write_whole(tmp_path / str(number), pieces, learnt, length=16, pad_id=PAD, seed=seed))
        written.append((tmp_path / str(number)).read_bytes())
    assert written[0] == written[1] != written[2]
