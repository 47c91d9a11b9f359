"""A column of lists of token ids, read row by row without copying."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


class RaggedColumn:
    """The rows of a chunked Arrow column of lists, as views of its buffers. lengths: int64[rows]."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._values = [chunk.values.to_numpy() for chunk in column.chunks]
        self._offsets = [chunk.offsets.to_numpy() for chunk in column.chunks]
        self.lengths = np.concatenate([np.zeros(0, np.int64), *(np.diff(offsets) for offsets in self._offsets)])
        self._chunk_starts = np.concatenate([[0], np.cumsum([len(offsets) - 1 for offsets in self._offsets])])

    def __getitem__(self, row: int) -> np.ndarray:
        chunk = int(np.searchsorted(self._chunk_starts, row, side="right")) - 1
        row_in_chunk = row - self._chunk_starts[chunk]
        offsets = self._offsets[chunk]
        return self._values[chunk][offsets[row_in_chunk] : offsets[row_in_chunk + 1]]
