"""The data card of the corpus: data_card.json, for `rayse report` and `rayse inspect --card`.

    out/train/*, out/held_out/* ──one task a file──► data_card/<split>/*.json: summaries
    out/rejected.parquet, where it is written (finish.py) ──► data_card/rejected.json: its summary
    summaries, the largest clusters ──one task──► out/data_card.json

All of it is made of what files of the artifact have, so its texts are those that are there: without the personal data
that the recipe replaces.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.blocks import AtomicFile, counts_of, map_arrow
from pipelines.data.corpus import corpora, data_card, group_counts
from pipelines.parallel import make_files
from pipelines.stage import Work
from pipelines.stages.corpus.blocks import CleanedBlocks
from pipelines.stages.corpus.deduplicate import CLUSTERS

FILE = "data_card.json"
BATCH_DOCUMENTS = 1024  # read at a time
NO_DOCUMENTS: data_card.Summary = {"documents": {}, "languages": {}, "histograms": {}, "kept": {}, "dropped": {}}


def write_data_card(work: Work, cleaned: CleanedBlocks, duplicates: Path) -> None:
    """Writes the data card of the files in work.draft.out. duplicates: the folder of `deduplicate`."""
    parts = [(split, part) for split in corpora.SPLITS for part in corpora.parts(work.draft.out, split)]
    edges = _edges([part for _, part in parts])
    items = [
        {"path": str(work.draft.path / "data_card" / split / f"{part.stem}.json"), "part": str(part), "split": split}
        for split, part in parts
    ]
    make_files(work, summarise_part, items, unit="files summarised", edges=edges, seed=work.seed)
    make_files(
        work,
        write_file,
        [{"path": str(work.draft.out / FILE)}],
        unit="data card",
        summaries=[str(rejected_summary(work)), *(item["path"] for item in items)],
        blocks=[(block.source, str(block.file)) for block in cleaned.blocks],
        clusters=str(duplicates / CLUSTERS),
        edges=edges,
        groups=group_counts.table(group_counts.shares(cleaned.counts)),
    )


def rejected_summary(work: Work) -> Path:
    """The file of the summary of the rows that are not used."""
    return work.draft.folder("data_card") / "rejected.json"


def write_summary(summary: data_card.Summary, path: Path) -> None:
    """Writes a summary, complete or absent."""
    _write(json.dumps(summary).encode(), path)


def _edges(parts: Sequence[Path]) -> dict[str, list[float]]:
    """The bins of each histogram: those of scores go from the lowest to the highest in the files' footers."""
    edges = {data_card.LENGTH: data_card.LENGTH_EDGES}
    for name in data_card.score_columns(pq.read_schema(parts[0])):
        if limits := [limits for part in parts for limits in _limits(part, name)]:
            edges[name] = data_card.bin_edges(min(low for low, _ in limits), max(high for _, high in limits))
    return edges


def _limits(part: Path, column: str) -> Iterator[tuple[float, float]]:
    """Yields the lowest and the highest value of a column in each row group, by the file's footer."""
    footer = pq.read_metadata(part)
    number = [footer.schema.column(number).path for number in range(footer.num_columns)].index(column)
    for group in range(footer.num_row_groups):
        statistics = footer.row_group(group).column(number).statistics
        if statistics is not None and statistics.has_min_max:
            yield statistics.min, statistics.max


def summarise_part(item: dict[str, Any], *, edges: dict[str, list[float]], seed: int) -> None:
    """Summarises a file of documents. Runs in a task. item: {"path": of the summary, "part": file, "split": name}."""
    columns = ["id", "source", "language", "text", *(name for name in edges if name != data_card.LENGTH)]
    with pq.ParquetFile(item["part"]) as part:
        batches = part.iter_batches(BATCH_DOCUMENTS, columns=columns, use_threads=False)
        summary = data_card.summarise(batches, item["split"], edges=edges, seed=seed)
    write_summary(summary, Path(item["path"]))


def write_file(
    item: dict[str, Any],
    *,
    summaries: Sequence[str],
    blocks: Sequence[tuple[str, str]],
    clusters: str,
    edges: dict[str, list[float]],
    groups: dict[str, dict[str, Any]],
) -> None:
    """Writes the card. Runs in a task. blocks: (source, file) of each; clusters: file of the largest ones; groups: of
    people, each with what became of the documents that mention it."""
    summary = reduce(data_card.merged, (json.loads(Path(file).read_bytes()) for file in summaries))
    read = Counter[str]()
    for source, file in blocks:
        counts = counts_of(Path(file))
        read[source] += counts["documents/read"] + counts["rows/bad"]
    members = _members(map_arrow(Path(clusters)).to_pylist(), [file for _, file in blocks])
    card = data_card.data_card({**NO_DOCUMENTS, **summary}, read=read, edges=edges, clusters=members, groups=groups)
    _write(card, Path(item["path"]))


def _members(clusters: Sequence[dict[str, Any]], files: Sequence[str]) -> list[dict[str, Any]]:
    """The clusters with the ids and texts of their first members, of which the first is the one that is kept."""
    numbers = [(cluster["kept"], *cluster["dropped"]) for cluster in clusters]
    documents = _documents(files, sorted({number for members in numbers for number in members}))
    return [
        {"documents": 1 + cluster["num_dropped"], "members": [documents[number] for number in members]}
        for cluster, members in zip(clusters, numbers, strict=True)
    ]


def _documents(files: Sequence[str], numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The ids and texts of documents by their numbers, which are sorted: the upper half of one is the block, the lower
    half the row. Reads each row group once, and holds one at a time."""
    documents: dict[int, dict[str, Any]] = {}
    for block, of_block in groupby(numbers, key=lambda number: number >> 32):
        left = list(of_block)
        with pq.ParquetFile(files[block]) as file:
            stop = block << 32
            for group in range(file.num_row_groups):
                first, stop = stop, stop + file.metadata.row_group(group).num_rows
                if chosen := [number for number in left if first <= number < stop]:
                    table: pa.Table = file.read_row_group(group, columns=["id", "text"], use_threads=False)
                    for number in chosen:
                        documents[number] = table.slice(number - first, 1).to_pylist()[0]
    return documents


def _write(content: bytes, path: Path) -> None:
    with AtomicFile(path) as file:
        file.temporary.write_bytes(content)
        file.publish()
