"""What documents are checked for besides the filters: prepared once before the blocks are read, opened by each task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipelines.data.corpus import group_counts
from pipelines.data.corpus.checks import Check
from pipelines.data.corpus.contamination import EvaluationSets
from pipelines.data.corpus.documents import QUALITY
from pipelines.data.corpus.quality_model import LOW_QUALITY, QualityModel
from pipelines.data.text.harm_kinds import HarmOptions
from pipelines.stage import Facts, Work
from pipelines.stages.corpus import evaluation_sets, quality, ratings


@dataclass(frozen=True)
class CheckFiles:
    """The files that the checks need; a check without one is off."""

    evaluation_sets: Path | None
    quality_model: Path | None
    good: tuple[str, ...]  # the sources that are reference text
    harm: HarmOptions
    guard: Path | None

    @property
    def fields(self) -> list[pa.Field]:
        """The columns that the checks add to documents."""
        return [] if self.quality_model is None else [QUALITY]

    @property
    def reasons(self) -> list[str]:
        """The reasons for which the checks may drop a document, apart from `contaminated`."""
        harm = [kind for kind, action in self.harm.items() if action == "drop"]
        return [*harm, *([LOW_QUALITY] if self.quality_model is not None else [])]

    def open(self) -> list[Check]:
        """The checks, in their order. In a task."""
        checks: list[Check] = []
        if self.evaluation_sets is not None:
            checks.append(evaluation_sets.open_index(self.evaluation_sets))
        if self.harm:
            from pipelines.data.guard.classifier import Guard  # lists of words: not for every task
            from pipelines.data.guard.harm import Harm

            checks.append(Harm(self.harm, Guard.open(self.guard) if self.guard is not None else None))
        if self.quality_model is not None:
            checks.append(QualityModel.open(self.quality_model, self.good))
        return checks

    def write(self, checks: Sequence[Check], block: Path) -> None:
        """Writes what the checks have collected of a block's documents, beside its file."""
        for check in checks:
            if isinstance(check, EvaluationSets):
                evaluation_sets.write_overlaps(check, overlaps_of(block))

    def finish(self, work: Work, blocks: Sequence[Path], counts: Counter[str]) -> Facts:
        """Writes the lists of the checks into work.draft.out. Returns the facts.

        blocks: the files of their documents. counts: of the blocks."""
        facts: Facts = {}
        if self.evaluation_sets is not None:
            evaluation_sets.write_contaminated(work, [overlaps_of(block) for block in blocks])
            facts |= evaluation_sets.facts(self.evaluation_sets, counts)
        if self.harm:
            from pipelines.data.guard.harm import harm_facts, silenced

            by_group = group_counts.shares(counts)
            facts |= harm_facts(self.harm, counts) | group_counts.group_facts(by_group)
            for warning in group_counts.warnings(by_group).values():
                work.progress.note(f"groups: {warning}: rayse inspect {work.name} --card")
            for group in silenced(facts):
                fractions = [facts[f"harm/dropped_fraction{suffix}"] for suffix in (f"_{group}", "")]
                work.progress.note(
                    f"harm: {fractions[0]:.1%} of the documents that mention {group} are dropped, {fractions[1]:.1%} "
                    f"of all: rayse inspect {work.name} --where reason={self.reasons[0]}"
                )
        if self.quality_model is not None:
            facts |= quality.facts(self.quality_model, counts, ratings.facts(work))
        return facts


def prepare(work: Work) -> CheckFiles:
    """Writes the files of the checks that the recipe has. Raises UserError for sources that cannot be read or used,
    and for a guard of another version."""
    sets, model = work.options.decontaminate, work.options.quality_model
    guard = work.inputs["guard"].local() if "unsafe" in work.options.harm else None
    if guard is not None:
        from pipelines.data.guard.classifier import Guard

        Guard.open(guard)  # before a task does
    return CheckFiles(
        evaluation_sets=evaluation_sets.write_index(work) if sets is not None else None,
        quality_model=quality.train_model(work) if model is not None else None,
        good=model.good if model is not None else (),
        harm=work.options.harm,
        guard=guard,
    )


def overlaps_of(block: Path) -> Path:
    """The file of the overlaps of a block's documents with evaluation sets."""
    return block.with_suffix(".contaminated.parquet")
