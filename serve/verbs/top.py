"""The verb `rayse top`: what a server does now, in the terminal, from its /metrics.

    GET /metrics ──samples──► Sample ──figures(before, now)──► a table, or one line of JSON

Rates are those between two looks; percentiles of times too, or since the server's start where nothing came between.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.live import Live
from rich.table import Table

from serve.client import Client
from serve.gateway.routes import GENERATION

Labels = tuple[tuple[str, str], ...]
Sample = dict[str, dict[Labels, float]]
"""Values by the name of a metric and its labels."""
ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("requests/s", "requests_per_s", "{:.2f}".format),
    ("errors/s (429 and 5xx)", "errors_per_s", "{:.2f}".format),
    ("in flight", "in_flight", "{:.0f}".format),
    ("waiting for the engine", "waiting", "{:.0f}".format),
    ("first text p50, s", "first_text_s_p50", "{:.3g}".format),
    ("first text p95, s", "first_text_s_p95", "{:.3g}".format),
    ("between tokens p50, s", "between_tokens_s_p50", "{:.3g}".format),
    ("between tokens p95, s", "between_tokens_s_p95", "{:.3g}".format),
    ("tokens/s written", "reply_tokens_per_s", "{:.1f}".format),
    ("tokens/s read", "prompt_tokens_per_s", "{:.1f}".format),
    ("declined by the guard", "declined", "{:.0f}".format),
    ("refused by the model", "refused", "{:.0f}".format),
    ("thumbs up", "thumbs_up", "{:.0f}".format),
    ("thumbs down", "thumbs_down", "{:.0f}".format),
    ("keys and values cached", "cache_fraction", "{:.0%}".format),
    ("memory, GB", "memory_gb", "{:.2f}".format),
    ("processors busy", "cpus_busy", "{:.2f}".format),
    ("GPU memory, GB", "gpu_memory_gb", "{:.2f}".format),
)


def parse(text: str) -> Sample:
    """Reads metrics in Prometheus' text format."""
    sample: Sample = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            sample[name][tuple(sorted(labels.items()))] = value
    return sample


def total(sample: Sample, name: str, **matchers: str | tuple[str, ...]) -> float:
    """A metric, summed over its labels and over all replicas. matchers: the values that labels must have."""
    chosen = {label: (values,) if isinstance(values, str) else values for label, values in matchers.items()}
    return sum(value for labels, value in sample.get(name, {}).items()
               if all(dict(labels).get(label) in values for label, values in chosen.items()))  # fmt: skip


def total_of_gpus(sample: Sample, name: str) -> float:
    """A metric, summed over GPUs. Each replica of a machine reports all of its GPUs: of these the maximum counts."""
    largest: dict[Labels, float] = defaultdict(float)
    for labels, value in sample.get(name, {}).items():
        gpu = tuple((label, text) for label, text in labels if label in ("gpu", "node"))
        largest[gpu] = max(largest[gpu], value)
    return sum(largest.values())


def quantile(before: Sample, now: Sample, name: str, fraction: float) -> float | None:
    """A quantile of a histogram's values between two looks, linear within its bucket as Prometheus has it; of all
    values where none came between, None where there are none at all."""
    counts = _buckets(now, name)
    earlier = _buckets(before, name)
    between = {bound: count - earlier.get(bound, 0.0) for bound, count in counts.items()}
    counts = between if max(between.values(), default=0) > 0 else counts
    rank, lower, below = fraction * max(counts.values(), default=0), 0.0, 0.0
    if rank == 0:
        return None
    for bound, count in sorted(counts.items()):
        if count >= rank:
            return lower if bound == float("inf") else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return None


def _buckets(sample: Sample, name: str) -> Mapping[float, float]:
    counts: dict[float, float] = defaultdict(float)
    for labels, count in sample.get(f"{name}_bucket", {}).items():
        counts[float(dict(labels)["le"])] += count
    return counts


def figures(before: Sample, now: Sample, seconds: float) -> dict[str, float | None]:
    """What a server did in the seconds between two looks; counts of guard, model and thumbs since its start."""

    def rate(name: str, **labels: str | tuple[str, ...]) -> float:
        return max(0.0, total(now, name, **labels) - total(before, name, **labels)) / seconds

    statuses = tuple({dict(labels)["status"] for labels in now.get("rayse_requests_total", {})})
    errors = tuple(status for status in statuses if status == "429" or status >= "500")
    times = {"first_text_s": "rayse_first_text_seconds", "between_tokens_s": "vllm:inter_token_latency_seconds"}
    caches = now.get("vllm:kv_cache_usage_perc", {}).values()
    return {
        "requests_per_s": rate("rayse_requests_total", route=GENERATION),
        "errors_per_s": rate("rayse_requests_total", route=GENERATION, status=errors),
        "in_flight": total(now, "rayse_requests_active"),
        "waiting": total(now, "vllm:num_requests_waiting"),
        **{f"{name}_p{percent}": quantile(before, now, metric, percent / 100)
           for name, metric in times.items() for percent in (50, 95)},
        "reply_tokens_per_s": rate("vllm:generation_tokens_total"),
        "prompt_tokens_per_s": rate("vllm:prompt_tokens_total"),
        "declined": total(now, "rayse_guard_declined_total"),
        "refused": total(now, "rayse_refusals_total"),
        "thumbs_up": total(now, "rayse_feedback_total", thumb="up"),
        "thumbs_down": total(now, "rayse_feedback_total", thumb="down"),
        "cache_fraction": max(caches, default=None),
        "memory_gb": total(now, "rayse_memory_bytes") / 1e9,
        "cpus_busy": rate("rayse_cpu_seconds_total"),
        "gpu_memory_gb": total_of_gpus(now, "rayse_gpu_memory_bytes") / 1e9,
    }  # fmt: skip


def table(url: str, values: Mapping[str, float | None]) -> Table:
    """The figures as a table for the terminal."""
    rows = Table(title=f"{url}  {time.strftime('%H:%M:%S')}", title_justify="left")
    rows.add_column("")
    rows.add_column("now", justify="right", min_width=10)
    for title, name, form in ROWS:
        value = values[name]
        rows.add_row(title, "–" if value is None else form(value))
    return rows


def top(client: Client, *, interval_s: float, once: bool, as_json: bool) -> None:
    """`rayse top`: looks every interval_s seconds until Ctrl-C, or once. as_json: a line of JSON each look.

    Raises UserError or ClusterError where the server refuses, or does not answer."""
    before, then = parse(client.metrics()), time.monotonic()

    def look() -> dict[str, Any]:
        nonlocal before, then
        time.sleep(interval_s)
        sample, now = parse(client.metrics()), time.monotonic()
        values = figures(before, sample, now - then)
        before, then = sample, now
        return values

    if as_json or once:
        while True:
            values = look()
            if as_json:
                print(json.dumps({name: None if value is None else round(value, 4) for name, value in values.items()}))
                sys.stdout.flush()
            else:
                Console().print(table(client.url, values))
            if once:
                return
    with Live(table(client.url, figures(before, before, 1.0)), auto_refresh=False) as live:
        while True:
            live.update(table(client.url, look()), refresh=True)
