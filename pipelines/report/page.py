"""report.html: self-contained, opens offline; pictures are inline SVG. Its looks are in report.html.jinja."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.ticker import MaxNLocator

from pipelines.report import sweep as sweep_report
from pipelines.report.card import Card, figure
from pipelines.report.drawing import BLUE, GREY, INK, new_axes, svg
from pipelines.store.artifacts import Store
from pipelines.store.lineage import lineage

TEMPLATE = Path(__file__).parent / "report.html.jinja"
LANGUAGES = {"en": "English", "zh": "中文"}
ALONG = {"ppo/iteration": "iteration", "train/tokens": "tokens", "train/step": "step"}  # what curves go on by
CAPTIONS = {
    "train/loss_nats": "Training loss, nats per token",
    "train/learning_rate": "Learning rate",
    "train/gradient_norm": "Norm of the gradient before clipping (Muon: with its orthogonalised updates)",
}


def page(store: Store, card: Card) -> str:
    """The whole page as text."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = figure
    last = list(card.artifacts.values())[-1] if card.artifacts else None
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card=card,
        machine=last.manifest.machine if last else {},
        packages=last.manifest.packages if last else {},
        headline=_headline(card),
        plots=_plots(card),
        samples=_written(card, "samples"),
        replies=_written(card, "replies"),
        trials=_trials(card),
        lineage=lineage(store, last) if last else None,
        languages=LANGUAGES,
    )


def _headline(card: Card) -> list[tuple[str, str, str]]:
    """The few figures a reader looks for first: value, what it is, and how it compares."""
    found = [*_aligned(card)]
    judged = [facts for facts in card.facts.values() if "heldout/bits_per_byte" in facts]
    untaught = [facts for facts in judged if "heldout/exact_match" not in facts]
    for facts in (untaught or judged)[-1:]:  # text is what base models learn; later ones give some of it up
        for code, language in LANGUAGES.items():
            bits = facts.get(f"heldout/bits_per_byte_{code}")
            uniform = facts.get(f"heldout/bits_per_byte_uniform_{code}")
            unigram = facts.get(f"heldout/bits_per_byte_unigram_{code}")
            if bits is not None and uniform:
                against = f"{1 - float(bits) / float(uniform):.0%} below uniform"
                if unigram:
                    against += f", {1 - float(bits) / float(unigram):.0%} below unigram"
                found.append((f"{float(bits):.2f}", f"bits per byte, {language}", against))
    for facts in card.facts.values():
        if "latency/first_token_s_p50" in facts:
            first, whole = float(facts["latency/first_token_s_p50"]), float(facts["latency/reply_s_p50"])
            found.append((f"{first:.2f} s", "to the first words of a reply", f"{whole:.2f} s to the last; over HTTP"))
    run = card.facts["run"]
    memory = f"{float(run['run/peak_memory_bytes']) / 2**30:.1f} GiB at most"
    return [*found, (_minutes(float(run["run/wall_s"])), "from raw text", memory)]


