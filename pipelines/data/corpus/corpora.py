"""Reading a corpus artifact: Parquet parts of documents with the columns id, source, group, language, text.

Streams record batches; never holds a whole corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

SPLITS = ("train", "held_out")


def parts(corpus: Path, split: str) -> list[Path]:
    """The Parquet parts of a split, in order."""
    return sorted((corpus / split).glob("*.parquet"))


def batches(corpus: Path, split: str, columns: Sequence[str] = ("language", "text")) -> Iterator[pa.RecordBatch]:
    """Record batches of a split in document order."""
    for part in parts(corpus, split):
        yield from pq.ParquetFile(part).iter_batches(columns=list(columns), batch_size=4096)


def bytes_by_language(corpus: Path, split: str) -> dict[str, int]:
    """UTF-8 bytes of text of each language."""
    sizes: dict[str, int] = {}
    for batch in batches(corpus, split):
        lengths = pc.call_function("binary_length", [batch.column("text")])
        table = pa.table({"language": batch.column("language"), "bytes": lengths})
        for row in table.group_by("language").aggregate([("bytes", "sum")]).to_pylist():
            sizes[row["language"]] = sizes.get(row["language"], 0) + row["bytes_sum"]
    return dict(sorted(sizes.items()))


def sampled(corpus: Path, split: str, shares: dict[str, float], seed: int) -> Iterator[str]:
    """Texts of a split in document order, each language at its share.

    A share of 0.3 takes the 30% of documents whose seeded hash is lowest; 2.5 gives each twice and half of them a
    third time. Independent of how the corpus is cut into parts."""
    for batch in batches(corpus, split, ("id", "language", "text")):
        rows = zip(*(batch.column(name).to_pylist() for name in ("id", "language", "text")), strict=True)
        for name, language, text in rows:
            whole, part = divmod(shares.get(language, 0.0), 1.0)
            times = int(whole) + (xxhash.xxh3_64_intdigest(name.encode(), seed) / 2**64 < part)
            for _ in range(times):
                yield text
