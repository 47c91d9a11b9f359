"""The page report.html: self-contained, with plots as inline SVG. Its layout is report.html.jinja."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.ticker import MaxNLocator

from pipelines.metrics.bits_per_byte import BY_SOURCE
from pipelines.report import data_card
from pipelines.report import sweep as sweep_report
from pipelines.report.card import Card
from pipelines.report.drawing import BLUE, GREY, INK, new_axes, svg
from pipelines.report.figures import caption, headlines, name_and_value, plain_number
from pipelines.store.artifacts import Store
from pipelines.store.lineage import lineage
from pipelines.sweep.tracker import short_names

DROPPED = "documents/dropped_"  # facts: documents dropped, by reason
TEMPLATE = Path(__file__).parent / "report.html.jinja"
LANGUAGES = {"en": "English", "zh": "中文"}
X_AXES = {"ppo/iteration": "iteration", "train/tokens": "tokens", "train/step": "step"}  # keys of curves, and labels


def page(store: Store, card: Card) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = plain_number
    last = list(card.artifacts.values())[-1] if card.artifacts else None
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card=card,
        machine=last.manifest.machine if last else {},
        packages=last.manifest.packages if last else {},
        highlights=_highlights(card),
        figures={name: headlines(artifact.kind, card.facts[name]) for name, artifact in card.artifacts.items()},
        name_and_value=name_and_value,
        plots=_plots(card),
        data_cards=data_card.views(card),
        samples=_samples(card, "samples"),
        replies=_samples(card, "replies"),
        trials=_trials(card),
        lineage=lineage(store, last) if last else None,
        languages=LANGUAGES,
    )


Highlight = tuple[str, str, str]
"""Value, name and comparison of a figure at the top of the page."""


def _highlights(card: Card) -> list[Highlight]:
    """The most important figures of the run."""
    return [*_quality(card), *_compression(card), *_latency(card), _cost(card)]


def _quality(card: Card) -> Iterator[Highlight]:
    """Exact match and win rate of the last models that were evaluated on conversations."""
    evaluated = [name for name, facts in card.facts.items() if "heldout/exact_match" in facts]
    for name in evaluated[-1:]:
        for code, language in LANGUAGES.items():
            key, baseline_key = f"heldout/exact_match_{code}", f"heldout/exact_match_baseline_{code}"
            baselines = [float(card.facts[n][baseline_key]) for n in evaluated if baseline_key in card.facts[n]]
            if key in card.facts[name]:
                comparison = f"{name}, on held-out prompts"
                comparison += f"; baseline {baselines[-1]:.0%}" if baselines else ""
                yield f"{float(card.facts[name][key]):.0%}", f"exact match, {language}", comparison
    compared = [name for name, facts in card.facts.items() if "heldout/win_rate" in facts]
    for name in compared[-1:]:
        facts = card.facts[name]
        rate, low = float(facts["heldout/win_rate"]), float(facts["heldout/win_rate_low"])
        comparison = f"at least {low:.1%} with 95% confidence, {facts['heldout/win_rate_prompts']} prompts"
        yield f"{rate:.1%}", f"win rate of {name} over the model before", comparison


def _compression(card: Card) -> Iterator[Highlight]:
    """Bits per byte of the last base model, or of the last model if there is none: fine-tuning makes them worse."""
    evaluated = [facts for facts in card.facts.values() if "heldout/bits_per_byte" in facts]
    base_models = [facts for facts in evaluated if "heldout/exact_match" not in facts]
    for facts in (base_models or evaluated)[-1:]:
        for code, language in LANGUAGES.items():
            bits = facts.get(f"heldout/bits_per_byte_{code}")
            uniform = facts.get(f"heldout/bits_per_byte_uniform_{code}")
            unigram = facts.get(f"heldout/bits_per_byte_unigram_{code}")
            if bits is not None and uniform:
                comparison = f"{1 - float(bits) / float(uniform):.0%} below uniform"
                if unigram:
                    comparison += f", {1 - float(bits) / float(unigram):.0%} below unigram"
                yield f"{float(bits):.2f}", f"bits per byte, {language}", comparison


def _latency(card: Card) -> Iterator[Highlight]:
    """Latency of replies over HTTP."""
    for facts in card.facts.values():
        if "latency/first_token_s_p50" in facts:
            first, reply = float(facts["latency/first_token_s_p50"]), float(facts["latency/reply_s_p50"])
            yield f"{first:.2f} s", "to the first token of a reply", f"{reply:.2f} s to the last; over HTTP"


def _cost(card: Card) -> Highlight:
    """Time and peak memory of the run."""
    run = card.facts["run"]
    seconds, memory_bytes = float(run["run/wall_s"]), float(run["run/peak_memory_bytes"])
    time = f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return time, "from raw text", f"{memory_bytes / 2**30:.1f} GiB at most"


def _plots(card: Card) -> dict[str, list[tuple[str, str]]]:
    """Plots by stage: (caption, svg)."""
    plots: dict[str, list[tuple[str, str]]] = {}
    for name, artifact in card.artifacts.items():
        pictures = []
        if any(key.startswith(DROPPED) for key in artifact.facts):
            pictures.append(("Documents by outcome", _funnel(card.facts[name])))
        curve = artifact.file("curve.jsonl")
        if curve is not None:
            lines = curve.read_text(encoding="utf-8").splitlines()
            pictures += _curves([json.loads(line) for line in lines])
        if "heldout/bits_per_byte" in card.facts[name]:
            pictures.append(("Held-out bits per byte: lower is better", _bits_per_byte(card.facts[name])))
        if any(key.startswith(BY_SOURCE) for key in card.facts[name]):
            pictures.append(("Held-out bits per byte by source: lower is better", _by_source(card.facts[name])))
        if pictures:
            plots[name] = pictures
    return plots


def _funnel(facts: dict[str, Any]) -> str:
    """Bars of the documents kept, held out, and dropped for each reason."""
    dropped = {key.removeprefix(DROPPED): float(value) for key, value in facts.items() if key.startswith(DROPPED)}
    rows = sorted(((count, reason.replace("_", " ")) for reason, count in dropped.items() if count), reverse=True)
    kept = float(facts.get("documents/kept", 0))
    held_out = float(facts.get("documents/held_out", 0))
    labels = ["kept for training", "held out", *(reason for _, reason in rows)]
    values = [kept - held_out, held_out, *(count for count, _ in rows)]
    figure, axes = new_axes(height=0.5 + 0.28 * len(labels))
    bars = axes.barh(range(len(values)), values, color=[BLUE, BLUE] + [GREY] * len(rows))
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.bar_label(bars, labels=[f" {int(v):,}" for v in values], fontsize=8, color=INK)
    axes.margins(x=0.15)
    axes.set_xticks([])
    return svg(figure)


def _curves(points: list[dict[str, float]]) -> list[tuple[str, str]]:
    """A plot of each numeric series of a curve against its iterations, tokens or steps: (caption, svg)."""
    keys = list(dict.fromkeys(key for point in points for key in point))
    x_key = next((key for key in X_AXES if key in keys), None)
    if x_key is None:
        return []
    plots = []
    for key in keys:
        series = [(point[x_key], point[key]) for point in points if key in point and x_key in point]
        if key not in X_AXES and all(isinstance(value, int | float) for _, value in series):
            plots.append((caption(key), _curve(series, X_AXES[x_key])))
    return plots


def _curve(points: list[tuple[float, float]], x_label: str) -> str:
    figure, axes = new_axes(width=4.2, height=2.2)
    marker = "o" if len(points) <= 40 else None
    axes.plot(*zip(*points, strict=True), color=BLUE, linewidth=1.2, marker=marker, markersize=3)
    axes.set_xlabel(x_label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
    return svg(figure)


def _bits_per_byte(facts: dict[str, Any]) -> str:
    """Bars of the model's bits per byte beside those of the baselines, by language."""
    codes = [code for code in LANGUAGES if f"heldout/bits_per_byte_{code}" in facts]
    figure, axes = new_axes(width=4.2, height=2.2)
    series = [("uniform_", "uniform", "#cbd5e1"), ("unigram_", "unigram", GREY), ("", "this model", BLUE)]
    series = [row for row in series if any(f"heldout/bits_per_byte_{row[0]}{code}" in facts for code in codes)]
    for number, (infix, label, color) in enumerate(series):
        values = [float(facts.get(f"heldout/bits_per_byte_{infix}{code}", 0)) for code in codes]
        bars = axes.bar([i + number * 0.27 for i in range(len(codes))], values, 0.25, label=label, color=color)
        axes.bar_label(bars, fmt="%.2f", fontsize=8, color=INK)
    axes.set_xticks([i + 0.27 for i in range(len(codes))], [{"en": "English", "zh": "Chinese"}[code] for code in codes])
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.margins(y=0.2)
    return svg(figure)


