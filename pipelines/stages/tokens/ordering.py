"""The option `order`: a level for each document while it is encoded, and phases from the counts of all parts.

See pipelines/data/tokens/phases.py. Documents without a score, in a language that has no quality model, are spread over
all phases at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.data.corpus import corpora
from pipelines.data.corpus.documents import QUALITY
from pipelines.data.tokens import phases
from pipelines.errors import UserError
from pipelines.stage import Work
from pipelines.stages.tokens.mixture import NO_GROUP, Order

Kind = tuple[str, str]  # group and language of documents


@dataclass(frozen=True)
class Phases:
    """Which documents are read when."""

    number: int
    edges: Mapping[Kind, list[int]]  # first level of each phase but the first; without any: one phase

    def of(
        self, kinds_2D: tuple[np.ndarray, np.ndarray], names: tuple[list[str], list[str]], levels_D: np.ndarray
    ) -> np.ndarray:
        """The phase of each document, from 0. int64 [D]. kinds_2D: positions of group and language among the names."""
        phases_D = np.zeros(len(levels_D), np.int64)
        for (group, language), edges in self.edges.items():
            inside = (kinds_2D[0] == names[0].index(group)) & (kinds_2D[1] == names[1].index(language))
            phases_D[inside] = phases.phases_of(levels_D[inside], edges)
        return phases_D

    def tokens(self, levels: Mapping[tuple[str, str, int], int], repeats: Mapping[str, float]) -> list[float]:
        """Training tokens of each phase. levels: tokens by group, language and level; repeats: by group."""
        totals = [0.0] * self.number
        for (group, language, level), tokens in levels.items():
            phase = int(phases.phases_of(np.array([level]), self.edges[group, language])[0])
            totals[phase] += tokens * repeats.get(group, 0.0)
        return totals


def check_scores(work: Work, corpus: Path) -> None:
    """Raises UserError for an order by quality of a corpus without scores."""
    parts = corpora.parts(corpus, "train")
    if work.options.order == "quality" and not all(QUALITY.name in pq.read_schema(part).names for part in parts):
        raise UserError(
            f"{work.name}.order: quality needs the scores of a quality model, and the corpus has no column "
            f"{QUALITY.name}; set corpus.quality_model (keep_fraction: 1 only scores), or order: length"
        )


def column_of(order: Order) -> str | None:
    """The column of the corpus that an order reads; None for one by length, and for none."""
    return QUALITY.name if order == "quality" else None if isinstance(order, str) else "source"


def levels_of(order: Order, values: Sequence[Any], lengths: Sequence[int], seeds: Sequence[int]) -> np.ndarray:
    """The level of each document of a part. uint16 [D].

    values: of the order's column. lengths: in tokens. seeds: of the part, for documents without a score."""
    if order == "length":  # in units of 1,024: levels end at 65,504, and a book has more tokens
        return phases.levels_of(np.array(lengths, np.float64) / 1024)
    if order == "quality":
        drawn = np.random.default_rng([*seeds, 1]).random(len(values))
        scores = [draw if value is None else value for value, draw in zip(values, drawn, strict=True)]
        return phases.levels_of(np.array(scores, np.float64))
    phase_of = {name: number for number, names in enumerate(order) for name in names}
    return np.array([phase_of.get(value, 0) for value in values], np.uint16)


def without_phase(order: Order, sources: Sequence[str], groups: Sequence[str]) -> Counter[str]:
    """Documents by source, of the sources that an order by sources does not name; those without a group apart."""
    if isinstance(order, str):
        return Counter()
    named = {name for names in order for name in names}
    pairs = zip(sources, groups, strict=True)
    return Counter(source for source, group in pairs if group != NO_GROUP and source not in named)


def plan(
    work: Work, levels: Mapping[tuple[str, str, int], int], sources: Mapping[str, int], unplaced: Mapping[str, int]
) -> Phases:
    """The phases of training text. levels: tokens by group, language and level; sources: documents of each source;
    unplaced: the documents of sources without a phase. Raises UserError for these, and for a name that no source has.
    """
    order: Order = work.options.order
    if order == "shuffled":
        return Phases(1, {})
    kinds = sorted({(group, language) for group, language, _ in levels})
    if isinstance(order, str):
        edges = {}
        for kind in kinds:
            tokens = {key[2]: number for key, number in levels.items() if key[:2] == kind}
            edges[kind] = phases.edges_of(tokens, phases.NUM_PHASES)
        return Phases(phases.NUM_PHASES, edges)
    names = f"expected each source of the corpus in one phase: {', '.join(sorted(sources)) or 'none'}"
    if unplaced:
        raise UserError(f"{work.name}.order: {min(unplaced)} is in no phase; {names}")
    if unknown := sorted({name for phase in order for name in phase} - sources.keys()):
        raise UserError(f"{work.name}.order: {unknown[0]} is no source of the corpus; {names}")
    return Phases(len(order), {kind: list(range(1, len(order))) for kind in kinds})
