"""First half of the stage: each block of the sources is read by one task, which cuts its documents into passages."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.blocks import COUNTS as COUNTS_KEY
from pipelines.blocks import AtomicFile, Block, plan, unpack
from pipelines.data.knowledge import passages
from pipelines.data.knowledge.index import SCHEMA
from pipelines.data.knowledge.terms import terms
from pipelines.data.sources.bad_rows import UNREADABLE, BadRowLimit, row_language
from pipelines.data.sources.files import RAW_CHARACTERS
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.data.text.normalise import normalise
from pipelines.parallel import make_files, note_compressed, with_first_rows
from pipelines.stage import Work
from pipelines.store.digests import FileDigests, digest_value
from pipelines.store.provenance import code_digest

Document = tuple[Part, Row, str]  # with its language, as its row or its source says
NOT_USED = "documents/not_used_"  # and the reason
WRITTEN_AT_ONCE = 2000  # passages of a row group in a block's file
UNUSED_S = 30 * 24 * 3600.0
COUNTS = ("documents/read", "documents/used", "bytes/read", "rows/bad")
FIRST_BAD = "first_bad"
BLOCK = pa.schema([*SCHEMA, pa.field("terms", pa.list_(pa.string()))])


def cut(work: Work) -> list[Block]:
    """Makes the blocks that are not in the draft yet. Returns all, in the order of their rows."""
    blocks = plan(work.sources, work.draft.folder("blocks"), work.cluster.block_bytes, by_name=True)
    missing = with_first_rows(work, blocks, [block for block in blocks if not block.file.exists()])
    numbered = {block.file: block for block in missing}
    kept = kept_files(work, missing)
    not_kept = [block for block in missing if block.file not in kept or not kept[block.file].exists()]
    note_compressed(work, not_kept)
    if kept:
        use(next(iter(kept.values())).parent)
    items = [
        {"path": str(block.file), "source": block.source, "parts": numbered.get(block.file, block).packed,
         "kept": str(kept.get(block.file, ""))}
        for block in blocks
    ]  # fmt: skip
    lengths = {"passage_words": work.options.passage_words, "overlap_words": work.options.overlap_words}
    make_files(work, cut_block, items, unit="blocks", sources=dict(work.sources), **lengths)
    return blocks


def use(folder: Path) -> None:
    """Makes the folder of kept blocks where it is not there, and deletes those beside it that no run used for UNUSED_S:
    they are of other options, code or packages."""
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    for other in folder.parent.iterdir():
        with suppress(FileNotFoundError):  # another run deletes it, too
            if time.time() - other.stat().st_mtime > UNUSED_S:
                shutil.rmtree(other, ignore_errors=True)


def kept_files(work: Work, blocks: Sequence[Block]) -> dict[Path, Path]:
    """The file in the store's cache that keeps a block for later runs, for each that is made from files alone.

    Its name stands for all that decides the rows: the bytes of the files and what is read of them, the options, the
    stage's code, Python's version and the packages installed."""
    files = sorted({Path(part.args["file"]) for block in blocks for part in block.parts if "file" in part.args})
    if work.cache is None or not files:
        return {}
    digests = dict(zip(map(str, files), FileDigests.of_cache(work.cache).of_all(files), strict=True))
    packages = sorted(f"{each.name} {each.version}" for each in metadata.distributions())
    lengths = [work.options.passage_words, work.options.overlap_words]
    code = [code_digest("pipelines.stages.knowledge"), platform.python_version(), packages]
    folder = work.cache / "passages" / digest_value([*code, lengths])
    kept: dict[Path, Path] = {}
    for block in blocks:
        if all("file" in part.args for part in block.parts):
            source = work.sources[block.source].model_dump(exclude={"path"})
            parts = [{**_without_index(part), "args": {**part.args, "file": digests[part.args["file"]]}}
                     for part in block.parts]  # fmt: skip
            kept[block.file] = folder / f"{digest_value([block.source, source, parts])}.parquet"
    return kept


def _without_index(part: Part) -> dict[str, Any]:
    return {name: value for name, value in asdict(part).items() if name != "index"}


def check(work: Work, blocks: list[Block]) -> tuple[Counter[str], int]:
    """(counts, number of passages) of all blocks. Raises UserError for too many bad documents."""
    counts: Counter[str] = Counter()
    num_passages = 0
    bad_rows = BadRowLimit(work.options.max_bad_rows, work.name)
    for block in blocks:
        footer = pq.read_metadata(block.file)
        of_block = Counter(json.loads(footer.metadata[COUNTS_KEY]))
        first = footer.metadata[FIRST_BAD.encode()].decode()
        bad_rows.add(block.source, rows=of_block["documents/read"], bad=of_block["rows/bad"], first=first)
        counts.update(of_block)
        num_passages += footer.num_rows
    bad_rows.check()
    return counts, num_passages


def cut_block(
    item: Mapping[str, Any], *, sources: Mapping[str, Source], passage_words: int, overlap_words: int
) -> None:
    """Reads the documents of a block and writes their passages with their terms. Runs in a task.

    item["kept"]: the block's file in the cache, which is copied where an earlier run wrote it; empty for none."""
    lengths = {"max_words": passage_words, "overlap_words": overlap_words}
    path, kept = Path(item["path"]), Path(item["kept"])
    if not item["kept"]:
        return _write_block(path, item, sources, **lengths)
    if (contents := _read_kept(kept)) is None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        _write_block(kept, item, sources, **lengths)
        contents = kept.with_suffix(".jsonl").read_bytes(), kept.read_bytes()
    for suffix, content in zip((".jsonl", ".parquet"), contents, strict=True):  # the last one: the block is complete
        with AtomicFile(path.with_suffix(suffix)) as file:
            file.temporary.write_bytes(content)
            file.publish()