def _by_source(facts: dict[str, Any]) -> str:
    """Bars of the model's bits per byte on the held-out text of each source, the highest first."""
    bits = {key.removeprefix(BY_SOURCE): float(value) for key, value in facts.items() if key.startswith(BY_SOURCE)}
    names = sorted(bits, key=lambda name: (-bits[name], name))
    figure, axes = new_axes(height=0.5 + 0.28 * len(names))
    bars = axes.barh(range(len(names)), [bits[name] for name in names], color=BLUE)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    axes.bar_label(bars, fmt=" %.2f", fontsize=8, color=INK)
    axes.margins(x=0.15)
    axes.set_xticks([])
    return svg(figure)


def _trials(card: Card) -> dict[str, Any] | None:
    """Template variables for the recipe's latest sweep."""
    if card.sweep is None:
        return None
    names = short_names(list(card.sweep.spaces))
    plots = sweep_report.plots(card.sweep)
    return {"sweep": card.sweep, "names": names, "plots": plots, "outcome": sweep_report.outcome}


def _samples(card: Card, metric: str) -> dict[str, list[dict[str, Any]]]:
    """Generated texts by stage: the rows of this metric in samples.json of evaluations and trials."""
    samples = {}
    trials = {name: artifact for name, artifact in card.artifacts.items() if artifact.kind == "trial"}
    for name, artifact in {**card.evaluations, **trials}.items():
        file = artifact.file("samples.json")
        rows = json.loads(file.read_text(encoding="utf-8")) if file is not None else []
        rows = [row for row in rows if row["metric"] == metric]
        if rows:
            samples[name] = rows
    return samples
