"""Second half of the stage: one task packs each shard, a file of rows, from its documents of all encoded parts.

    ranked/train/* ──a run of each part──► documents × repeats ──shuffle, concatenate──► stream ──cut, shuffle rows──►
    train/part-00000.arrow, and draft/counts/train/part-00000.parquet: what is in it, for the driver to add up

Which documents a shard has depends on the number of shards, the seed and the parts; nothing depends on the number of
tasks. One document is in one shard, as often as it is repeated.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.blocks import COUNTS, AtomicFile, remove_unpublished
from pipelines.data.tokens import packing
from pipelines.data.tokens.ragged import RaggedColumn
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.parallel import make_files
from pipelines.stage import Facts, Work
from pipelines.stages.tokens import ordering
from pipelines.stages.tokens.encoding import HELD_OUT, NAMED_VALUES, TRAIN, Totals, folder
from pipelines.stages.tokens.mixture import NO_GROUP, Mixture
from pipelines.stages.tokens.ordering import Phases

COUNTED_TOKENS = 2**22  # at a time: their ids take 8 bytes each while they are counted


@dataclass(frozen=True)
class Split:
    """How the encoded documents of a split become shards of rows."""

    name: str
    draft: Path
    out: Path
    languages: list[str]
    repeats: dict[str, float]  # by group: language, if the mixture has no others
    column: str  # of the encoded parts: language or group
    phases: Phases
    phase_shards: list[int]  # number of shards of each phase, which are read one after another
    seed: int | None  # None: documents and rows keep their order
    sizes_P: np.ndarray  # documents of each encoded part
    earlier_PG: np.ndarray  # documents of each group, in the order of `repeats`, in the parts before each part

    @property
    def num_shards(self) -> int:
        return sum(self.phase_shards)

    def phase(self, shard: int) -> tuple[int, int]:
        """The phase of a shard, and its place in it, from 0."""
        ends = np.cumsum(self.phase_shards)
        phase = int(np.searchsorted(ends, shard, side="right"))
        return phase, shard - int(ends[phase]) + self.phase_shards[phase]

    def file(self, shard: int) -> Path:
        """The rows of a shard. Written last."""
        return self.out / self.name / f"part-{shard:05}.arrow"

    def counts(self, shard: int) -> Path:
        """How often each token id stands in a shard, by language; rows, documents and tokens in the metadata."""
        return self.draft / "counts" / self.name / f"part-{shard:05}.parquet"


class Documents(NamedTuple):
    """The documents of one shard: token ids, positions of language and group among the names, how often it is used."""

    tokens: RaggedColumn
    languages_D: np.ndarray
    groups_D: np.ndarray
    times_D: np.ndarray


def write(work: Work, totals: dict[str, Totals], encoder: Encoder) -> Facts:
    """Packs the shards that are not there yet, in parallel; writes unigram.parquet. Returns the facts of the stage.

    Raises UserError for a mixture that the corpus cannot have."""
    splits = plan(work, totals)
    items = []
    for name, split in splits.items():
        split.counts(0).parent.mkdir(parents=True, exist_ok=True)
        remove_unpublished(split.counts(0).parent)
        items += [{"path": str(split.file(n)), "split": name, "shard": n} for n in range(split.num_shards)]
    make_files(
        work, write_shard, items, unit="files of rows", splits=splits, length=work.options.length,
        pad_id=encoder.pad_id, num_ids=encoder.num_ids,
    )  # fmt: skip
    counts, unigram = _add_up(splits[TRAIN], encoder)
    pq.write_table(unigram, work.draft.out / "unigram.parquet", compression="zstd")
    held_out, _ = _add_up(splits[HELD_OUT], encoder)
    facts = _facts(splits[TRAIN], counts, totals)
    return facts | {"rows/held_out": held_out["rows"], "tokens/held_out": held_out["tokens"]}


def plan(work: Work, totals: dict[str, Totals]) -> dict[str, Split]:
    """Repeats of each group and the number of shards, from the counts alone. Raises UserError as mixture_repeats."""
    options, mixture, train = work.options, work.options.mixture, totals[TRAIN]
    column, tokens = "language", {language: train.tokens[language] for language in train.languages}
    if isinstance(mixture, Mixture):
        column, tokens = "group", dict(sorted(train.group_tokens.items()))
        names = sorted({*tokens, *dict(train.values.most_common(NAMED_VALUES))} - {NO_GROUP})
        choices = f"{mixture.by}s of the corpus: {', '.join(names) or 'none'}"
        repeats = packing.mixture_repeats(
            tokens, mixture.weights, options.repeats_limit, choices=choices, total_tokens=mixture.total_tokens
        )
    elif mixture is not None:
        repeats = packing.mixture_repeats(tokens, mixture, options.repeats_limit)
    else:
        repeats = packing.min_fraction_repeats(tokens, options.min_language_fraction, options.repeats_limit)
    if mixture is not None:
        _note_unused(work, train, repeats)
    phases = ordering.plan(work, train.levels, train.sources, train.unplaced)
    held_out = totals[HELD_OUT]
    all_once = dict.fromkeys(held_out.languages, 1.0)
    splits = {}
    for name, languages, uses, by, counts, in_phases, seed in (
        (TRAIN, train.languages, repeats, column, tokens, phases, work.seed),
        (HELD_OUT, held_out.languages, all_once, "language", held_out.tokens, Phases(1, {}), None),
    ):
        sizes = [sum(counts[group] * times for group, times in uses.items())]
        if in_phases.number > 1:
            sizes = in_phases.tokens(train.levels, uses)
        shards = [math.ceil(size / options.shard_tokens) for size in sizes]
        shards[0] = max(shards[0], 1)
        splits[name] = Split(name, work.draft.path, work.draft.out, languages, uses, by, in_phases, shards, seed,
                             *places(totals[name].parts, uses))  # fmt: skip
    return splits


def places(parts: Sequence[Mapping[str, int]], groups: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """(documents of each part, documents of each group in the parts before it), of parts with these documents.

    int64 [P], int64 [P, G]."""
    names = list(groups)
    counts_PG = np.array([[part.get(name, 0) for name in names] for part in parts], np.int64)
    counts_PG = counts_PG.reshape(len(parts), len(names))
    sizes_P = np.array([sum(part.values()) for part in parts], np.int64)
    return sizes_P, np.cumsum(counts_PG, axis=0) - counts_PG


def _note_unused(work: Work, train: Totals, repeats: dict[str, float]) -> None:
    """Says which documents are not used, or not all of them."""
    mixture: Mixture | dict[str, float] = work.options.mixture
    if isinstance(mixture, Mixture):
        zero = Counter({group: train.group_documents[group] for group in mixture.weights if not mixture.weights[group]})
        by, values, without = mixture.by, train.values + zero, train.group_documents[NO_GROUP] + zero.total()
        total_tokens, unused = mixture.total_tokens, {NO_GROUP, *zero}
    else:
        by, values = "language", Counter({name: n for name, n in train.documents.items() if not mixture.get(name)})
        without, total_tokens, unused = values.total(), None, set(values)
    if without:
        names = ", ".join(f"{value or f'no {by}'} ({number:,})" for value, number in values.most_common(NAMED_VALUES))
        work.progress.note(f"mixture: {without:,} documents are not used, as their {by} has no weight: {names}")
    partly = [f"{times:.0%} of {group}" for group, times in repeats.items() if group not in unused and times < 0.995]
    if not partly:
        return
    most = max(repeats, key=lambda group: repeats[group])
    limit = f"{most} is used {repeats[most]:.3g} times (max_repeats: {work.options.repeats_limit:g})"
    if total_tokens:
        limit = f"total_tokens is {total_tokens:,}"
    work.progress.note(f"mixture: only {', '.join(partly)} is used, as {limit}")


def write_shard(item: dict[str, Any], *, splits: dict[str, Split], length: int, pad_id: int, num_ids: int) -> None:
    """Packs one shard, in a task. item: {"path": of the file, "split": name, "shard": number}."""
    split, shard = splits[item["split"]], item["shard"]
    seed = None if split.seed is None else [split.seed, shard]
    phase = split.phase(shard)[0] if split.phases.number > 1 else None
    documents = documents_of(split, shard)
    order = np.repeat(np.arange(len(documents.times_D)), documents.times_D)
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    stream, starts = _concatenate(documents.tokens, order, packing.id_dtype(num_ids))
    lengths = documents.tokens.lengths[order]
    unigram = _count(stream, documents.languages_D[order], lengths, len(split.languages), num_ids)
    with AtomicFile(split.file(shard)) as file:
        written = packing.write_rows(
            file.temporary, stream, starts, length=length, pad_id=pad_id, seed=seed, phase=phase
        )
        num_rows = max(written, default=0)
        counts = {"rows": num_rows, "documents": len(order), "tokens": len(stream)}
        tokens_G = np.bincount(documents.groups_D[order], weights=lengths, minlength=len(split.repeats))
        counts |= {f"group_{name}": int(number) for name, number in zip(split.repeats, tokens_G, strict=True)}
        table = pa.table({name: unigram[code] for code, name in enumerate(split.languages)})
        with AtomicFile(split.counts(shard)) as counts_file:
            table = table.replace_schema_metadata({COUNTS: json.dumps(counts)})
            pq.write_table(table, counts_file.temporary, compression="zstd")
            counts_file.publish()
        file.publish()


def documents_of(split: Split, shard: int) -> Documents:
    """The documents of a shard, memory-mapped: a run of each encoded part.

    A run of part p is the piece (shard + p) mod num_shards of its documents, so that parts with fewer documents than
    there are shards fill all shards alike; shards are counted within their phase, and documents of other phases are not
    used. How often a document is used depends on its rank in its group: that in its part, after those before it."""
    phase, shard_in_phase = split.phase(shard)
    num_shards = split.phase_shards[phase]
    names = list(split.repeats), split.languages
    pieces: list[tuple[pa.ChunkedArray, np.ndarray, np.ndarray, np.ndarray]] = []
    for number, file in enumerate(sorted(folder(split.draft, split.name).glob("*.arrow"))):
        place = (shard_in_phase + number) % num_shards
        first, end = (int(split.sizes_P[number]) * edge // num_shards for edge in (place, place + 1))
        if first == end:
            continue
        with pa.memory_map(str(file)) as source:  # the buffers keep the mapping, not the open file
            table = pa.ipc.open_file(source).read_all().slice(first, end - first)
        ranks = table.column("rank").to_numpy().astype(np.int64)
        groups, languages = _codes(table, split.column, names[0]), _codes(table, "language", names[1])
        times = np.zeros(len(groups), np.int64)
        for code, repeats in enumerate(split.repeats.values()):
            inside = groups == code
            times[inside] = packing.times_used(split.earlier_PG[number, code] + ranks[inside], repeats)
        if split.phases.number > 1:
            levels = table.column("level").to_numpy()
            times[split.phases.of((groups, languages), names, levels) != phase] = 0
        pieces.append((table.column("tokens"), languages, groups, times))
    chunks = [chunk for tokens, *_ in pieces for chunk in tokens.chunks]
    tokens = RaggedColumn(pa.chunked_array(chunks, None if chunks else pa.large_list(pa.int32())))
    empty = np.zeros(0, np.int64)
    languages, groups, times = (np.concatenate([empty, *(piece[i] for piece in pieces)]) for i in (1, 2, 3))
    return Documents(tokens, languages, groups, times)


def _codes(table: pa.Table, column: str, names: list[str]) -> np.ndarray:
    """The position of each document's language or group among the names."""
    options = pc.SetLookupOptions(pa.array(names, pa.string()))
    return pc.call_function("index_in", [table.column(column)], options).to_numpy()


