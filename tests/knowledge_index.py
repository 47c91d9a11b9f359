"""Makes an index of documents as the stage knowledge does, in this process: for tests that look up in one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipelines.blocks import pack
from pipelines.data.knowledge.index import SUMMARY
from pipelines.data.sources import SOURCES
from pipelines.stages.knowledge import blocks, indexing


def make_index(folder: Path, documents: Mapping[str, str], *, embeddings: bool = False, words: int = 60) -> Path:
    """Writes documents (file name: Markdown) and returns the folder of their index."""
    (folder / "documents").mkdir(parents=True)
    for name, text in documents.items():
        (folder / "documents" / name).write_text(text, encoding="utf-8")
    source = SOURCES["text"].model_validate(
        {"kind": "text", "path": "documents", "rows": "documents", "language": "auto"}
    )
    source = source.at(folder)
    block, out = folder / "block.parquet", folder / "out"
    out.mkdir()
    item = {"path": str(block), "source": "documents", "parts": pack(source.each_part()), "kept": ""}
    blocks.cut_block(item, sources={"documents": source}, passage_words=words, overlap_words=15)
    embedded = [str(folder / "embedded.npy")] if embeddings else []
    for file in embedded:
        indexing.embed_passages({"path": file, "block": str(block), "begin": 0})
    indexing.write_index({"path": str(out / SUMMARY)}, blocks=[str(block)], embedded=embedded)
    return out
