"""Fourth part of the stage: compares held-out text with all training text, and writes what is left of it.

    training text ──one task a span──► overlaps/<span>.arrow: held-out documents and lines that are in it, too
    held_out/<span>.parquet ──without overlaps──► out/held_out/part-*.parquet
                              └─what is left out──► overlaps/part-*.parquet, for rejected.parquet

Held-out text is small (held_out_bytes bounds it), so each task reads all of its signatures and lines, beside those of
the training text in its span.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.blocks import counts_of, deal, map_arrow, write_arrow
from pipelines.data.corpus import minhash, splitting
from pipelines.data.corpus.documents import DOCUMENTS, document_columns, utf8_bytes
from pipelines.parallel import make_files
from pipelines.stage import Work
from pipelines.stages.corpus.blocks import CleanedBlocks, fixed_size_bytes
from pipelines.stages.corpus.hold_out import TRAIN, Span, rows_with, write_parquet

OVERLAPS = pa.schema([("ids", pa.list_(pa.string())), ("lines", pa.list_(pa.uint64()))])
LEFT_OUT = pa.schema([*(DOCUMENTS.field(name) for name in ("id", "source", "text")), ("problem", pa.string())])
SIMILAR = "was held out, and a document of the training text is similar"
SHARED = "was held out, and too much of it stands in lines of the training text"
COMPARED_DOCUMENTS = 100_000  # of training text, compared at a time: 512 bytes of signature each


def decontaminate(work: Work, cleaned: CleanedBlocks, spans: Sequence[Span]) -> tuple[Counter[str], list[str]]:
    """Writes the held-out documents into work.draft.out, without those that are similar to training text, and without
    its long lines. Returns (counts: documents, bytes, both by language; dropped and lines, which were left out; files
    of the documents that were left out, as LEFT_OUT)."""
    held_out = [str(span.held_out) for span in spans]
    folder = work.draft.folder("overlaps")
    overlaps = [
        {"path": str(folder / f"{span.fates.stem}.arrow"), "fates": str(span.fates), "first": span.first,
         "stop": span.stop} for span in spans
    ]  # fmt: skip
    threshold = work.options.max_held_out_similarity
    make_files(
        work, compare, overlaps, unit="spans compared", files=cleaned.files, held_out=held_out, threshold=threshold
    )
    sizes = [(str(span.held_out), span.counts()["held_out_bytes"]) for span in spans]
    out = work.draft.out / "held_out"
    items = [
        {"path": str(out / (name := f"part-{number:05}.parquet")), "left_out": str(folder / name), "held_out": files}
        for number, files in enumerate(deal(sizes, work.options.part_bytes))
    ]
    paths = [item["path"] for item in overlaps]
    max_overlap = work.options.max_held_out_overlap
    make_files(work, write_held_out, items, unit="held-out files", overlaps=paths, max_overlap=max_overlap)
    counts: Counter[str] = Counter()
    for item in items:
        counts.update(counts_of(Path(item["path"])))
    return counts, [item["left_out"] for item in items]


def compare(item: dict[str, Any], *, files: Sequence[str], held_out: Sequence[str], threshold: float) -> None:
    """Writes OVERLAPS of the training text of a span with all held-out text. Runs in a task.

    item: {"path": of the overlaps, "fates": path, "first", "stop": the span's blocks}. held_out: files of all spans.
    threshold: Jaccard similarity from which on a held-out document is in training text, too."""
    columns = ["id", "signature", "long_lines"]
    table = pa.concat_tables([pq.read_table(file, columns=columns) for file in held_out]).combine_chunks()
    signatures_HP = _signatures(table.column("signature"))
    lines = np.unique(_flat(table.column("long_lines")))
    similar, shared = np.zeros(len(signatures_HP), np.bool_), np.zeros(len(lines), np.bool_)
    batch: list[np.ndarray] = []
    for block in range(item["first"], item["stop"]) if table.num_rows else ():
        rows = rows_with(TRAIN, Path(item["fates"]), block)
        signatures = map_arrow(Path(files[block]).with_suffix(".signatures.arrow")).column("signature")
        batch.append(fixed_size_bytes(signatures).view(np.uint32)[rows])
        if sum(map(len, batch)) >= COMPARED_DOCUMENTS or block == item["stop"] - 1:
            similar |= minhash.similar_to_any(signatures_HP, np.concatenate(batch), threshold)
            batch = []
        long_lines = pq.read_table(files[block], columns=["long_lines"]).column(0).take(pa.array(rows))
        shared |= splitting.is_in_sorted(lines, np.unique(_flat(long_lines)))
    ids = table.column("id").filter(pa.array(similar)).to_pylist()
    overlaps = [pa.array([ids], OVERLAPS.field("ids").type), pa.array([lines[shared]], OVERLAPS.field("lines").type)]
    write_arrow(pa.record_batch(overlaps, schema=OVERLAPS), Path(item["path"]))


def write_held_out(item: dict[str, Any], *, overlaps: Sequence[str], max_overlap: float) -> None:
    """Writes one file of held-out documents, without their overlaps with training text. Runs in a task.

    item: {"path": of the file, "left_out": that of the others, "held_out": those of its spans}. overlaps: files of all
    spans. max_overlap: fraction of a text in lines of training text beyond which it is left out."""
    batches = [map_arrow(Path(file)) for file in overlaps]
    similar = {id for batch in batches for id in batch.column("ids")[0].as_py()}
    shared = np.unique(np.concatenate([_flat(batch.column("lines")) for batch in batches]))
    table = pa.concat_tables([pq.read_table(file, columns=document_columns(file)) for file in item["held_out"]])
    texts: list[str | None] = []  # None: left out
    problems: list[str | None] = []  # None: not left out
    counts: Counter[str] = Counter()
    for id, text, language in zip(
        *(table.column(name).to_pylist() for name in ("id", "text", "language")), strict=True
    ):
        text, overlap, num_lines = splitting.remove_lines(text, shared)
        is_shared = overlap > max_overlap or not text
        problems.append(SIMILAR if id in similar else SHARED if is_shared else None)
        if problems[-1]:
            texts.append(None)
            counts["dropped"] += 1
            continue
        texts.append(text)
        counts["lines"] += num_lines
        for suffix in ("", f"_{language}"):
            counts.update({f"documents{suffix}": 1, f"bytes{suffix}": utf8_bytes(text)})
    columns = [*(table.column(name) for name in LEFT_OUT.names[:3]), pa.array(problems, pa.string())]
    left_out = pa.Table.from_arrays(columns, schema=LEFT_OUT)
    write_parquet(left_out.filter(pc.field("problem").is_valid()), Path(item["left_out"]))
    text_field = DOCUMENTS.get_field_index("text")
    table = table.set_column(text_field, DOCUMENTS.field(text_field), pa.array(texts, pa.string()))
    write_parquet(table.filter(pc.field("text").is_valid()), Path(item["path"]), counts)


def _signatures(column: pa.ChunkedArray) -> np.ndarray:
    """uint32[documents, permutations]"""
    return fixed_size_bytes(column.combine_chunks()).view(np.uint32)


def _flat(lists: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """uint64: the numbers of all lists, one after the other."""
    return pc.call_function("list_flatten", [lists]).to_numpy(zero_copy_only=False).astype(np.uint64)