def _concatenate(tokens: RaggedColumn, order: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Concatenates the documents in this order. Returns (token ids [N], bool [N]: True where a document begins)."""
    ends = np.cumsum(tokens.lengths[order])
    total = int(ends[-1]) if len(ends) else 0
    stream, starts = np.empty(total, dtype), np.zeros(total, bool)
    starts[ends - tokens.lengths[order]] = True
    for document, end in zip(order, ends, strict=True):
        ids = tokens[document]
        stream[end - len(ids) : end] = ids
    return stream, starts


def _count(
    stream_N: np.ndarray, languages_D: np.ndarray, lengths_D: np.ndarray, num_languages: int, num_ids: int
) -> np.ndarray:
    """Counts the token ids of each language. int64 [languages, ids]. languages_D, lengths_D: of each document."""
    languages_N = np.repeat(languages_D.astype(np.min_scalar_type(num_languages)), lengths_D)
    counts = np.zeros(num_languages * num_ids, np.int64)
    for first in range(0, len(stream_N), COUNTED_TOKENS):
        inside = slice(first, first + COUNTED_TOKENS)
        counts += np.bincount(languages_N[inside].astype(np.int64) * num_ids + stream_N[inside], minlength=len(counts))
    return counts.reshape(num_languages, num_ids)


def _add_up(split: Split, encoder: Encoder) -> tuple[Counter[str], pa.Table]:
    """Adds the counts of all shards: rows, documents, tokens (tokens_<language> and group_<group>, too), phases with
    rows, and the table of unigrams, which leaves out framing, as it is not text."""
    counts: Counter[str] = Counter()
    phases: set[int] = set()
    unigram = {name: np.zeros(encoder.num_ids, np.int64) for name in split.languages}
    for shard in range(split.num_shards):
        table = pq.read_table(split.counts(shard))
        of_shard = json.loads(table.schema.metadata[COUNTS])
        counts.update(of_shard)
        phases.update([split.phase(shard)[0]] if of_shard["rows"] else [])
        for name in unigram:
            unigram[name] += table.column(name).to_numpy()
    counts["phases"] = len(phases)
    for name, ids in unigram.items():
        counts[f"tokens_{name}"] = int(ids.sum())
        ids[[i for i in (encoder.bos_id, encoder.eos_id) if i is not None]] = 0
    return counts, pa.table(unigram)


def _facts(split: Split, counts: Counter[str], totals: dict[str, Totals]) -> Facts:
    facts: Facts = {f"{what}/train": counts[what] for what in ("rows", "tokens", "documents")}
    facts["tokens/shards"] = split.num_shards
    if split.phases.number > 1:
        facts["tokens/phases"] = counts["phases"]
    for language in split.languages:
        facts[f"tokens/train_{language}"] = counts[f"tokens_{language}"]
        facts[f"tokens/fraction_{language}"] = counts[f"tokens_{language}"] / max(counts["tokens"], 1)
        if split.column == "language":
            facts[f"tokens/repeats_{language}"] = split.repeats[language]
    if split.column == "language":
        return facts
    facts["mixture/documents_without_weight"] = totals[TRAIN].group_documents[NO_GROUP]
    for group in (name for name in split.repeats if name != NO_GROUP):
        facts[f"mixture/tokens_{group}"] = counts[f"group_{group}"]
        facts[f"mixture/fraction_{group}"] = counts[f"group_{group}"] / max(counts["tokens"], 1)
        facts[f"mixture/repeats_{group}"] = split.repeats[group]
        facts[f"mixture/held_out_tokens_{group}"] = totals[HELD_OUT].group_tokens[group]
    return facts
