"""Metrics of the gateway, beside vLLM's, at /metrics in Prometheus' text format.

vLLM has those of the engine: time to the first token, between tokens, tokens, queue, cache of keys and values. Here are
those of what users meet, and of the process with its engine. docs/watching.md lists both.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping

import psutil
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.gateway.gpus import read_gpus
from serve.guard_families import category_of

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def merge(texts: Mapping[str, str], label: str) -> str:
    """The metrics of several processes in one text of Prometheus' format; each sample gets the process's name.

    texts: each process's metrics, by its name. label: the label that holds the name.

    >>> print(merge({"a": "# TYPE x gauge\\nx 1.0", "b": "# TYPE x gauge\\nx{y=\\"z\\"} 2.0"}, "replica"))
    # TYPE x gauge
    x{replica="a"} 1.0
    x{replica="b",y="z"} 2.0
    """
    families: dict[str, list[str]] = {}
    headers: dict[str, list[str]] = {}
    for process, text in texts.items():
        family = ""
        for line in text.splitlines():
            if line.startswith("#"):
                family = line.split(" ", 3)[2]
                known = headers.setdefault(family, [])
                if line not in known and len(known) < 2:
                    known.append(line)
            elif line:
                families.setdefault(family, []).append(_labelled(line, f'{label}="{process}"'))
    return "\n".join(line for family, samples in families.items() for line in [*headers.get(family, []), *samples])


def _labelled(sample: str, label: str) -> str:
    """A sample with one more label."""
    name, brace, rest = sample.partition("{")
    if brace:
        return f"{name}{{{label}{'' if rest.startswith('}') else ','}{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"


class Metrics:
    """The gateway's metrics. One instance for each registry: Prometheus refuses the same name twice. Those of the
    process are in the process's registry alone, as adapters have gateways, and registries, of their own."""

    def __init__(self, registry: CollectorRegistry = REGISTRY):
        self.requests = Counter("rayse_requests", "Requests, by route and status", ["route", "status"],
                                registry=registry)  # fmt: skip
        self.in_flight = Gauge("rayse_requests_active", "Generation requests in flight", registry=registry)
        self.declined = Counter("rayse_guard_declined", "Prompts and replies declined by the guard",
                                ["where", "category"], registry=registry)  # fmt: skip
        self.refusals = Counter("rayse_refusals", "Replies in which the model itself refuses", registry=registry)
        self.guard_s = Histogram("rayse_guard_seconds", "Time of the guard's check of a prompt", registry=registry,
                                 buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03))  # fmt: skip
        self.first_bytes_s = Histogram(
            "rayse_first_bytes_seconds", "Time from a request to the first bytes of its reply", registry=registry,
            buckets=SECONDS,
        )  # fmt: skip
        self.first_text_s = Histogram(
            "rayse_first_text_seconds", "Time from a request to the first checked text of its reply",
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.feedback = Counter("rayse_feedback", "Feedback stored, by thumb", ["thumb"], registry=registry)
        self.quality = Histogram(
            "rayse_quality", "Scores of sampled replies, 0 to 1, by measure", ["measure"], registry=registry,
            buckets=(0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1),
        )  # fmt: skip
        self.quality_low = Counter("rayse_quality_low", "Sampled replies that score below the measure's threshold",
                                   ["measure"], registry=registry)  # fmt: skip
        if registry is REGISTRY:
            registry.register(ProcessUsage())

    def count_declined(self, where: str, reason: str) -> None:
        """Counts what the guard declined, a prompt or a reply, by the category of harm that its reason names."""
        self.declined.labels(where, category_of(reason)).inc()


class ProcessUsage(Collector):
    """Memory and processor time of this process with its children, and what NVML says of this machine's GPUs; read
    when metrics are collected. (prometheus_client's process_… are without the engine, which is a child.)"""

    def collect(self) -> Iterator[Metric]:
        memory_bytes, cpu_s = usage()
        yield GaugeMetricFamily("rayse_memory_bytes", "Resident memory of the replica with its engine", memory_bytes)
        yield CounterMetricFamily("rayse_cpu_seconds", "Processor time of the replica with its engine", cpu_s)
        labels = ["gpu", "node"]  # each replica of a machine reports all of its GPUs
        memory = GaugeMetricFamily("rayse_gpu_memory_bytes", "Memory in use on a GPU", labels=labels)
        busy = GaugeMetricFamily("rayse_gpu_busy_fraction", "Fraction of time in which a GPU computed", labels=labels)
        for gpu in read_gpus():
            memory.add_metric([str(gpu.index), platform.node()], gpu.memory_bytes)
            busy.add_metric([str(gpu.index), platform.node()], gpu.busy_fraction)
        yield from (memory, busy)


def usage() -> tuple[int, float]:
    """(resident memory in bytes, processor time in seconds) of this process and all processes below it."""
    replica = psutil.Process()
    memory_bytes, cpu_s = 0, 0.0
    for process in [replica, *replica.children(recursive=True)]:
        try:
            memory_bytes += process.memory_info().rss
            cpu_s += sum(process.cpu_times()[:2])  # user, system
        except psutil.NoSuchProcess:
            continue  # it ended while it was looked at
    return memory_bytes, cpu_s
