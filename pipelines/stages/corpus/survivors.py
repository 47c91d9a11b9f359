"""Which document was kept instead of each duplicate, for the rows that are not used: rejected.parquet names it.

    duplicates/* ──one task a span (hold_out.py)──► survivors/<span>.arrow ──the task of that file──► its columns

A duplicate takes 24 bytes, and none of its text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.blocks import map_arrow, write_arrow
from pipelines.data.corpus import duplicates
from pipelines.data.corpus.documents import SURVIVOR
from pipelines.stages.corpus.deduplicate import places_of, survivors_of

SURVIVORS = pa.schema([("document", pa.int64()), ("block", pa.int32()), ("part", pa.int32()), ("row", pa.int64())])


def write_survivors(path: Path, folder: Path, files: Sequence[str], first: int, stop: int) -> None:
    """Writes SURVIVORS: the duplicates in the blocks from `first` to before `stop`, with the places of the documents
    that are kept instead. Runs in a task.

    folder: that of `deduplicate`. files: those of all blocks."""
    documents, survivors = survivors_of(folder, first, stop)
    distinct, number_of = np.unique(survivors, return_inverse=True)
    parts, rows = places_of(files, distinct)
    columns = [documents, (survivors >> 32).astype(np.int32), parts[number_of], rows[number_of]]
    write_arrow(pa.record_batch(columns, schema=SURVIVORS), path)


def columns_of(survivors: Path, block: int, rows: np.ndarray, blocks: Sequence[Mapping[str, Any]]) -> list[pa.Array]:
    """The columns SURVIVOR of the duplicates in these rows of a block.

    survivors: the file of its span. blocks: of all blocks "source" and "places", where its parts are."""
    documents, *kept = (column.to_numpy() for column in map_arrow(survivors).columns)
    positions = np.searchsorted(documents, duplicates.document_numbers(block, rows))
    of_block, parts, of_row = (column[positions].tolist() for column in kept)
    sources = [blocks[number]["source"] for number in of_block]
    places = [blocks[number]["places"][str(part)] for number, part in zip(of_block, parts, strict=True)]
    return [pa.array(column, kind) for column, kind in zip((sources, places, of_row), SURVIVOR.types, strict=True)]