def _aligned(card: Card) -> Iterator[tuple[str, str, str]]:
    """Exact match and win rate of the last models that were judged on conversations."""
    judged = [(name, facts) for name, facts in card.facts.items() if "heldout/exact_match" in facts]
    for name, facts in judged[-1:]:
        for code, language in LANGUAGES.items():
            baselines = [own[f"heldout/exact_match_baseline_{code}"] for _, own in judged
                         if f"heldout/exact_match_baseline_{code}" in own]  # fmt: skip
            if f"heldout/exact_match_{code}" in facts:
                value = float(facts[f"heldout/exact_match_{code}"])
                against = f"; baseline {float(baselines[-1]):.0%}" if baselines else ""
                yield f"{value:.0%}", f"exact match, {language}", f"{name}, on held-out prompts{against}"
    compared = [(name, facts) for name, facts in card.facts.items() if "heldout/win_rate" in facts]
    for name, facts in compared[-1:]:
        value, low = float(facts["heldout/win_rate"]), float(facts["heldout/win_rate_low"])
        against = f"at least {low:.1%} with 95% confidence, {facts['heldout/win_rate_prompts']} prompts"
        yield f"{value:.1%}", f"win rate of {name} over the model before", against


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _plots(card: Card) -> dict[str, list[tuple[str, str]]]:
    """Pictures by stage: (caption, svg)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, artifact in card.artifacts.items():
        pictures = []
        funnel = {k: float(v) for k, v in artifact.facts.items() if k.startswith("documents/dropped_")}
        if funnel:
            pictures.append(("What happened to the documents", _funnel(card.facts[name])))
        curve = artifact.path / "curve.jsonl"
        if curve.is_file():
            lines = curve.read_text(encoding="utf-8").splitlines()
            pictures += _curves([json.loads(line) for line in lines])
        if "heldout/bits_per_byte" in card.facts[name]:
            pictures.append(("Held-out bits per byte: lower is better", _bits(card.facts[name])))
        if pictures:
            found[name] = pictures
    return found


def _funnel(facts: dict[str, Any]) -> str:
    prefix = "documents/dropped_"
    dropped = {k.removeprefix(prefix): float(v) for k, v in facts.items() if k.startswith(prefix)}
    rows = sorted(((v, k.replace("_", " ")) for k, v in dropped.items() if v), reverse=True)
    kept = float(facts.get("documents/kept", 0))
    held = float(facts.get("documents/held_out", 0))
    labels = ["kept for training", "held out", *(name for _, name in rows)]
    values = [kept - held, held, *(value for value, _ in rows)]
    figure, axes = new_axes(height=0.5 + 0.28 * len(labels))
    bars = axes.barh(range(len(values)), values, color=[BLUE, BLUE] + [GREY] * len(rows))
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.bar_label(bars, labels=[f" {int(v):,}" for v in values], fontsize=8, color=INK)
    axes.margins(x=0.15)
    axes.set_xticks([])
    return svg(figure)


def _curves(points: list[dict[str, float]]) -> list[tuple[str, str]]:
    """A picture of each series of a curve against what it went on by: (caption, svg)."""
    keys = list(dict.fromkeys(key for point in points for key in point))
    along = next((key for key in ALONG if key in keys), None)
    if along is None:
        return []
    found = []
    for key in keys:
        drawn = [(point[along], point[key]) for point in points if key in point and along in point]
        if key not in ALONG and all(isinstance(value, int | float) for _, value in drawn):
            found.append((CAPTIONS.get(key, key), _curve(drawn, along)))
    return found


def _curve(points: list[tuple[float, float]], along: str) -> str:
    figure, axes = new_axes(width=4.2, height=2.2)
    few = len(points) <= 40
    axes.plot(*zip(*points, strict=True), color=BLUE, linewidth=1.2, marker="o" if few else None, markersize=3)
    axes.set_xlabel(ALONG[along])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
    return svg(figure)


def _bits(facts: dict[str, Any]) -> str:
    codes = [code for code in LANGUAGES if f"heldout/bits_per_byte_{code}" in facts]
    figure, axes = new_axes(width=4.2, height=2.2)
    kinds = [("uniform_", "uniform", "#cbd5e1"), ("unigram_", "unigram", GREY), ("", "this model", BLUE)]
    kinds = [kind for kind in kinds if any(f"heldout/bits_per_byte_{kind[0]}{code}" in facts for code in codes)]
    for number, (infix, label, color) in enumerate(kinds):
        values = [float(facts.get(f"heldout/bits_per_byte_{infix}{code}", 0)) for code in codes]
        bars = axes.bar([i + number * 0.27 for i in range(len(codes))], values, 0.25, label=label, color=color)
        axes.bar_label(bars, fmt="%.2f", fontsize=8, color=INK)
    axes.set_xticks([i + 0.27 for i in range(len(codes))], [{"en": "English", "zh": "Chinese"}[code] for code in codes])
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.margins(y=0.2)
    return svg(figure)


def _trials(card: Card) -> dict[str, Any] | None:
    """What the page shows of the recipe's last sweep."""
    if card.sweep is None:
        return None
    names = sweep_report.short_names(list(card.sweep.spaces))
    return {"sweep": card.sweep, "names": names, "pictures": sweep_report.pictures(card.sweep),
            "outcome": sweep_report.outcome}  # fmt: skip


def _written(card: Card, metric: str) -> dict[str, list[dict[str, Any]]]:
    """What models wrote, by stage: a metric's rows for people to read, of evaluations and of trials."""
    found = {}
    tried = {name: artifact for name, artifact in card.artifacts.items() if artifact.kind == "trial"}
    for name, artifact in {**card.evaluations, **tried}.items():
        file = artifact.path / "samples.json"
        rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
        own = [row for row in rows if row["metric"] == metric]
        if own:
            found[name] = own
    return found
