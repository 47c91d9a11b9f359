"""Makes knowledge: documents that a served model answers from, as an index of their passages.

    sources ──parts──► blocks ──read, normalise, cut──► draft/blocks/*: passages and their terms      one task a block
    (embeddings: true: passages ──► draft/embeddings/*                               one task EMBEDDED_AT_ONCE passages)
    blocks ──► out/passages.arrow, out/bm25, out/embeddings.npy, out/rejected.jsonl, out/knowledge.json        one task

All in the draft is complete or absent, and named and read in the order of (source, part): a run that was killed goes
on, and any number of tasks writes the same bytes. Embeddings also stay in the store's cache, by their texts: documents
that come later cost no more than themselves. The driver has names and counts alone. Texts are kept as they are: orders
to a model in them are made harmless when a passage goes into a prompt (serve/gateway/knowledge.py).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipelines.stage import ClusterOptions, Facts, Options, RowLimit, Stage, Work

if TYPE_CHECKING:
    import numpy as np

    from pipelines.blocks import Block
    from pipelines.data.sources.source import Part, Row, Source

Document = tuple["Part", "Row", str]  # with its language, as its row or its source says
NOT_USED = "documents/not_used_"  # and the reason
WRITTEN_AT_ONCE = 2000  # passages of a row group in a block's file
EMBEDDED_AT_ONCE = 256  # passages of a task: a minute or two of work, which is what a kill costs
COUNTS = ("documents/read", "documents/used", "bytes/read", "rows/bad")
FIRST_BAD = "first_bad"


class KnowledgeOptions(Options):
    """Options of the stage `knowledge` that decide its result."""

    passage_words: int = Field(
        160,
        ge=20,
        le=2000,
        description="Maximum length of a passage, in words; of Chinese, 1.6 characters count as one. Several passages "
        "must fit into the model's context beside the question and the reply",
    )
    overlap_words: int = Field(
        30,
        ge=0,
        description="Maximum of the text that a passage repeats of the one before it, in words",
    )
    embeddings: bool = Field(
        False,
        description="Whether passages are also found by their meaning, in words other than theirs and in the other "
        "language. It costs about 0.4 s of a CPU core a passage, so it is for thousands of passages, not millions",
    )
    max_bad_rows: RowLimit | None = Field(
        None,
        description="Maximum number of documents that cannot be read (in rejected.jsonl) before the stage fails, or "
        "their share of each source's documents, such as 1%. Default: 100, and 5% of each source's (of few: 5, but at "
        "most half)",
    )

    def identity(self) -> dict[str, Any]:
        """The options, and the embedder where there are embeddings: those of another make another index."""
        if not self.embeddings:
            return super().identity()
        from pipelines.data.text.embeddings import embedder

        return {**super().identity(), "embedder": embedder()}

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> Self:
        if self.overlap_words > self.passage_words // 2:
            raise ValueError(f"overlap_words: {self.overlap_words} is more than half of passage_words, "
                             f"{self.passage_words}; expected at most {self.passage_words // 2}")  # fmt: skip
        return self


class KnowledgeCluster(ClusterOptions):
    """Resources of the stage `knowledge`, in the recipe's `cluster:` section."""

    tasks: PositiveInt | None = Field(
        default=None, description="Number of parallel tasks; default: this machine's cores, or the cluster's CPUs"
    )
    cpus_per_task: PositiveFloat = Field(default=1, description="Logical CPUs of a task")
    block_bytes: PositiveInt = Field(
        default=8_000_000, description="Approximate size of the text of a block, the work of one task, in bytes"
    )


