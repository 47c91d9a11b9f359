"""Metrics of the gateway, beside vLLM's, at /metrics in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

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
    """The gateway's metrics. One instance for each registry: Prometheus refuses the same name twice."""

    def __init__(self, registry: CollectorRegistry = REGISTRY):
        self.requests = Counter("rayse_requests", "Requests, by route and status", ["route", "status"],
                                registry=registry)  # fmt: skip
        self.in_flight = Gauge("rayse_requests_active", "Generation requests in flight", registry=registry)
        self.declined = Counter("rayse_guard_declined", "Prompts and replies declined by the guard", ["where"],
                                registry=registry)  # fmt: skip
        self.guard_s = Histogram("rayse_guard_seconds", "Time of the guard's check of a prompt", registry=registry,
                                 buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03))  # fmt: skip
        self.first_bytes_s = Histogram(
            "rayse_first_bytes_seconds", "Time from a request to the first bytes of its reply", registry=registry,
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
        )  # fmt: skip
        self.feedback = Counter("rayse_feedback", "Feedback stored, by thumb", ["thumb"], registry=registry)
