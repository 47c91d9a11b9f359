"""report.html: self-contained, opens offline; pictures are inline SVG. Its looks are in report.html.jinja."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib

matplotlib.use("svg")  # before pyplot is imported: the backend is chosen once
import matplotlib.pyplot as plt

from pipelines.verbs import lineage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pipelines.report import Card
    from pipelines.store import Artifact, Store

TEMPLATE = Path(__file__).parent / "report.html.jinja"
LANGUAGES = {"en": "English", "zh": "中文"}
INK, BLUE, ORANGE, GREY = "#64748b", "#2563eb", "#ea580c", "#94a3b8"


def page(store: Store, card: Card) -> str:
    """The whole page as text."""
    from pipelines.report import figure

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = figure
    last = list(card.artifacts.values())[-1] if card.artifacts else None
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card=card,
        machine=last.manifest.machine if last else {},
        packages=last.manifest.packages if last else {},
        headline=_headline(card),
        plots=_plots(card),
        samples={name: _samples(artifact) for name, artifact in card.evaluations.items()},
        lineage=lineage(store, last) if last else None,
        languages=LANGUAGES,
    )


def _headline(card: Card) -> list[tuple[str, str, str]]:
    """The few figures a reader looks for first: value, what it is, and how it compares."""
    found = []
    judged = [facts for facts in card.facts.values() if "heldout/bits_per_byte" in facts]
    for facts in judged[-1:]:
        for code, language in LANGUAGES.items():
            bits = facts.get(f"heldout/bits_per_byte_{code}")
            uniform = facts.get(f"heldout/bits_per_byte_uniform_{code}")
            unigram = facts.get(f"heldout/bits_per_byte_unigram_{code}")
            if bits is not None and uniform:
                against = f"{1 - float(bits) / float(uniform):.0%} below uniform"
                if unigram:
                    against += f", {1 - float(bits) / float(unigram):.0%} below unigram"
                found.append((f"{float(bits):.2f}", f"bits per byte, {language}", against))
    run = card.facts["run"]
    memory = f"{float(run['run/peak_memory_bytes']) / 2**30:.1f} GiB at most"
    return [*found, (_minutes(float(run["run/wall_s"])), "from raw text", memory)]


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
            pictures.append(("Training loss, nats per token", _curve([json.loads(line) for line in lines])))
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
    figure, axes = _axes(height=0.5 + 0.28 * len(labels))
    bars = axes.barh(range(len(values)), values, color=[BLUE, BLUE] + [GREY] * len(rows))
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.bar_label(bars, labels=[f" {int(v):,}" for v in values], fontsize=8, color=INK)
    axes.margins(x=0.15)
    axes.set_xticks([])
    return _svg(figure)


def _curve(points: list[dict[str, float]]) -> str:
    figure, axes = _axes()
    tokens = [point["train/tokens"] for point in points]
    axes.plot(tokens, [point["train/loss_nats"] for point in points], color=BLUE, linewidth=1.2)
    axes.set_xlabel("tokens")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    rate = axes.twinx()
    rate.plot(tokens, [point["train/learning_rate"] for point in points], color=ORANGE, linewidth=0.9, alpha=0.7)
    rate.set_ylabel("learning rate", color=ORANGE)
    rate.set_ylim(bottom=0)
    _plain(rate)
    return _svg(figure)


def _bits(facts: dict[str, Any]) -> str:
    codes = [code for code in LANGUAGES if f"heldout/bits_per_byte_{code}" in facts]
    figure, axes = _axes(height=2.2)
    kinds = (("uniform_", "uniform", "#cbd5e1"), ("unigram_", "unigram", GREY), ("", "this model", BLUE))
    for number, (infix, label, color) in enumerate(kinds):
        values = [float(facts.get(f"heldout/bits_per_byte_{infix}{code}", 0)) for code in codes]
        bars = axes.bar([i + number * 0.27 for i in range(len(codes))], values, 0.25, label=label, color=color)
        axes.bar_label(bars, fmt="%.2f", fontsize=8, color=INK)
    axes.set_xticks([i + 0.27 for i in range(len(codes))], [{"en": "English", "zh": "Chinese"}[code] for code in codes])
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.margins(y=0.2)
    return _svg(figure)


def _axes(height: float = 2.6) -> tuple[Any, Axes]:
    figure, axes = plt.subplots(figsize=(6.4, height), layout="constrained")
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rayse", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _samples(evaluation: Artifact) -> list[dict[str, str]]:
    file = evaluation.path / "samples.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
