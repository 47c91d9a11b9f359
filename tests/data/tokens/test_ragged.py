"""Rows of a chunked column of lists."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.tokens.ragged import RaggedColumn


@pytest.mark.parametrize("sizes", [[5], [2, 3], [0, 4, 0, 1], [1, 1, 1, 1, 1]])
def test_rows_equal_the_lists_of_the_column(sizes: list[int]) -> None:
    lists = [[1, 2, 3], [], [4], [5, 6], []]
    chunks, first = [], 0
    for size in sizes:
        chunks.append(pa.array(lists[first : first + size], pa.large_list(pa.int32())))
        first += size
    column = RaggedColumn(pa.chunked_array(chunks))
    assert column.lengths.tolist() == [3, 0, 1, 2, 0]
    assert [column[row].tolist() for row in range(5)] == lists


def test_a_slice_of_a_column_has_only_its_rows() -> None:
    whole = pa.array([[1, 2], [3], [4, 5, 6], [7]], pa.large_list(pa.int32()))
    column = RaggedColumn(pa.chunked_array([whole.slice(1, 2), whole.slice(3)]))
    assert column.lengths.tolist() == [1, 3, 1]
    assert [column[row].tolist() for row in range(3)] == [[3], [4, 5, 6], [7]]


def test_a_column_without_chunks_has_no_rows() -> None:
    column = RaggedColumn(pa.chunked_array([], pa.large_list(pa.int32())))
    assert column.lengths.tolist() == []
    assert column.lengths.dtype == np.int64
