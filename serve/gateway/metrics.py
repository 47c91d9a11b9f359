"""Metrics of the gateway, beside vLLM's, at /metrics in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram


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
