"""The report card: one object of facts, a table in the terminal, and report.html.

    run record ──► artifacts' manifests ──► {stage: {area/what_unit: value}, "run": totals} ──► JSON | table | page

Everything is read from what runs left in the store; nothing is measured here, so a run that makes nothing changes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines import sweep_report, trials
from pipelines.errors import UserError
from pipelines.runs import RunRecord, latest
from pipelines.stage import Facts
from pipelines.store import Artifact, Store, read_json, write_atomically
from pipelines.trials import SweepRecord
from pipelines.verbs import print_json

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


def show_report(store: Store, *, recipe: str | None, out: Path | None, as_json: bool) -> None:
    """`rayse report`: JSON on stdout, or the table, with report.html in the store."""
    found = card(store, recipe)
    if as_json:
        own = {} if found.sweep is None else {"sweep": sweep_report.facts(found.sweep)}
        return print_json(found.facts | own)
    from pipelines.report_page import page

    place = out or store.root / "report.html"
    try:
        write_atomically(place, page(store, found))
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror}); name another file with --out") from None
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(_table(found))
    if found.sweep is not None:
        console.print(sweep_report.table(found.sweep))
    console.print(f"report: {place}", soft_wrap=True)


def _table(found: Card) -> Table:
    machine = next(iter(found.artifacts.values())).manifest.machine if found.artifacts else {}
    table = Table(
        title=f"{found.record.recipe} · {found.record.outcome} · {machine.get('cpu', '')} × {machine.get('cores', '')}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in ("stage", "time", "memory", "figures"):
        table.add_column(column, justify="right" if column in ("time", "memory") else "left", overflow="fold")
    for name, facts in found.facts.items():
        time_s = float(facts["run/wall_s"]) + float(facts.get("run/evaluate_wall_s", 0))
        memory = f"{float(facts['run/peak_memory_bytes']) / 2**30:.1f} GiB"
        style = "bold" if name == "run" else ""
        table.add_row(name, f"{time_s:.1f} s", memory, "  ".join(_headlines(facts)), style=style)
    return table


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


def _headlines(facts: Facts) -> list[str]:
    return [f"{key} {figure(facts[key])}" for key in HEADLINES if key in facts][:SHOWN]


def figure(value: float | int | str) -> str:
    """A figure as people read it."""
    if isinstance(value, str):
        return value
    if float(value).is_integer() and abs(value) >= 1:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
