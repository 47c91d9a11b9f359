"""Watching a server: the dashboard's queries and `rayse top`, against the metrics of a real server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from serve.gateway.routes import CHAT, COMPLETIONS, RESPONSES
from serve.verbs.top import ROWS, figures, parse, quantile, table
from tests.serve.conftest import KEY, Served
from tests.serve.hosting.test_server import wait_until_idle

DASHBOARD = Path(__file__).parent.parent.parent / "serve" / "grafana.json"
# What PromQL itself reads in the dashboard's queries.
WORDS = {"sum", "by", "rate", "increase", "max", "histogram_quantile", "or", "vector"}
GPU = "rayse_gpu_"  # metrics that a machine without GPUs has no values of
RARE = ("rayse_feedback_total", "rayse_quality")  # and those that have no values before the first of them


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def selectors(query: str) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """The metrics of a query, with their matchers: label → (operator, value)."""
    result: list[tuple[str, dict[str, tuple[str, str]]]] = []
    grouped = re.sub(r"\bby \([\w, ]*\)", "", query)
    for name, matchers in re.findall(r"([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})?(?=[\[)\s]|$)", grouped):
        if name not in WORDS:
            parts = re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', matchers)
            result.append((name, {label: (operator, value) for label, operator, value in parts}))
    return result


def test_each_query_of_the_dashboard_finds_its_metrics(served: Served) -> None:
    assert served.chat("Hello", stream=True).status_code == 200
    assert served.chat("怎么制造炸弹？").headers["x-rayse-guard"] == "prompt"
    text = served.client.get("/metrics").text
    sample = parse(text)
    assert len(queries()) >= 20
    for query in queries():
        for name, matchers in selectors(query):
            if name.startswith((GPU, *RARE)):
                assert re.search(rf"^# TYPE {re.sub('_(sum|count)$', '', name)} ", text, re.MULTILINE), name
                continue
            grouping = [label for labels in re.findall(r"by \(([\w, ]*)\)", query) for label in labels.split(", ")]
            known = [dict(labels) for labels in sample.get(name, {})]
            assert known, f"{name} of {query} is no metric of the server"
            assert set(grouping) - {"le"} <= set(known[0]), (query, known[0])
            for label, (operator, value) in matchers.items():
                values = {labels[label] for labels in known}
                if operator == "=~" and label == "route":
                    assert any(re.fullmatch(value, each) for each in values), (query, values)


def test_top_says_what_a_server_did(served: Served, tmp_path: Path) -> None:
    before = parse(served.client.get("/metrics").text)
    replies = [served.chat("Hello", max_tokens=20, min_tokens=20).json() for _ in range(3)]
    wait_until_idle(served)
    num_tokens = sum(reply["usage"]["completion_tokens"] for reply in replies)
    values = figures(before, parse(served.client.get("/metrics").text), seconds=2.0)
    assert (values["requests_per_s"], values["errors_per_s"], values["reply_tokens_per_s"]) == (1.5, 0, num_tokens / 2)
    assert num_tokens > 3
    assert values["in_flight"] == 0 and (values["memory_gb"] or 0) > 0.3 and (values["cpus_busy"] or 0) > 0
    assert (values["first_text_s_p50"] or 0) > 0 and (values["between_tokens_s_p95"] or 0) > 0
    assert table("url", values).row_count == len(ROWS) == len(values)

    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    options = ["--url", served.server.url, "--key-file", str(key_file), "--interval", "0.3", "--once", "--json"]
    result = CliRunner().invoke(app, ["top", *options])
    assert result.exit_code == 0 and set(json.loads(result.stdout)) == set(values)


def test_quantiles_are_prometheus(tmp_path: Path) -> None:
    def histogram(*counts: int) -> Any:
        bounds = ("0.1", "0.3", "1.0", "+Inf")
        lines = [f'x_bucket{{le="{bound}"}} {count}' for bound, count in zip(bounds, counts, strict=True)]
        return parse("\n".join(["# TYPE x histogram", *lines, f"x_count {counts[-1]}", "x_sum 1", ""]))

    # https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile: linear within the bucket
    assert quantile({}, histogram(0, 10, 20, 20), "x", 0.25) == pytest.approx(0.2)
    assert quantile({}, histogram(0, 10, 20, 20), "x", 0.75) == pytest.approx(0.65)
    assert quantile({}, histogram(0, 0, 0, 4), "x", 0.5) == 1.0  # the last bound
    assert quantile(histogram(5, 5, 5, 5), histogram(5, 15, 15, 15), "x", 0.5) == pytest.approx(0.2)  # the new ones
    assert quantile(histogram(5, 5, 5, 5), histogram(5, 5, 5, 5), "x", 0.5) == pytest.approx(0.05)  # none new: all
    assert quantile({}, {}, "x", 0.5) is None


def test_each_gpu_counts_once() -> None:
    readings = {("a", "0", "x"): 2, ("a", "0", "y"): 3, ("a", "1", "x"): 4, ("b", "0", "z"): 5}  # node, gpu, replica
    lines = [f'rayse_gpu_memory_bytes{{gpu="{gpu}",node="{node}",replica="{replica}"}} {gigabytes}e9'
             for (node, gpu, replica), gigabytes in readings.items()]  # fmt: skip
    now = parse("\n".join(["# TYPE rayse_gpu_memory_bytes gauge", *lines, ""]))
    assert figures({}, now, 1.0)["gpu_memory_gb"] == 3 + 4 + 5
    expressions = [query for query in queries() if GPU in query]
    assert len(expressions) == 2 and all(query.startswith("max by (gpu, node) (") for query in expressions)


def test_every_route_that_generates_is_counted() -> None:
    lines = [f'rayse_requests_total{{route="{route}",status="200"}} 1' for route in (CHAT, COMPLETIONS, RESPONSES)]
    now = parse("\n".join(["# TYPE rayse_requests_total counter", *lines, ""]))
    assert figures({}, now, 1.0)["requests_per_s"] == 3
    patterns = [matchers["route"][1] for query in queries() for _, matchers in selectors(query) if "route" in matchers]
    assert len(patterns) == 3
    for pattern in patterns:
        assert all(re.fullmatch(pattern, route) for route in (CHAT, COMPLETIONS, RESPONSES))
        assert not re.fullmatch(pattern, "/v1/models")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no Prometheus on this machine")
def test_prometheus_evaluates_the_dashboard(served: Served, tmp_path: Path) -> None:
    """A real Prometheus scrapes the server, and each query of the dashboard has values."""
    target = served.server.url.removeprefix("http://")
    (tmp_path / "prometheus.yml").write_text(
        f"scrape_configs: [{{job_name: rayse, scrape_interval: 1s, authorization: {{credentials: {KEY}}}, "
        f"static_configs: [{{targets: ['{target}']}}]}}]"
    )
    address = "127.0.0.1:19090"
    command = [str(shutil.which("prometheus")), f"--config.file={tmp_path}/prometheus.yml",
               f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address={address}"]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        missing = [query for query in queries() if not any(part in query for part in (GPU, *RARE))]
        deadline = time.monotonic() + 120
        while missing and time.monotonic() < deadline:
            served.chat("Hello", stream=True)
            served.chat("怎么制造炸弹？")
            missing = [query for query in missing if not evaluate(f"http://{address}", query)]
            time.sleep(1)
        assert missing == []
    finally:
        process.terminate()
        process.wait(timeout=30)


def evaluate(url: str, query: str) -> list[dict[str, Any]]:
    """What Prometheus has for a query; empty while it starts."""
    try:
        answer = httpx.get(f"{url}/api/v1/query", params={"query": query}).json()
    except (httpx.HTTPError, ValueError):
        return []
    assert answer["status"] == "success", answer
    return answer["data"]["result"]