def _read_kept(path: Path) -> tuple[bytes, bytes] | None:
    """(rejected.jsonl, Parquet) of a block that an earlier run kept; None where it is missing or damaged."""
    try:
        contents = path.with_suffix(".jsonl").read_bytes(), path.read_bytes()
        pq.read_table(pa.BufferReader(contents[1]), page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return None
    return contents


def _write_block(
    path: Path, item: Mapping[str, Any], sources: Mapping[str, Source], *, max_words: int, overlap_words: int
) -> None:
    counts: Counter[str] = Counter()
    rejected: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    with AtomicFile(path) as file:
        with pq.ParquetWriter(file.temporary, BLOCK, compression="zstd", write_page_checksum=True) as writer:
            for read in _documents(item, sources, counts, rejected):
                rows += _passages(item["source"], read, max_words, overlap_words, counts, rejected)
                if len(rows) >= WRITTEN_AT_ONCE:
                    writer.write_table(pa.Table.from_pylist(rows, BLOCK))
                    rows = []
            writer.write_table(pa.Table.from_pylist(rows, BLOCK))
            counts.update(NOT_USED + row["reason"] for row in rejected)
            bad = [f"{row['where']}:{row['row']}: {row['problem']}" for row in rejected if row["reason"] == UNREADABLE]
            writer.add_key_value_metadata({COUNTS_KEY: json.dumps(counts), FIRST_BAD: bad[0] if bad else ""})
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected)
        with AtomicFile(path.with_suffix(".jsonl")) as lines_file:
            lines_file.temporary.write_text(lines, encoding="utf-8", errors="replace")
            lines_file.publish()
        file.publish()


def _documents(
    item: Mapping[str, Any], sources: Mapping[str, Source], counts: Counter[str], rejected: list[dict[str, Any]]
) -> Iterator[Document]:
    """The documents of a block; those that cannot be read are set aside."""
    source = sources[item["source"]]
    for part in unpack(item["parts"]):
        for row in source.read(part):
            counts["documents/read"] += 1
            if isinstance(row, BadRow):
                counts["rows/bad"] += row.reason == ""
                reason = row.reason or UNREADABLE
                rejected.append(_rejected(item["source"], part, row.row, reason, row.problem, row.raw))
            else:
                yield part, row, row.language or source.language


def _rejected(source: str, part: Part, row: int, reason: str, problem: str, raw: str) -> dict[str, Any]:
    return {"source": source, "where": part.where, "row": row, "reason": reason, "problem": problem,
            "raw": raw[:RAW_CHARACTERS]}  # fmt: skip


def _passages(
    source: str, document: Document, max_words: int, overlap_words: int, counts: Counter[str],
    rejected: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The passages of a document, as rows of the index with their terms; one without any is set aside."""
    part, row, language = document
    text = normalise(row.text)
    language = row_language(text, language) if language in ("en", "zh", "auto") else language
    counts["bytes/read"] += len(text.encode(errors="replace"))
    number = 0
    for number, passage in enumerate(passages.split(text, max_words=max_words, overlap_words=overlap_words), 1):
        yield {
            "id": f"{part.where}:{row.row}#{number}", "source": source, "where": part.where, "row": row.row,
            "heading": passage.heading, "begin": passage.begin, "language": language, "text": passage.text,
            "terms": terms(passage.searched),
        }  # fmt: skip
    if number:
        counts["documents/used"] += 1
    else:
        rejected.append(_rejected(source, part, row.row, "empty", "no text beside headings; expected text", text))
