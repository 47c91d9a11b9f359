"""Trains the quality model, before the blocks are cleaned: on a bounded sample of blocks.

    reference sources, sources of the corpus ──blocks with the lowest hashes──► checks/quality/*.parquet   a task each
    samples ──one task──► checks/quality.safetensors: weights and thresholds of each language

With an endpoint there is no reference text: of the sample of the corpus some documents are rated (ratings.py), and the
model is trained on those that are rated high against the others.

A sampled block is cleaned as the corpus is, so that the model learns from documents that the filters keep. A block's
beginning is enough: CLEANED_BYTES, so that one large compressed file costs no more than others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pipelines.blocks import AtomicFile, Block, pack, plan, unpack
from pipelines.data.corpus import cleaning, quality_model
from pipelines.data.corpus.rules import Rules
from pipelines.data.sources.source import Source
from pipelines.errors import UserError
from pipelines.parallel import make_files, with_first_rows
from pipelines.stage import Facts, Work
from pipelines.stages.corpus import ratings

REFERENCE, RANDOM = "reference", "random"
SAMPLE = pa.schema(
    [("side", pa.string()), ("language", pa.string()), ("order", pa.uint64()), ("text", pa.string())]
)  # order: the hash of the id, by which documents are chosen
SAMPLED_BYTES = 32_000_000  # of the blocks of each side: some 8,000 documents of 4 kB
CLEANED_BYTES = 8_000_000  # of one block
MAX_DOCUMENTS = 2 * quality_model.TRAINED_DOCUMENTS  # of each side and language, in a sample and in all


def train_model(work: Work) -> Path:
    """Writes the model and returns its file. Raises UserError if no language has text enough of both sides."""
    folder = work.draft.folder("checks")
    options = work.options.quality_model
    good: Sequence[str] = options.good
    sides = {
        # A source that the corpus reads, too, is divided as it divides it: its blocks have the same names.
        REFERENCE: {name: work.sources.get(name, work.references[name]) for name in good},
        RANDOM: {name: source for name, source in work.sources.items() if name not in good},
    }
    _check(work, sides)
    samples = _sample(work, folder, sides)
    used = (REFERENCE, RANDOM)
    if options.endpoint is not None:
        samples, used = [ratings.rate(work, lowest_of(samples))], (ratings.GOOD, ratings.OTHER)
    path = folder / "quality.safetensors"
    items = [{"path": str(path)}]
    make_files(
        work, train, items, unit="quality model", samples=samples, sides=used, keep_fraction=options.keep_fraction
    )
    if note := without_model(quality_model.facts_of(path), f"{work.name}.quality_model", used):
        work.progress.note(note)
    return path


def _sample(work: Work, folder: Path, sides: Mapping[str, Mapping[str, Source]]) -> list[Path]:
    """Writes a SAMPLE of each of the blocks of both sides that are chosen; returns their files."""
    items: list[dict[str, Any]] = []
    for side, sources in sides.items():
        blocks = plan(sources, work.draft.folder("blocks"), work.options.block_bytes)
        for block in _readable(work, blocks, _sampled_blocks(blocks, work.seed), sources):
            path = folder / "quality" / f"{side}.{block.file.name}"
            items.append({"path": str(path), "side": side, "source": block.source, "parts": block.packed})
    sources = {name: source for named in sides.values() for name, source in named.items()}
    rules = {name: work.options.rules(source, work.seed) for name, source in sources.items()}
    make_files(work, sample_block, items, unit="samples of quality", sources=sources, rules=rules, seed=work.seed)
    return [Path(item["path"]) for item in items]


def _readable(
    work: Work, blocks: Sequence[Block], chosen: Sequence[Block], sources: Mapping[str, Source]
) -> list[Block]:
    """The chosen blocks, as they can be read by themselves: tables are looked at as a whole. Rows of others are
    numbered from 1 in each range, as no number is kept; for that no block has to be counted."""
    looked_at = [block for block in chosen if sources[block.source].needs_look]
    readable = with_first_rows(work, blocks, looked_at, sources)
    for block in chosen:
        if not sources[block.source].needs_look:
            parts = (replace(part, first_row=part.first_row or 1) for part in block.parts)
            readable.append(replace(block, packed=pack(parts)))
    return readable


def lowest_of(samples: Sequence[Path]) -> pa.Table:
    """The SAMPLE of all files, with as many documents of each side and language as one may have."""
    table = SAMPLE.empty_table()
    for sample in samples:
        table = _lowest(pa.concat_tables([table, pq.read_table(sample, columns=SAMPLE.names)]))
    return table


def _check(work: Work, sides: Mapping[str, Mapping[str, Source]]) -> None:
    where = f"{work.name}.quality_model.good"
    for name, source in sides[REFERENCE].items():
        if source.rows != "text":
            raise UserError(f"{where}: {name} has rows: {source.rows}; expected a source with rows: text")
    if not sides[RANDOM]:
        raise UserError(
            f"{where}: all sources of the corpus are reference text; expected another to tell it from. Name the "
            "corpus' text, `sources: [web]`, and sources that the corpus does not read as reference text"
        )


def _sampled_blocks(blocks: Sequence[Block], seed: int) -> list[Block]:
    """The blocks with the lowest hashes, as many as have SAMPLED_BYTES, or their beginnings have."""
    order = {block.file.name: xxhash.xxh3_64_intdigest(block.file.name.encode(), seed) for block in blocks}
    chosen: list[Block] = []
    num_bytes = 0
    for block in sorted(blocks, key=lambda block: order[block.file.name]):
        if num_bytes < SAMPLED_BYTES:
            chosen.append(block)
            num_bytes += min(block.bytes, CLEANED_BYTES)
    return chosen


def sample_block(item: dict[str, Any], *, sources: Mapping[str, Source], rules: Mapping[str, Rules], seed: int) -> None:
    """Writes the SAMPLE of a block: of each language the documents with the lowest hashes. Runs in a task."""
    name = item["source"]
    tables, num_bytes = [SAMPLE.empty_table()], 0
    for batch in cleaning.clean(name, sources[name], unpack(item["parts"]), rules=rules[name], permutations=1):
        documents = batch.documents.to_pylist()
        num_bytes += batch.counts["bytes/read"]
        rows = [
            {"side": item["side"], "language": document["language"],
             "order": xxhash.xxh3_64_intdigest(document["id"].encode(), seed),
             "text": quality_model.scored_part(document["text"])} for document in documents
        ]  # fmt: skip
        tables.append(pa.Table.from_pylist(rows, SAMPLE))
        if num_bytes >= CLEANED_BYTES:
            break
    with AtomicFile(Path(item["path"])) as file:
        pq.write_table(_lowest(pa.concat_tables(tables)), file.temporary, compression="zstd")
        file.publish()


def _lowest(table: pa.Table) -> pa.Table:
    """The MAX_DOCUMENTS of each side and language with the lowest hashes, in their order."""
    table = table.sort_by([("order", "ascending"), ("text", "ascending")])
    chosen = [SAMPLE.empty_table()]
    for side in sorted(table.column("side").unique().to_pylist()):
        for language in sorted(table.column("language").unique().to_pylist()):
            condition = (pc.field("side") == side) & (pc.field("language") == language)
            chosen.append(table.filter(condition).slice(0, MAX_DOCUMENTS))
    return pa.concat_tables(chosen)


def train(item: dict[str, Any], *, samples: Sequence[Path], sides: Sequence[str], keep_fraction: float) -> None:
    """Trains the models of all languages that have enough documents, and writes them with their facts. In a task.

    sides: of the documents, the better one first."""
    table = lowest_of(samples)
    train_language = quality_model.train if REFERENCE in sides else quality_model.train_rated
    models: dict[str, quality_model.LanguageModel] = {}
    facts: Facts = {}
    for language in sorted(table.column("language").unique().to_pylist()):
        texts = {
            side: table.filter((pc.field("side") == side) & (pc.field("language") == language))
            .column("text")
            .to_pylist()
            for side in sides
        }
        facts |= {f"quality/{side}_documents_{language}": len(texts[side]) for side in texts}
        measured = train_language(texts[sides[0]], texts[sides[1]], keep_fraction)
        if measured is not None:
            models[language] = measured.model
            facts[f"quality/auc_{language}"] = measured.auc
            if np.isfinite(measured.model.threshold):
                facts[f"quality/threshold_{language}"] = measured.model.threshold
    with AtomicFile(Path(item["path"])) as file:
        quality_model.QualityModel(models).save(file.temporary, facts)
        file.publish()


def without_model(facts: Facts, where: str, sides: Sequence[str] = (REFERENCE, RANDOM)) -> str | None:
    """Returns a note on the languages that have no model; None if all have one. Raises UserError if none has.

    facts: of `train`. where: the stage and the key. sides: of the documents."""
    first, second = (f"quality/{side}_documents_" for side in sides)
    languages = sorted(name.removeprefix(first) for name in facts if name.startswith(first))
    small = [
        f"{language}: {facts[f'{first}{language}']} {sides[0]}, {facts[f'{second}{language}']} {sides[1]}"
        for language in languages
        if f"quality/auc_{language}" not in facts
    ]
    needs = f"{where}: needs {quality_model.MIN_DOCUMENTS} documents of both sides"
    if len(small) == len(languages):
        sizes = "; ".join(small) or "no document is left by the filters"
        remedy = "name more text in good" if REFERENCE in sides else "raise num_rated, or change min_rating"
        raise UserError(f"{needs}, and no language has them ({sizes}); {remedy}")
    return f"{needs}; not scored, all kept: {'; '.join(small)}" if small else None


def facts(model: Path, counts: Counter[str], rating_facts: Facts) -> Facts:
    """Facts of the model's training, by language: quality/auc_, threshold_, reference_documents_, random_documents_;
    and scored_documents_, kept_fraction_ of the corpus, its reference text apart. counts: of the blocks.
    rating_facts: those of `ratings`, which come with them."""
    result: Facts = {**quality_model.facts_of(model), **rating_facts}
    prefix = "quality/scored_documents_"
    for name, number in sorted(counts.items()):
        if name.startswith(prefix):
            language = name.removeprefix(prefix)
            low = counts[f"quality/low_documents_{language}"]
            result |= {name: number, f"quality/kept_fraction_{language}": 1 - low / number}
    return result
