"""Last part of the stage: writes the training documents and the rows that are not used, and adds up the counts.

blocks, fates ──one task a file──► out/train/part-*.parquet, out/rejected.parquet with its summary for the data card
held-out text that stands in training text ─────────────────────┘
all of these ──► out/data_card.json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.blocks import AtomicFile, deal
from pipelines.data.corpus import cleaning, data_card
from pipelines.data.corpus.documents import (
    NOT_USED,
    REPEATED_NOT_USED,
    SURVIVOR,
    document_columns,
    rejected_rows,
)
from pipelines.data.sources.bad_rows import UNREADABLE, row_facts
from pipelines.data.text.languages import LANGUAGES
from pipelines.errors import UserError
from pipelines.parallel import make_files
from pipelines.stage import Facts, Work
from pipelines.stages.corpus import boilerplate
from pipelines.stages.corpus.blocks import CleanedBlocks
from pipelines.stages.corpus.data_card import rejected_summary, write_data_card, write_summary
from pipelines.stages.corpus.decontaminate import decontaminate
from pipelines.stages.corpus.deduplicate import deduplicate
from pipelines.stages.corpus.hold_out import (
    EXACT,
    NEAR,
    SEMANTIC,
    TRAIN,
    Span,
    chosen_rows,
    hold_out,
    rows_with,
    write_parquet,
)
from pipelines.stages.corpus.semantic import find_semantic_duplicates
from pipelines.stages.corpus.survivors import columns_of

DUPLICATES = {  # reasons of duplicates, and their problems
    EXACT: ("duplicate_exact", "the same text stands in an earlier document"),
    NEAR: ("duplicate_near", "nearly the same text stands in a longer document, or an earlier one of the same length"),
    SEMANTIC: (
        "semantic_duplicate",
        "means nearly the same as a longer document, or an earlier one of the same length",
    ),
}


def finish(work: Work, cleaned: CleanedBlocks) -> Facts:
    """Writes the corpus into work.draft.out and returns its facts. Raises UserError if all documents were dropped."""
    if not _num_documents(cleaned.counts):
        raise UserError(_no_documents(cleaned.counts))
    duplicates = deduplicate(work, cleaned)
    find_semantic_duplicates(work, cleaned, duplicates)
    spans = hold_out(work, cleaned, duplicates)
    counts: Counter[str] = Counter()
    for span in spans:
        counts.update(span.counts())
    held_out, left_out = decontaminate(work, cleaned, spans)
    write_files(work, cleaned, spans, counts, left_out)
    lists = cleaned.checks.finish(work, cleaned.checked, cleaned.counts)
    write_data_card(work, cleaned, duplicates)
    return facts(work, cleaned, counts, held_out) | lists


def write_files(
    work: Work, cleaned: CleanedBlocks, spans: Sequence[Span], counts: Counter[str], left_out: Sequence[str]
) -> None:
    """Writes the rows that are not used, and the training documents; one task writes each file.

    counts: of the documents that are no duplicates, with the bytes of each block. left_out: files that `decontaminate`
    returned."""
    rejected = {"path": str(work.draft.out / "rejected.parquet")}  # first: one task writes it all
    items = [rejected, *_train_items(work, spans, counts)]
    make_files(
        work,
        write_output,
        items,
        unit="files",
        files=cleaned.files,
        rejected=_rejected_blocks(cleaned, spans),
        left_out=left_out,
        summary=str(rejected_summary(work)),
        seed=work.seed,
    )


def write_output(
    item: dict[str, Any],
    *,
    files: Sequence[str],
    rejected: list[dict[str, Any]],
    left_out: Sequence[str],
    summary: str,
    seed: int,
) -> None:
    """Writes the file of the rows that are not used, or one of training documents, which has "blocks" in its item.
    Runs in a task."""
    if "blocks" in item:
        write_part(item, files=files)
    else:
        write_rejected_file(item, blocks=rejected, files=files, left_out=left_out, summary=Path(summary), seed=seed)


def _train_items(work: Work, spans: Sequence[Span], counts: Counter[str]) -> list[dict[str, Any]]:
    """The items of `write_part`: blocks are added to a file until it is full."""
    sizes = [
        ((block, str(span.fates)), counts[f"block_{block}"])
        for span in spans
        for block in range(span.first, span.stop)
        if f"block_{block}" in counts
    ]
    return [
        {
            "path": str(work.draft.out / "train" / f"part-{number:05}.parquet"),
            "blocks": [block for block, _ in blocks],
            "fates": [fates for _, fates in blocks],
        }
        for number, blocks in enumerate(deal(sizes, work.options.part_bytes))
    ]


def write_part(item: dict[str, Any], *, files: Sequence[str]) -> None:
    """Writes one file of training documents.

    item: {"path": of the file, "blocks": numbers, "fates": the files of the blocks' spans}. files: of all blocks."""

    def tables() -> Iterator[pa.Table]:
        for block, fates in zip(item["blocks"], item["fates"], strict=True):
            file = files[int(block)]
            documents = pq.read_table(file, columns=document_columns(file), use_threads=False)
            yield chosen_rows(documents, rows_with(TRAIN, Path(fates), block))

    write_parquet(tables(), Path(item["path"]))


def _rejected_blocks(cleaned: CleanedBlocks, spans: Sequence[Span]) -> list[dict[str, Any]]:
    """The blocks as `write_rejected_file` reads them."""
    blocks = [
        {"rejected": str(block.rejected), "source": block.source, "fates": "", "survivors": "",
         "places": {str(part.index): part.where for part in block.parts}} for block in cleaned.blocks
    ]  # fmt: skip
    for span in spans:
        for block in range(span.first, span.stop):
            blocks[block] |= {"fates": str(span.fates), "survivors": str(span.survivors)}
    return blocks


def write_rejected_file(
    item: dict[str, Any],
    *,
    blocks: list[dict[str, Any]],
    files: Sequence[str],
    left_out: Sequence[str],
    summary: Path,
    seed: int,
) -> None:
    """Writes the file of the rows that are not used, as of `rejected_tables`, after their summary for the data card:
    they are read once for both."""
    with AtomicFile(Path(item["path"])) as file:
        with pq.ParquetWriter(file.temporary, NOT_USED, compression="zstd", use_dictionary=REPEATED_NOT_USED) as writer:

            def written() -> Iterator[pa.RecordBatch]:
                for table in rejected_tables(blocks, files, left_out):
                    writer.write_table(table)
                    yield from table.combine_chunks().to_batches()

            write_summary(data_card.summarise_rejected(written(), seed=seed), summary)
        file.publish()


def rejected_tables(blocks: list[dict[str, Any]], files: Sequence[str], left_out: Sequence[str]) -> Iterator[pa.Table]:
    """Yields the bad rows and the dropped documents of all blocks, then the duplicates, then held-out documents that
    stand in training text, as NOT_USED; one block is in memory at a time.

    blocks: of each its {"rejected": file, "source": name, "fates", "survivors": files of its span, "places": where its
    parts are}."""
    for block in blocks:
        yield _not_used(pq.read_table(block["rejected"]))
    for fate, (reason, problem) in DUPLICATES.items():
        for number, block in enumerate(blocks):
            rows = rows_with(fate, Path(block["fates"]), number)
            if len(rows):
                documents = chosen_rows(pq.read_table(files[number], columns=["id", "text"]), rows)
                dropped = rejected_rows(documents, block["source"], block["places"], reason, problem)
                yield _not_used(dropped, columns_of(Path(block["survivors"]), number, rows, blocks))
    places: dict[str, dict[str, str]] = {}
    for block in blocks:
        places.setdefault(block["source"], {}).update(block["places"])
    for file in left_out:
        documents = pq.read_table(file)
        kinds = (
            documents.group_by(["source", "problem"], use_threads=False)
            .aggregate([])
            .sort_by([("source", "ascending"), ("problem", "ascending")])
        )
        for source, problem in zip(*(kinds.column(name).to_pylist() for name in ("source", "problem")), strict=True):
            rows = documents.filter((pc.field("source") == source) & (pc.field("problem") == problem))
            yield _not_used(rejected_rows(rows, source, places[source], "contaminated", problem))


def _not_used(rejected: pa.Table, survivors: Sequence[pa.Array] | None = None) -> pa.Table:
    """REJECTED as NOT_USED: with these columns of SURVIVOR; None: no row is a duplicate."""
    columns = survivors or [pa.nulls(rejected.num_rows, kind) for kind in SURVIVOR.types]
    return pa.Table.from_arrays([*rejected.columns, *columns], schema=NOT_USED)


def facts(work: Work, cleaned: CleanedBlocks, counts: Counter[str], held_out: Counter[str]) -> Facts:
    """Returns the funnel: documents/read = documents/kept + every documents/dropped_*; kept = training + held out.

    The parts of a document that was split count as so many documents: documents/split were cut into documents/parts.
    counts, held_out: of the documents that are no duplicates, and of what is left of held-out text."""
    result: Facts = {name: cleaned.counts[name] for name in cleaning.TOTALS}
    for suffix in ("", *(f"_{language}" for language in _languages(counts, held_out))):
        for what in ("documents", "bytes"):
            num_held_out = held_out[f"{what}{suffix}"]
            result[f"{what}/kept{suffix}"] = counts[f"train_{what}{suffix}"] + num_held_out
            result[f"{what}/held_out{suffix}"] = num_held_out
    for source in work.sources.values():
        for reason in work.options.rules(source, work.seed).reasons:
            result[f"{cleaning.DROPPED}{reason}"] = cleaned.counts[f"{cleaning.DROPPED}{reason}"]
    for reason in cleaned.checks.reasons:
        result[f"{cleaning.DROPPED}{reason}"] = cleaned.counts[f"{cleaning.DROPPED}{reason}"]
    # Languages, kinds of personal data, reasons that custom filters name, and lines.
    by_value = (cleaning.OTHER_LANGUAGE, cleaning.PRIVATE, cleaning.DROPPED, cleaning.LINES, boilerplate.LINES)
    result |= {name: cleaned.counts[name] for name in sorted(cleaned.counts) if name.startswith(by_value)}
    if cleaned.documents_per_s is not None:
        result["corpus/documents_per_s"] = cleaned.documents_per_s
    result |= {
        "documents/dropped_duplicate_exact": counts["exact"],
        "documents/dropped_duplicate_near": counts["near"],
        "documents/dropped_contaminated": cleaned.counts[f"{cleaning.DROPPED}contaminated"] + held_out["dropped"],
        "lines/dropped_contaminated": held_out["lines"],
    }
    if work.options.semantic_duplicates is not None:
        result["documents/dropped_semantic_duplicate"] = counts["semantic"]
    num_rows, num_bad = cleaned.counts["documents/read"], cleaned.counts["rows/bad"]
    not_used = {reason: int(number) for reason, number in _dropped(result).items()}
    return result | row_facts(num_rows + num_bad, {**not_used, UNREADABLE: num_bad})


def _languages(counts: Counter[str], held_out: Counter[str]) -> list[str]:
    """The languages of the corpus, and those that it has no documents of but may have."""
    names = [name.removeprefix("train_") for name in (*counts, *held_out)]
    prefix = "documents_"
    return sorted({*LANGUAGES, *(name.removeprefix(prefix) for name in names if name.startswith(prefix))})


def _dropped(counts: Facts | Counter[str]) -> dict[str, int]:
    """Numbers of dropped documents by reason."""
    prefix = cleaning.DROPPED
    return {name.removeprefix(prefix): int(number) for name, number in counts.items() if name.startswith(prefix)}


def _num_documents(counts: Counter[str]) -> int:
    """Number of the documents that the filters kept."""
    return counts["documents/read"] - sum(_dropped(counts).values())


def _no_documents(counts: Counter[str]) -> str:
    dropped = sorted(_dropped(counts).items())
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in dropped) or "none was dropped"
    return (
        f"corpus: no document is left of {counts['documents/read']:,} read "
        f"({reasons}; {counts['rows/bad']:,} bad rows); check the sources' text columns, or loosen corpus.filters"
    )
