"""What documents are checked for besides the filters: prepared once before the blocks are read, opened by each task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.corpus.checks import Check
from pipelines.data.corpus.contamination import EvaluationSets
from pipelines.stage import Facts, Work
from pipelines.stages.corpus import evaluation_sets


@dataclass(frozen=True)
class CheckFiles:
    """The files that the checks need; a check without one is off."""

    evaluation_sets: Path | None

    def open(self) -> list[Check]:
        """The checks, in their order. In a task."""
        return [] if self.evaluation_sets is None else [evaluation_sets.open_index(self.evaluation_sets)]

    def write(self, checks: Sequence[Check], block: Path) -> None:
        """Writes what the checks have collected of a block's documents, beside its file."""
        for check in checks:
            if isinstance(check, EvaluationSets):
                evaluation_sets.write_overlaps(check, overlaps_of(block))

    def finish(self, work: Work, blocks: Sequence[Path], counts: Counter[str]) -> Facts:
        """Writes the lists of the checks into work.draft.out. Returns the facts.

        blocks: the files of their documents. counts: of the blocks."""
        if self.evaluation_sets is None:
            return {}
        evaluation_sets.write_contaminated(work, [overlaps_of(block) for block in blocks])
        return evaluation_sets.facts(self.evaluation_sets, counts)


def prepare(work: Work) -> CheckFiles:
    """Writes the files of the checks that the recipe has. Raises UserError for sets that cannot be read."""
    sets = work.options.decontaminate
    return CheckFiles(evaluation_sets.write_index(work) if sets is not None else None)


def overlaps_of(block: Path) -> Path:
    """The file of the overlaps of a block's documents with evaluation sets."""
    return block.with_suffix(".contaminated.parquet")
