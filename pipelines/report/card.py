"""The report card: the facts of a run, from which the terminal table, the page and `--json` are made.

    run record ──► artifacts' manifests ──► {stage: {area/what_unit: value}, "run": totals} ──► JSON | table | page

Everything is read from the store; this module makes no measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.store.artifacts import Artifact, Store, read_json
from pipelines.store.facts import Facts
from pipelines.store.runs import RunRecord, latest
from pipelines.sweep import trials
from pipelines.sweep.trials import SweepRecord


@dataclass(frozen=True)
class Card:
    """A run and its artifacts."""

    record: RunRecord
    artifacts: dict[str, Artifact]  # by stage
    evaluations: dict[str, Artifact]  # by the stage whose model they evaluate
    facts: dict[str, Facts]  # by stage, and "run" for the totals
    sweep: SweepRecord | None = None  # the recipe's latest


def card(store: Store, recipe: str | None = None) -> Card:
    """The report card of the latest run, of this recipe if named. Stages that are not made yet are left out."""
    record = latest(store, recipe)
    artifacts: dict[str, Artifact] = {}
    evaluations: dict[str, Artifact] = {}
    facts: dict[str, Facts] = {}
    for name, stage in record.stages.items():
        artifact = store.by_fingerprint(stage.fingerprint)
        if artifact is None:
            continue
        artifacts[name], facts[name] = artifact, dict(artifact.facts)
        evaluation = store.by_fingerprint(stage.evaluation) if stage.evaluation else None
        if evaluation is not None:
            evaluations[name] = evaluation
            facts[name] |= _evaluation_facts(evaluation.facts)
    _add_benchmarks(store, facts)
    facts["run"] = _totals(facts)
    return Card(record, artifacts, evaluations, facts, trials.latest(store, record.recipe))


def _add_benchmarks(store: Store, facts: dict[str, Facts]) -> None:
    """Adds the bare training loop's speed, which `make bench` writes into the store, to each stage that trained."""
    file = store.root / "bench.json"
    benchmarks = read_json(file) if file.is_file() else {}
    for stage_facts in facts.values():
        if "train/tokens_per_s" in stage_facts and "train/tokens_per_s_bare" in benchmarks:
            stage_facts["train/tokens_per_s_bare"] = benchmarks["train/tokens_per_s_bare"]


def _evaluation_facts(facts: Facts) -> Facts:
    """The facts of an evaluation, with its cost under keys that differ from those of the stage's cost."""
    figures = {key: value for key, value in facts.items() if not key.startswith(("run/", "driver/"))}
    return figures | {
        "run/evaluate_wall_s": facts["run/wall_s"],
        "run/evaluate_peak_memory_bytes": facts["run/peak_memory_bytes"],
    }


def _totals(facts: dict[str, Facts]) -> Facts:
    """The cost of the run."""

    def values(*keys: str) -> list[float]:
        return [float(stage_facts[key]) for stage_facts in facts.values() for key in keys if key in stage_facts]

    return {
        "run/wall_s": round(sum(values("run/wall_s", "run/evaluate_wall_s")), 3),
        "run/peak_memory_bytes": int(max(values("run/peak_memory_bytes", "run/evaluate_peak_memory_bytes"), default=0)),
        "run/attempts": int(max(values("run/attempts"), default=0)),
    }
