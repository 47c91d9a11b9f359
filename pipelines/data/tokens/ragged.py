"""Documents as token ids: a column of lists, read row by row without copying."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


class RaggedColumn:
    """A chunked column of lists read row by row without copying: documents as token ids."""

    def __init__(self, column: pa.ChunkedArray):
        self._values = [chunk.values.to_numpy() for chunk in column.chunks]
        self._offsets = [chunk.offsets.to_numpy() for chunk in column.chunks]
        self.lengths = np.concatenate([np.zeros(0, np.int64), *(np.diff(o) for o in self._offsets)])
        self._first = np.concatenate([[0], np.cumsum([len(o) - 1 for o in self._offsets])])

    def __getitem__(self, row: int) -> np.ndarray:
        chunk = int(np.searchsorted(self._first, row, side="right")) - 1
        inside = row - self._first[chunk]
        offsets = self._offsets[chunk]
        return self._values[chunk][offsets[inside] : offsets[inside + 1]]
