"""Second half of the stage: the passages of all blocks are embedded, where the recipe says so, and indexed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.blocks import AtomicFile, Block, map_arrow, write_arrow
from pipelines.data.knowledge import index, terms
from pipelines.data.sources.bad_rows import REJECTED
from pipelines.data.text.embeddings import DIMENSIONS, embed, embedder
from pipelines.parallel import make_files
from pipelines.stage import Work

EMBEDDED_AT_ONCE = 256  # passages of a task: a minute or two of work, which is what a kill costs


def write(work: Work, blocks: list[Block]) -> None:
    """Writes the index of all blocks into work.draft.out."""
    embedded = _embed(work, blocks) if work.options.embeddings else []
    files = {"blocks": [str(block.file) for block in blocks], "embedded": embedded}
    make_files(work, write_index, [{"path": str(work.draft.out / index.SUMMARY)}], unit="index", **files)


def _embed(work: Work, blocks: list[Block]) -> list[str]:
    """Embeds all passages in tasks. Returns the files, in the passages' order."""
    folder = work.draft.folder("embeddings")
    items = []
    for block in blocks:
        for begin in range(0, pq.read_metadata(block.file).num_rows, EMBEDDED_AT_ONCE):
            path = folder / f"{block.file.stem}.{begin:09}.npy"
            items.append({"path": str(path), "block": str(block.file), "begin": begin})
    kept = "" if work.cache is None else str(work.cache / "embeddings" / quote(embedder(), safe=""))
    make_files(work, embed_passages, items, unit=f"embeddings of {EMBEDDED_AT_ONCE} passages", kept=kept)
    return [str(item["path"]) for item in items]


def embed_passages(item: Mapping[str, Any], *, kept: str = "") -> None:
    """Writes the embeddings of some passages of a block: float32[passages, 384]. Runs in a task.

    kept: a folder with embeddings of earlier runs, by digests of the texts: those are not computed again, and new ones
    are added in a file. Default: none."""
    table = pq.read_table(item["block"], columns=["heading", "text"]).slice(item["begin"], EMBEDDED_AT_ONCE)
    texts = [f"{row['heading']}\n{row['text']}".strip() for row in table.to_pylist()]
    digests = [hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest() for text in texts]
    vectors = np.empty((len(texts), DIMENSIONS), np.float32)
    missing = np.array(_fill(vectors, digests, kept), np.int64)
    if len(missing):
        vectors[missing] = embed([texts[number] for number in missing], role="passage")
    if len(missing) and kept:
        new = b"".join(digests[number] for number in missing)
        Path(kept).mkdir(parents=True, exist_ok=True)
        columns = {"digest": [digests[number] for number in missing], "vector": list(vectors[missing])}
        write_arrow(pa.RecordBatch.from_pydict(columns), Path(kept) / f"{hashlib.sha256(new).hexdigest()}.arrow")
    with AtomicFile(Path(item["path"])) as file:
        with file.temporary.open("wb") as output:
            np.save(output, vectors)
        file.publish()


def _fill(vectors: np.ndarray, digests: list[bytes], kept: str) -> list[int]:
    """Fills in the rows of vectors whose texts' digests earlier runs kept; returns the numbers of the others."""
    missing: dict[bytes, list[int]] = {}
    for number, digest in enumerate(digests):
        missing.setdefault(digest, []).append(number)
    for file in Path(kept).glob("*.arrow") if kept else ():
        if not missing:
            break
        try:
            batch = map_arrow(file)
        except (OSError, pa.ArrowInvalid):  # damaged, or just deleted: its texts are embedded again
            file.unlink(missing_ok=True)
            continue
        for row, digest in enumerate(batch.column("digest").to_pylist()):
            for number in missing.pop(digest, ()):
                vectors[number] = batch.column("vector")[row].values.to_numpy()
    return sorted(number for numbers in missing.values() for number in numbers)


def write_index(item: Mapping[str, str], *, blocks: list[str], embedded: list[str]) -> None:
    """Writes all files of the index, knowledge.json last. Runs in a task, which holds all passages once."""
    out = Path(item["path"]).parent
    tables = [pq.read_table(block, columns=index.SCHEMA.names) for block in blocks]
    passages = pa.concat_tables(tables).combine_chunks().replace_schema_metadata(None)
    num_passages = passages.num_rows
    with pa.OSFile(str(out / index.PASSAGES), "wb") as sink, pa.ipc.new_file(sink, index.SCHEMA) as writer:
        writer.write_table(passages)
    del tables, passages  # before the terms: they take more memory than the texts
    of_passages = pa.concat_tables(_terms(Path(block)) for block in blocks).column("terms")
    num_terms = index.write_keywords(out / index.KEYWORDS, of_passages)
    if embedded:
        np.save(out / index.EMBEDDINGS, np.concatenate([np.load(file) for file in embedded]))
    with (out / REJECTED).open("w", encoding="utf-8") as rejected:
        for block in blocks:
            rejected.write(Path(block).with_suffix(".jsonl").read_text(encoding="utf-8"))
    summary = {"format": index.FORMAT, "terms": terms.VERSION, "embedder": embedder() if embedded else None,
               "passages": num_passages, "terms_known": num_terms}  # fmt: skip
    with AtomicFile(Path(item["path"])) as file:
        file.temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        file.publish()


def _terms(block: Path) -> pa.Table:
    """The terms of a block's passages, as numbers in a dictionary: one copy of each term, not one for each place."""
    return pq.read_table(block, columns=["terms"], read_dictionary=["terms.list.element"])
