"""The data card of a corpus: what it has, what was dropped and why, with samples. Bounded, whatever the corpus.

    a file of documents ──summarise──► summary    counts, histograms, samples of the lowest seeded hashes
    rejected rows ──summarise_rejected──► summary
    summaries ──merged──► one summary ──data_card──► the card, at most MAX_BYTES of JSON

A summary is a nested dictionary of JSON, and so small that any number of them are added up by one task.
"""

from __future__ import annotations

import json
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.corpus.corpora import SPLITS
from pipelines.data.corpus.splitting import salted_hashes

MAX_BYTES = 200_000
NUM_SAMPLES = 4  # of each reason, and of each source and language
MAX_SOURCES, MAX_REASONS = 24, 24  # those with the most documents; the others are added up
MAX_SAMPLED_SOURCES = 8
MAX_SAMPLED_REASONS = 1000  # in one summary: a function of the user's may return a new reason for every document
MAX_NAME = 80  # characters of a reason or a place
EXCERPT = 240  # characters of a sample, less where the card would be too large
LENGTH = "characters"  # the histogram of the documents' lengths
LENGTH_EDGES = [0.0, *(float(round(2 ** (number / 2))) for number in range(6, 49))]  # two bins for each doubling
NUM_BINS = 20  # of a histogram of scores

Summary = dict[str, Any]
"""documents: {source: {train, held_out: number, dropped: {reason: number}}}; languages: {source: {language: {documents,
bytes}}}; histograms: {column: {language: [number in each bin]}}; kept: {source: {language: [sample]}}; dropped:
{reason: [sample]}. A sample has its `order` (a seeded hash), source, place and text, a dropped one its problem, too."""


def score_columns(schema: pa.Schema) -> list[str]:
    """The columns of documents that are scores: those of floating-point numbers, such as `quality`."""
    return [field.name for field in schema if pa.types.is_floating(field.type)]


def summarise(batches: Iterable[pa.RecordBatch], split: str, *, edges: Mapping[str, list[float]], seed: int) -> Summary:
    """Summarises documents of a split. edges: of the bins of each histogram, by its column; LENGTH among them."""
    documents: dict[str, Counter[str]] = defaultdict(Counter)
    languages: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    histograms: dict[str, dict[str, list[int]]] = {name: {} for name in edges}
    kept: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for batch in batches:
        ids, sources, language_names, texts = (batch.column(name) for name in ("id", "source", "language", "text"))
        sizes = pc.call_function("binary_length", [texts])
        rows = pa.table({"source": sources, "language": language_names, "bytes": sizes}).group_by(
            ["source", "language"], use_threads=False
        )
        for row in rows.aggregate([([], "count_all"), ("bytes", "sum")]).to_pylist():
            source, language = row["source"], row["language"]
            documents[source][split] += row["count_all"]
            languages[source][language].update(documents=row["count_all"], bytes=row["bytes_sum"])
            kept[source].setdefault(language, [])
        orders_D = salted_hashes(ids, f"{seed}")
        kinds = pc.call_function("binary_join_element_wise", [sources, language_names, "/"])
        for row in _lowest(kinds, orders_D).tolist():
            source, language, order = sources[row].as_py(), language_names[row].as_py(), int(orders_D[row])
            if _is_low(samples := kept[source][language], order):
                _keep(samples, order, source, ids[row].as_py(), texts[row].as_py())
        for name, bounds in edges.items():
            values = pc.call_function("utf8_length", [texts]) if name == LENGTH else batch.column(name)
            _add_to_histogram(histograms[name], values, np.array(language_names.to_pylist()), bounds)
    return {"documents": documents, "languages": languages, "histograms": histograms, "kept": kept}