def run(work: Work) -> Facts:
    """Writes the index into work.draft.out. Raises UserError for sources that cannot be read, too many bad
    documents, or no text at all."""
    from pipelines.blocks import json_of, plan
    from pipelines.data.knowledge import index
    from pipelines.data.sources.bad_rows import row_facts
    from pipelines.errors import UserError
    from pipelines.parallel import make_files, with_first_rows

    options: KnowledgeOptions = work.options
    if not work.sources:
        raise UserError(f"{work.name}: no documents; expected a source with rows: documents in the recipe")
    blocks = plan(work.sources, work.draft.folder("blocks"), work.cluster.block_bytes)
    missing = with_first_rows(work, blocks, [block for block in blocks if not block.file.exists()])
    numbered = {block.file: block for block in missing}
    items = [
        {"path": str(block.file), "source": block.source, "parts": json_of(numbered.get(block.file, block).parts)}
        for block in blocks
    ]
    lengths = {"passage_words": options.passage_words, "overlap_words": options.overlap_words}
    make_files(work, cut_block, items, unit="blocks", sources=dict(work.sources), **lengths)
    counts, num_passages = _check(work, blocks)
    if not num_passages:
        raise UserError(f"{work.name}: no passages; the {counts['documents/read']:,} documents hold no text")
    embedded = _embed(work, blocks) if options.embeddings else []
    files = {"blocks": [str(block.file) for block in blocks], "embedded": embedded}
    make_files(work, write_index, [{"path": str(work.draft.out / index.SUMMARY)}], unit="index", **files)
    summary = index.read_summary(work.draft.out)
    not_used = {name.removeprefix(NOT_USED): number for name, number in counts.items() if name.startswith(NOT_USED)}
    return {
        **row_facts(counts["documents/read"], not_used),
        **{name: counts[name] for name in COUNTS},
        **{f"{NOT_USED}{reason}": number for reason, number in sorted(not_used.items())},
        "passages/written": num_passages,
        "passages/terms": summary["terms_known"],
        "passages/embedded": num_passages if options.embeddings else 0,
    }


def _check(work: Work, blocks: list[Block]) -> tuple[Counter[str], int]:
    """(counts, number of passages) of all blocks. Raises UserError for too many bad documents."""
    import pyarrow.parquet as pq

    from pipelines.blocks import COUNTS as COUNTS_KEY
    from pipelines.data.sources.bad_rows import BadRowLimit

    counts: Counter[str] = Counter()
    num_passages = 0
    bad_rows = BadRowLimit(work.options.max_bad_rows, work.name)
    for block in blocks:
        metadata = pq.read_metadata(block.file)
        of_block = Counter(json.loads(metadata.metadata[COUNTS_KEY]))
        first = metadata.metadata[FIRST_BAD.encode()].decode()
        bad_rows.add(block.source, rows=of_block["documents/read"], bad=of_block["rows/bad"], first=first)
        counts.update(of_block)
        num_passages += metadata.num_rows
    bad_rows.check()
    return counts, num_passages


def cut_block(
    item: Mapping[str, str], *, sources: Mapping[str, Source], passage_words: int, overlap_words: int
) -> None:
    """Reads the documents of a block and writes their passages with their terms. Runs in a task."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.blocks import COUNTS as COUNTS_KEY
    from pipelines.blocks import AtomicFile
    from pipelines.data.knowledge.index import SCHEMA
    from pipelines.data.sources.bad_rows import UNREADABLE

    path, schema = Path(item["path"]), pa.schema([*SCHEMA, pa.field("terms", pa.list_(pa.string()))])
    counts: Counter[str] = Counter()
    rejected: list[dict[str, Any]] = []
    passages: list[dict[str, Any]] = []
    with AtomicFile(path) as file:
        with pq.ParquetWriter(file.temporary, schema, compression="zstd") as writer:
            for read in _documents(item, sources, counts, rejected):
                passages += _passages(item["source"], read, passage_words, overlap_words, counts, rejected)
                if len(passages) >= WRITTEN_AT_ONCE:
                    writer.write_table(pa.Table.from_pylist(passages, schema))
                    passages = []
            writer.write_table(pa.Table.from_pylist(passages, schema))
            counts.update(NOT_USED + row["reason"] for row in rejected)
            bad = [f"{row['where']}:{row['row']}: {row['problem']}" for row in rejected if row["reason"] == UNREADABLE]
            writer.add_key_value_metadata({COUNTS_KEY: json.dumps(counts), FIRST_BAD: bad[0] if bad else ""})
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected)
        path.with_suffix(".jsonl").write_text(lines, encoding="utf-8", errors="replace")
        file.publish()


def _documents(
    item: Mapping[str, str], sources: Mapping[str, Source], counts: Counter[str], rejected: list[dict[str, Any]]
) -> Iterator[Document]:
    """The documents of a block; those that cannot be read are set aside."""
    from pipelines.data.sources.bad_rows import UNREADABLE
    from pipelines.data.sources.source import BadRow, Part

    source = sources[item["source"]]
    for part in (Part.model_validate(part) for part in json.loads(item["parts"])):
        for row in source.read(part):
            counts["documents/read"] += 1
            if isinstance(row, BadRow):
                counts["rows/bad"] += 1
                rejected.append(_rejected(item["source"], part, row.row, UNREADABLE, row.problem, row.raw))
            else:
                yield part, row, row.language or source.language


def _rejected(source: str, part: Part, row: int, reason: str, problem: str, raw: str) -> dict[str, Any]:
    from pipelines.data.sources.files import RAW_CHARACTERS

    return {"source": source, "where": part.where, "row": row, "reason": reason, "problem": problem,
            "raw": raw[:RAW_CHARACTERS]}  # fmt: skip


def _passages(
    source: str, document: Document, max_words: int, overlap_words: int, counts: Counter[str],
    rejected: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The passages of a document, as rows of the index with their terms; one without any is set aside."""
    from pipelines.data.knowledge import passages
    from pipelines.data.knowledge.terms import terms
    from pipelines.data.sources.bad_rows import row_language
    from pipelines.data.text.normalise import normalise

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


