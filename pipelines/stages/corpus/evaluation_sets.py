"""Evaluation sets that the corpus must not have: read by one task, before the blocks are cleaned.

sources of evaluation sets, held-out conversations ──one task──► checks/evaluation_sets.arrow: their runs of words
<block>.contaminated.parquet: overlaps of a block's documents ──one task──► out/contaminated.parquet
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.blocks import COUNTS, AtomicFile, map_arrow, pack, unpack, write_arrow
from pipelines.data.corpus import contamination
from pipelines.data.corpus.contamination import AREA, OVERLAPS, EvaluationRow, EvaluationSets, ngram_index, texts_of
from pipelines.data.sources.source import BadRow, Source
from pipelines.errors import UserError
from pipelines.parallel import make_files
from pipelines.stage import Facts, Work

HELD_OUT_PROMPTS = "held_out_prompts"  # the name of the recipe's held-out conversations as a set


def write_index(work: Work) -> Path:
    """Writes the index of the recipe's evaluation sets and returns its file.

    Raises UserError for a set that is training text, too, and for a row that cannot be read."""
    contamination.warm_up()
    path = work.draft.folder("checks") / "evaluation_sets.arrow"
    options = work.options.decontaminate
    for name in options.sets:
        if name in work.sources:
            others = ", ".join(other for other in work.sources if other not in options.sets) or "…"
            raise UserError(
                f"{work.name}.decontaminate.sets: {name} is training text of this stage, too; expected an evaluation "
                f"set. Name the training text alone, `sources: [{others}]`, or give {name} `rows: prompts`"
            )
    sets = {name: work.references[name] for name in options.sets}
    parts = {name: pack(source.each_part()) for name, source in sets.items()}
    conversations = str(work.inputs["conversations"].local()) if options.held_out_prompts else ""
    make_files(
        work,
        index_sets,
        [{"path": str(path)}],
        unit="index of evaluation sets",
        sets=sets,
        parts=parts,
        conversations=conversations,
        ngram_words=options.ngram_words,
    )
    return path


def index_sets(
    item: dict[str, Any],
    *,
    sets: Mapping[str, Source],
    parts: Mapping[str, bytes],
    conversations: str,
    ngram_words: int,
) -> None:
    """Writes the INDEX of evaluation sets, with counts in its metadata. Runs in a task.

    parts: of each set, packed. conversations: folder of the held-out conversations, or ""."""
    rows = [row for name in sorted(sets) for row in _rows(name, sets[name], parts[name])]
    if conversations:
        rows += _held_out(Path(conversations))
    index, counts = ngram_index(rows, ngram_words)
    schema = index.schema.with_metadata({COUNTS: json.dumps(counts)})
    write_arrow(index.replace_schema_metadata(schema.metadata), Path(item["path"]))


def _rows(name: str, source: Source, parts: bytes) -> Iterator[EvaluationRow]:
    for part in unpack(parts):
        for row in source.read(part):
            if isinstance(row, BadRow):
                remedy = "repair the row or remove it"
                if row.reason:  # left out of training by a rule
                    remedy = f"give {name} `rows: prompts`, of which every list is read"
                raise UserError(
                    f"{part.where}:{row.row}: {row.problem}. It is a row of the evaluation set {name}, which must be "
                    f"read as a whole; {remedy}"
                )
            yield EvaluationRow(name, part.where, row.row, tuple(texts_of(row.record)) or (row.text,))


def _held_out(folder: Path) -> Iterator[EvaluationRow]:
    """The prompts and replies of held-out conversations. Those of the built-in tasks are mostly too short."""
    from pipelines.data.dialogues import conversations

    for number, conversation in enumerate(conversations.read(folder / conversations.HELD_OUT), start=1):
        texts = [turn["content"] for turn in conversation.messages if turn["role"] != "system"]
        yield EvaluationRow(HELD_OUT_PROMPTS, conversations.HELD_OUT, number, texts)


def open_index(path: Path) -> EvaluationSets:
    """The check of a task."""
    return EvaluationSets(map_arrow(path))


def write_overlaps(check: EvaluationSets, path: Path) -> None:
    """Writes the OVERLAPS of a block's documents, complete or absent."""
    with AtomicFile(path) as file:
        pq.write_table(pa.Table.from_pylist(check.overlaps, OVERLAPS), file.temporary, compression="zstd")
        file.publish()


def write_contaminated(work: Work, blocks: Sequence[Path]) -> None:
    """Writes out/contaminated.parquet: the documents that have a run of words of a set, with set, row and words."""
    item = {"path": str(work.draft.out / "contaminated.parquet")}
    make_files(
        work, concatenate_overlaps, [item], unit="list of overlaps", files=[str(overlaps) for overlaps in blocks]
    )


def concatenate_overlaps(item: dict[str, Any], *, files: Sequence[str]) -> None:
    """Writes the OVERLAPS of all blocks into one file, one block in memory at a time. Runs in a task."""
    with AtomicFile(Path(item["path"])) as file:
        with pq.ParquetWriter(file.temporary, OVERLAPS, compression="zstd") as writer:
            for block in files:
                writer.write_table(pq.read_table(block))
        file.publish()


def facts(index: Path, counts: Counter[str]) -> Facts:
    """What the sets have (decontamination/rows_, short_rows_, template_ngrams_<set>) and how many documents were
    dropped for each (documents_<set>). counts: of the blocks."""
    sizes: dict[str, int] = json.loads(map_arrow(index).schema.metadata[COUNTS])
    names = sorted(name.removeprefix("rows_") for name in sizes if name.startswith("rows_"))
    dropped = {f"{AREA}documents_{name}": counts[f"{AREA}documents_{name}"] for name in names}
    return {**{f"{AREA}{name}": number for name, number in sorted(sizes.items())}, **dropped}