def summarise_rejected(batches: Iterable[pa.RecordBatch], *, seed: int) -> Summary:
    """Summarises rows of REJECTED, whatever their reasons."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    dropped: dict[str, list[dict[str, Any]]] = {}
    for batch in batches:
        reasons = pc.call_function("utf8_slice_codeunits", [batch.column("reason")], pc.SliceOptions(0, MAX_NAME))
        rows = pa.table({"source": batch.column("source"), "reason": reasons}).group_by(
            ["source", "reason"], use_threads=False
        )
        for row in rows.aggregate([([], "count_all")]).to_pylist():
            counts[row["source"]][row["reason"]] += row["count_all"]
        numbers = pc.call_function("cast", [batch.column("row")], pc.CastOptions.safe(pa.string()))
        places = pc.call_function("binary_join_element_wise", [batch.column("where"), numbers, ":"])
        names = pc.call_function("binary_join_element_wise", [batch.column("source"), places, "/"])
        orders_R = salted_hashes(names, f"{seed}")
        for position in _lowest(reasons, orders_R).tolist():
            reason, order = reasons[position].as_py(), int(orders_R[position])
            if reason not in dropped and len(dropped) >= MAX_SAMPLED_REASONS:
                continue
            if _is_low(samples := dropped.setdefault(reason, []), order):
                values = batch.slice(position, 1).to_pylist()[0]
                problem = excerpt(values["problem"] or "")
                _keep(samples, order, values["source"], places[position].as_py(), values["raw"], problem=problem)
    return {"documents": {source: {"dropped": reasons} for source, reasons in counts.items()}, "dropped": dropped}


def _lowest(kinds: pa.Array, orders_R: np.ndarray) -> np.ndarray:
    """Returns int64: the rows of each kind with the NUM_SAMPLES lowest orders, of equal orders the first; ascending."""
    codes_R = kinds.dictionary_encode().indices.to_numpy()
    rows = np.lexsort((orders_R, codes_R))
    begins = np.searchsorted(codes_R[rows], codes_R[rows])  # of each row its kind's first
    return np.sort(rows[np.arange(len(rows)) - begins < NUM_SAMPLES])


def _is_low(samples: Sequence[Mapping[str, Any]], order: int) -> bool:
    """Whether a sample of this order is among the NUM_SAMPLES with the lowest."""
    return len(samples) < NUM_SAMPLES or order < samples[-1]["order"]


def _keep(samples: list[dict[str, Any]], order: int, source: str, place: str, text: str, **more: str) -> None:
    place = place if len(place) <= MAX_NAME else f"…{place[1 - MAX_NAME :]}"
    sample = {"order": order, "source": source, "place": place, "text": excerpt(text or ""), **more}
    insort(samples, sample, key=_order)
    del samples[NUM_SAMPLES:]


def _order(sample: Mapping[str, Any]) -> int:
    return sample["order"]


def excerpt(text: str, characters: int = EXCERPT) -> str:
    """The beginning of a text in one line."""
    words = " ".join(text[: 4 * characters].split())
    return words if len(words) <= characters else f"{words[: characters - 1]}…"


def _add_to_histogram(
    histograms: dict[str, list[int]], values: pa.Array, languages_D: np.ndarray, edges: list[float]
) -> None:
    """Adds the values of each language to its histogram; its first and last bins have those beyond them, too."""
    values_D = values.to_numpy(zero_copy_only=False).astype(np.float64)
    bins_D = np.clip(np.searchsorted(edges, values_D, side="right") - 1, 0, len(edges) - 2)
    for language in np.unique(languages_D).tolist():
        counts = np.bincount(bins_D[(languages_D == language) & ~np.isnan(values_D)], minlength=len(edges) - 1)
        histograms[language] = (np.array(histograms.get(language, 0)) + counts).tolist()


def merged(first: Any, second: Any) -> Any:
    """Adds two summaries: numbers are added, of samples those with the lowest order are kept."""
    if isinstance(first, Mapping):
        both = {**first, **second}
        return {key: merged(first[key], second[key]) if key in first and key in second else both[key] for key in both}
    if not isinstance(first, list):
        return first + second
    if any(isinstance(entry, Mapping) for entry in (*first, *second)):
        return sorted([*first, *second], key=_order)[:NUM_SAMPLES]
    return [a + b for a, b in zip(first, second, strict=True)]


def bin_edges(low: float, high: float) -> list[float]:
    """Edges of NUM_BINS equal bins from the lowest to the highest value of a score."""
    return np.linspace(low, high if high > low else low + 1, NUM_BINS + 1).tolist()


def data_card(
    summary: Summary,
    *,
    read: Mapping[str, int],
    edges: Mapping[str, list[float]],
    clusters: list[dict[str, Any]],
    groups: Mapping[str, Mapping[str, Any]] | None = None,
) -> bytes:
    """The card as JSON, at most MAX_BYTES. A summary without its samples' order, with the bins of its histograms; one
    without a value is left out.

    read: rows read from each source. clusters: the largest groups of near duplicates, {documents, members}. groups: of
    people, {read, kept, dropped by reason}; no key of the card where there are none."""
    documents = {source: _funnel(read[source], summary["documents"].get(source, {})) for source in sorted(read)}
    dropped = Counter[str]()
    for counts in documents.values():
        dropped.update(counts["dropped"])
    reasons = [reason for reason, _ in sorted(dropped.items(), key=lambda item: (-item[1], item[0]))]
    sources = sorted(read, key=lambda source: (-read[source], source))
    for counts in documents.values():
        counts["dropped"] = _limited(counts["dropped"], reasons[:MAX_REASONS], "other reasons")
    card = {
        "documents": _limited(documents, sources[:MAX_SOURCES], "other sources"),
        "languages": _limited(summary["languages"], sources[:MAX_SOURCES], "other sources"),
        "histograms": {
            name: {"edges": edges[name], "counts": counts}
            for name, counts in summary["histograms"].items()
            if any(map(any, counts.values()))
        },
        "kept": {name: summary["kept"][name] for name in sources[:MAX_SAMPLED_SOURCES] if name in summary["kept"]},
        "dropped": {name: summary["dropped"][name] for name in reasons[:MAX_REASONS] if name in summary["dropped"]},
        "near_duplicates": clusters,
    }
    if groups:
        card["groups"] = {
            name: {**of, "dropped": _limited(of["dropped"], reasons[:MAX_REASONS], "other reasons")}
            for name, of in groups.items()
        }
    characters = EXCERPT
    while len(text := _json(card, characters)) > MAX_BYTES and characters:
        characters //= 2
    return text


def _funnel(num_read: int, counts: Mapping[str, Any]) -> dict[str, Any]:
    """What became of the rows of a source."""
    dropped = Counter(counts.get("dropped", {}))
    kept = {split: counts.get(split, 0) for split in SPLITS}
    return {"read": num_read, **kept, "dropped": dict(dropped)}


def _limited(values: Mapping[str, Any], names: Sequence[str], others: str) -> dict[str, Any]:
    """The values with these names, in their order; the rest is added up."""
    limited = {name: values[name] for name in names if name in values}
    rest = [value for name, value in values.items() if name not in limited]
    return limited | ({f"({others})": reduce(merged, rest)} if rest else {})


def _json(card: Mapping[str, Any], characters: int) -> bytes:
    """JSON of the card, its texts cut to so many characters."""

    def shortened(value: Any) -> Any:
        if isinstance(value, Mapping) and isinstance(value.get("text"), str):  # a sample; a source may have such a name
            return {key: excerpt(inner, characters) if key in ("text", "problem") else inner
                    for key, inner in value.items() if key != "order"}  # fmt: skip
        if isinstance(value, Mapping):
            return {key: shortened(inner) for key, inner in value.items()}
        return [shortened(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(shortened(card), ensure_ascii=False).encode(errors="replace")
