"""Metrics of several processes in one text, as Prometheus' parser reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serve.gateway.metrics import Metrics, merge


def test_each_sample_is_kept_with_the_name_of_its_process() -> None:
    texts = {}
    for number, process in enumerate(("first", "second"), 1):
        registry = CollectorRegistry()
        metrics = Metrics(registry)
        metrics.requests.labels("/v1/chat/completions", "200").inc(number)
        metrics.in_flight.set(10 * number)
        metrics.first_bytes_s.observe(0.2)
        texts[process] = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(merge(texts, "replica"))}
    assert {name for name in families if name.startswith("rayse_")} >= {"rayse_requests", "rayse_first_bytes_seconds"}
    active = {sample.labels["replica"]: sample.value for sample in families["rayse_requests_active"].samples}
    assert active == {"first": 10, "second": 20}
    total = [sample for sample in families["rayse_requests"].samples if sample.name == "rayse_requests_total"]
    assert [(sample.labels["replica"], sample.labels["status"], sample.value) for sample in total] == [
        ("first", "200", 1), ("second", "200", 2),
    ]  # fmt: skip
    assert families["rayse_first_bytes_seconds"].type == "histogram"