def _embed(work: Work, blocks: list[Block]) -> list[str]:
    """Embeds all passages in tasks. Returns the files, in the passages' order."""
    import pyarrow.parquet as pq

    from pipelines.data.text.embeddings import embedder
    from pipelines.parallel import make_files

    folder = work.draft.folder("embeddings")
    items = []
    for block in blocks:
        for begin in range(0, pq.read_metadata(block.file).num_rows, EMBEDDED_AT_ONCE):
            path = folder / f"{block.file.stem}.{begin:09}.npy"
            items.append({"path": str(path), "block": str(block.file), "begin": begin})
    kept = "" if work.cache is None else str(work.cache / "embeddings" / quote(embedder(), safe=""))
    make_files(work, embed_passages, items, unit=f"× {EMBEDDED_AT_ONCE} passages embedded", kept=kept)
    return [str(item["path"]) for item in items]


def embed_passages(item: Mapping[str, Any], *, kept: str = "") -> None:
    """Writes the embeddings of some passages of a block: float32[passages, 384]. Runs in a task.

    kept: a folder with embeddings of earlier runs, by digests of the texts: those are not computed again, and new ones
    are added in a file. Default: none."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.blocks import AtomicFile, write_arrow
    from pipelines.data.text.embeddings import DIMENSIONS, embed

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
    import pyarrow as pa

    from pipelines.blocks import map_arrow

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
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.blocks import AtomicFile
    from pipelines.data.knowledge import index, terms
    from pipelines.data.sources.bad_rows import REJECTED
    from pipelines.data.text.embeddings import embedder

    out = Path(item["path"]).parent
    tables = [pq.read_table(block) for block in blocks]
    passages = pa.concat_tables([table.select(index.SCHEMA.names) for table in tables]).combine_chunks()
    with pa.OSFile(str(out / index.PASSAGES), "wb") as sink, pa.ipc.new_file(sink, index.SCHEMA) as writer:
        writer.write_table(passages.replace_schema_metadata(None))
    of_passages = pa.chunked_array([chunk for table in tables for chunk in table.column("terms").chunks])
    num_terms = index.write_keywords(out / index.KEYWORDS, of_passages)
    if embedded:
        np.save(out / index.EMBEDDINGS, np.concatenate([np.load(file) for file in embedded]))
    with (out / REJECTED).open("w", encoding="utf-8") as rejected:
        for block in blocks:
            rejected.write(Path(block).with_suffix(".jsonl").read_text(encoding="utf-8"))
    summary = {"format": index.FORMAT, "terms": terms.VERSION, "embedder": embedder() if embedded else None,
               "passages": passages.num_rows, "terms_known": num_terms}  # fmt: skip
    with AtomicFile(Path(item["path"])) as file:
        file.temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        file.publish()


STAGE = Stage(
    kind="knowledge",
    version=2,
    makes="knowledge",
    options=KnowledgeOptions,
    cluster=KnowledgeCluster,
    run=run,
    rows="documents",
)
