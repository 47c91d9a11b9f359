"""The data card of a corpus on the page: drawings, a table by source and reason, samples side by side, clusters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import cycle, zip_longest
from typing import Any

import numpy as np

from pipelines.report.card import Card
from pipelines.store.artifacts import Artifact

FILE = "data_card.json"
DUPLICATE = "duplicate_"  # reasons that begin so are duplicates
CAPTIONS = {"characters": "Length, characters"}  # of histograms; those of scores have the names of their columns
PALE_BLUE = "#93c5fd"  # of held-out text, beside the blue of training text


def read(artifact: Artifact) -> dict[str, Any] | None:
    """The data card of a corpus; None for other artifacts, and for a corpus that was made before there were any."""
    file = artifact.file(FILE) if artifact.kind == "corpus" else None
    return None if file is None else json.loads(file.read_text(encoding="utf-8"))


def totals(card: Mapping[str, Any]) -> Counter[str]:
    """Numbers of rows that are not used, by reason, of all sources."""
    reasons: Counter[str] = Counter()
    for counts in card["documents"].values():
        reasons.update(counts["dropped"])
    return reasons


def views(card: Card) -> dict[str, dict[str, Any]]:
    """Template variables for the data card of each corpus of a run, by stage."""
    data_cards = {name: read(artifact) for name, artifact in card.artifacts.items()}
    return {name: _view(data) for name, data in data_cards.items() if data is not None}


def _view(data: dict[str, Any]) -> dict[str, Any]:
    reasons = totals(data)
    return {
        **data,
        "totals": reasons,
        "reasons": [reason for reason, _ in reasons.most_common()],
        "pairs": _pairs(data, [reason for reason, _ in reasons.most_common() if reason in data["dropped"]]),
        "plots": [("What became of each source", _funnel(data["documents"])), *_histograms(data["histograms"])],
    }


def _pairs(data: dict[str, Any], reasons: list[str]) -> dict[str, list[tuple[dict[str, Any], dict[str, Any] | None]]]:
    """By reason, each dropped sample beside a kept one of its source, in turn; None where the source has none."""
    kept = {
        source: cycle(sample for samples in zip_longest(*by_language.values()) for sample in samples if sample)
        for source, by_language in data["kept"].items()
    }
    return {
        reason: [(dropped, next(kept[dropped["source"]]) if dropped["source"] in kept else None)
                 for dropped in data["dropped"][reason]] for reason in reasons
    }  # fmt: skip


def _funnel(documents: Mapping[str, Any]) -> str:
    """Bars of the shares of each source's rows: training, held out, duplicates, dropped for other reasons."""
    from pipelines.report.drawing import BLUE, GREY, INK, ORANGE, new_axes, svg

    figure, axes = new_axes(width=4.2, height=0.7 + 0.25 * len(documents))
    names = list(documents)
    shares = np.array([_shares(counts) for counts in documents.values()])
    left = np.zeros(len(names))
    labels = ("training", "held out", "duplicates", "other reasons")
    for column, (label, color) in enumerate(zip(labels, (BLUE, PALE_BLUE, GREY, ORANGE), strict=True)):
        axes.barh(range(len(names)), shares[:, column], left=left, color=color, label=label)
        left += shares[:, column]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8, labelcolor=INK)
    return svg(figure)


def _shares(counts: Mapping[str, Any]) -> list[float]:
    duplicates = sum(number for reason, number in counts["dropped"].items() if reason.startswith(DUPLICATE))
    others = sum(counts["dropped"].values()) - duplicates
    return [number / max(counts["read"], 1) for number in (counts["train"], counts["held_out"], duplicates, others)]


def _histograms(histograms: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, histogram in histograms.items():
        yield f"{CAPTIONS.get(name, name)}: share of each language's documents", _histogram(histogram)


def shares_of_bins(histogram: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The bins of a histogram but for empty ones at its ends, and each language's share of documents in them."""
    counts = {language: np.array(numbers, float) for language, numbers in sorted(histogram["counts"].items())}
    filled = np.flatnonzero(sum(counts.values()))
    bins = np.arange(filled[0], filled[-1] + 1) if len(filled) else np.arange(1)
    return bins, {language: numbers[bins] / max(numbers.sum(), 1) for language, numbers in counts.items()}


def edge_label(edge: float) -> str:
    """An edge of a bin: 1,448 characters; a score of 0.125."""
    return f"{edge:,.0f}" if edge >= 100 else f"{edge:.3g}"


def _histogram(histogram: Mapping[str, Any]) -> str:
    """Bars of each language's share of documents in each bin, without empty bins at the ends."""
    from pipelines.report.drawing import BLUE, GREY, INK, ORANGE, new_axes, svg

    bins, shares = shares_of_bins(histogram)
    languages = list(shares)
    figure, axes = new_axes(width=4.2, height=2.2)
    width = 0.9 / len(languages)
    for number, language in enumerate(languages):
        places, color = bins + (number - (len(languages) - 1) / 2) * width, (BLUE, ORANGE, GREY)[number % 3]
        axes.bar(places, 100 * shares[language], width, label=language, color=color)
    edges = np.arange(bins[0], bins[-1] + 2, max(1, len(bins) // 5))
    axes.set_xticks(edges - 0.5, [edge_label(histogram["edges"][edge]) for edge in edges])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return svg(figure)
