"""The report card: one object of facts, a table in the terminal, and report.html.

    run record ──► artifacts' manifests ──► {stage: {area/what_unit: value}, "run": totals} ──► JSON | table | page

Everything is read from what runs left in the store; nothing is measured here, so a run that makes nothing changes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.store.artifacts import Artifact, Store, read_json
from pipelines.store.facts import Facts
from pipelines.store.runs import RunRecord, latest
from pipelines.sweep import trials
from pipelines.sweep.trials import SweepRecord

SHOWN = 10  # figures of a stage in the terminal table; report.html and --json have all


@dataclass(frozen=True)
class Card:
    """A run and the artifacts it stands on, ready to be shown."""

    record: RunRecord
    artifacts: dict[str, Artifact]  # by stage
    evaluations: dict[str, Artifact]  # by the stage whose model they judge
    facts: dict[str, Facts]  # by stage, and "run"
    sweep: SweepRecord | None = None  # the recipe's last


def card(store: Store, recipe: str | None = None) -> Card:
    """Gathers the latest run (of one recipe). Stages that are not made yet are left out."""
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
            facts[name] |= _as_judged(evaluation.facts)
    _add_benchmarks(store, facts)
    facts["run"] = _totals(facts)
    return Card(record, artifacts, evaluations, facts, trials.latest(store, record.recipe))


def _add_benchmarks(store: Store, facts: dict[str, Facts]) -> None:
    """What `make bench` measured beside this store: the bare loop's speed, under each stage that trained."""
    file = store.root / "bench.json"
    figures = read_json(file) if file.is_file() else {}
    for own in facts.values():
        if "train/tokens_per_s" in own and "train/tokens_per_s_bare" in figures:
            own["train/tokens_per_s_bare"] = figures["train/tokens_per_s_bare"]


def _as_judged(facts: Facts) -> Facts:
    """An evaluation's facts under its model's name; what it cost is told apart from what the stage cost."""
    own = {key: value for key, value in facts.items() if not key.startswith("run/")}
    return own | {
        "run/evaluate_wall_s": facts["run/wall_s"],
        "run/evaluate_peak_memory_bytes": facts["run/peak_memory_bytes"],
    }


def _totals(facts: dict[str, Facts]) -> Facts:
    def all_of(*keys: str) -> list[float]:
        return [float(own[key]) for own in facts.values() for key in keys if key in own]

    return {
        "run/wall_s": round(sum(all_of("run/wall_s", "run/evaluate_wall_s")), 3),
        "run/peak_memory_bytes": int(max(all_of("run/peak_memory_bytes", "run/evaluate_peak_memory_bytes"), default=0)),
        "run/attempts": int(max(all_of("run/attempts"), default=0)),
    }


HEADLINES = (  # what is worth most first
    "latency/first_token_s_p50", "latency/reply_s_p50", "latency/first_request_ratio", "start/ready_s",
    "served/exact_match", "guard/declined_unsafe", "guard/declined_safe",
    "model/bytes_before", "model/bytes", "engine/tokens_per_s_before", "engine/tokens_per_s",
    "heldout/bits_per_byte_before", "guard/precision_en", "guard/precision_zh", "guard/recall_en", "guard/recall_zh",
    "heldout/win_rate", "heldout/win_rate_low", "heldout/exact_match", "heldout/exact_match_en",
    "heldout/exact_match_zh", "heldout/exact_match_baseline", "heldout/kl_nats", "heldout/declined_unsafe",
    "heldout/declined_safe", "heldout/reply_tokens", "heldout/reply_tokens_before", "heldout/accuracy",
    "heldout/accuracy_low", "heldout/accuracy_length_only", "heldout/accuracy_bag_of_characters",
    "heldout/bits_per_byte", "heldout/bits_per_byte_en", "heldout/bits_per_byte_zh", "heldout/bits_per_byte_uniform",
    "heldout/bits_per_byte_unigram", "documents/read", "documents/kept", "documents/held_out",
    "text/bytes_per_token_en", "text/bytes_per_token_zh", "rows/train", "tokens/train", "rollout/tokens_per_s",
    "publish/logprob_gap", "train/parameters", "train/tokens_per_s", "train/peak_share", "train/loss_nats",
)  # fmt: skip


def headlines(facts: Facts) -> list[str]:
    """What the table shows of a stage."""
    return [f"{key} {figure(facts[key])}" for key in HEADLINES if key in facts][:SHOWN]


def figure(value: float | int | str) -> str:
    """A figure as people read it."""
    if isinstance(value, str):
        return value
    if float(value).is_integer() and abs(value) >= 1:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
