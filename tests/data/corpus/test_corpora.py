"""Reading a corpus as the corpus stage writes it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.corpus import corpora

DOCUMENTS = [(f"s:{i}", "s", f"group-{i % 5}", "zh" if i % 4 == 0 else "en", ("文" if i % 4 == 0 else "w") * (i + 1))
             for i in range(400)]  # fmt: skip
COLUMNS = ("id", "source", "group", "language", "text")


def write(folder: Path, split: str, sizes: list[int]) -> Path:
    """The documents as parts of these sizes."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    first = 0
    for number, size in enumerate(sizes):
        rows = DOCUMENTS[first : first + size]
        table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)})
        pq.write_table(table, folder / split / f"part-{number:05}.parquet", compression="zstd")
        first += size
    return folder


def test_parts_and_batches_come_in_order(tmp_path: Path) -> None:
    corpus = write(tmp_path, "train", [100] * 4)
    assert [p.name for p in corpora.parts(corpus, "train")] == [f"part-{n:05}.parquet" for n in range(4)]
    rows = [tuple(row.values()) for batch in corpora.batches(corpus, "train", COLUMNS) for row in batch.to_pylist()]
    assert rows == DOCUMENTS
    first = next(corpora.batches(corpus, "train"))
    assert first.schema.names == ["language", "text"]


def test_a_missing_split_is_empty(tmp_path: Path) -> None:
    assert corpora.parts(tmp_path, "held_out") == []
    assert list(corpora.batches(tmp_path, "held_out")) == []
