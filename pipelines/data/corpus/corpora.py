"""Reads a corpus artifact: Parquet parts of documents with the columns id, source, group, language, text.

Streams record batches; never holds a whole corpus in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

SPLITS = ("train", "held_out")


def parts(corpus: Path, split: str) -> list[Path]:
    """Lists the Parquet parts of a split, in order."""
    return sorted((corpus / split).glob("*.parquet"))


def batches(corpus: Path, split: str, columns: Sequence[str] = ("language", "text")) -> Iterator[pa.RecordBatch]:
    """Yields record batches of a split in document order."""
    for part in parts(corpus, split):
        yield from pq.ParquetFile(part).iter_batches(columns=list(columns), batch_size=4096)


def bytes_by_language(corpus: Path, split: str) -> dict[str, int]:
    """Counts the UTF-8 bytes of text of each language."""
    sizes: dict[str, int] = {}
    for batch in batches(corpus, split):
        lengths = pc.call_function("binary_length", [batch.column("text")])
        table = pa.table({"language": batch.column("language"), "bytes": lengths})
        for row in table.group_by("language").aggregate([("bytes", "sum")]).to_pylist():
            sizes[row["language"]] = sizes.get(row["language"], 0) + row["bytes_sum"]
    return dict(sorted(sizes.items()))


def sample(corpus: Path, split: str, repeats: Mapping[str, float], seed: int) -> Iterator[str]:
    """Yields texts of a split in document order, as often as `repeats` says for their language.

    0.3 selects the 30% of documents whose seeded hash is lowest; 2.5 yields each twice and half of them a third time.
    Independent of how the corpus is divided into parts."""
    for batch in batches(corpus, split, ("id", "language", "text")):
        rows = zip(*(batch.column(name).to_pylist() for name in ("id", "language", "text")), strict=True)
        for document_id, language, text in rows:
            times, fraction = divmod(repeats.get(language, 0.0), 1.0)
            once_more = xxhash.xxh3_64_intdigest(document_id.encode(), seed) / 2**64 < fraction
            for _ in range(int(times) + once_more):
                yield text
