"""What the gateway counts, beside vLLM's own metrics, at /metrics in Prometheus' form."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The gateway's counters. One a process: Prometheus refuses the same name twice in a registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY):
        self.requests = Counter("rayse_requests", "Requests answered", ["route", "status"], registry=registry)
        self.active = Gauge("rayse_requests_active", "Requests for a reply at work", registry=registry)
        self.declined = Counter("rayse_guard_declined", "Refusals by the guard", ["where"], registry=registry)
        self.guard_s = Histogram("rayse_guard_seconds", "What the guard took for a question", registry=registry,
                                 buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03))  # fmt: skip
        self.first_s = Histogram("rayse_first_bytes_seconds", "From a request to the first bytes of its reply",
                                 registry=registry, buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30))  # fmt: skip
        self.feedback = Counter("rayse_feedback", "Thumbs stored", ["thumb"], registry=registry)
