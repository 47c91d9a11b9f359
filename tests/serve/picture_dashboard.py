"""Picture of the dashboard's panels, drawn from what Prometheus has for the file's queries.

python -m tests.serve.picture_dashboard URL SECONDS out.png

A Prometheus on this machine scrapes the server for so long, then each query of serve/grafana.json is evaluated over
that time. Lay-out, titles and legends are the file's; the drawing is matplotlib's, not Grafana's.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

DASHBOARD = Path(__file__).parent.parent.parent / "serve" / "grafana.json"
ADDRESS = "127.0.0.1:19091"
SCRAPE_S, STEPS = 5, 120
PAPER, PANEL, INK, GRID = "#111217", "#181b1f", "#ccccdc", "#2c2f36"
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830")
UNITS = {
    "reqps": lambda value: f"{value:.3g} req/s",
    "percentunit": lambda value: f"{value:.0%}",
    "s": lambda value: f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms",
    "bytes": lambda value: f"{value / 2**30:.3g} GiB",
}


def main(url: str, seconds: str, out: str) -> None:
    """Watches the server, and writes the picture."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    with prometheus(url.removeprefix("http://")):
        begin = time.time()
        time.sleep(float(seconds))
        drawn = [(panel, series(panel, begin, time.time())) for panel in panels]
    rows = max(panel["gridPos"]["y"] // 8 for panel in panels) + 1
    figure, grid = plt.subplots(rows, 3, figsize=(15, 2.35 * rows), layout="constrained", facecolor=PAPER)
    for axes in grid.flat:
        axes.set_visible(False)
    for panel, lines in drawn:
        draw(grid[panel["gridPos"]["y"] // 8, panel["gridPos"]["x"] // 8], panel, lines)
    figure.savefig(out, dpi=90, facecolor=PAPER)


@contextmanager
def prometheus(target: str) -> Iterator[None]:
    """A Prometheus that scrapes the target."""
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w") as log:
        Path(folder, "prometheus.yml").write_text(
            f"scrape_configs: [{{job_name: rayse, scrape_interval: {SCRAPE_S}s, "
            f"static_configs: [{{targets: ['{target}']}}]}}]"
        )
        command = [str(shutil.which("prometheus")), f"--config.file={folder}/prometheus.yml",
                   f"--storage.tsdb.path={folder}/data", f"--web.listen-address={ADDRESS}"]  # fmt: skip
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def series(panel: dict[str, Any], begin: float, end: float) -> list[tuple[str, list[float], list[float]]]:
    """(legend, seconds since the beginning, values) of each line of a panel."""
    lines: list[tuple[str, list[float], list[float]]] = []
    for target in panel["targets"]:
        query = {"query": target["expr"], "start": begin, "end": end, "step": max(1.0, (end - begin) / STEPS)}
        answer = httpx.get(f"http://{ADDRESS}/api/v1/query_range", params=query, timeout=60).raise_for_status().json()
        for result in answer["data"]["result"]:
            labels = result["metric"]
            legend = re.sub(r"{{(\w+)}}", lambda match, labels=labels: labels.get(match[1], ""), target["legendFormat"])
            points = [(at - begin, float(value)) for at, value in result["values"] if value != "NaN"]
            lines.append((legend, [at for at, _ in points], [value for _, value in points]))
    return lines


def draw(axes: Axes, panel: dict[str, Any], lines: list[tuple[str, list[float], list[float]]]) -> None:
    """Draws one panel: its title, its lines, and their last values in the legend."""
    unit = UNITS.get(panel["fieldConfig"]["defaults"].get("unit", ""), lambda value: f"{value:.3g}")
    axes.set_visible(True)
    axes.set_facecolor(PANEL)
    axes.set_title(panel["title"], loc="left", color=INK, fontsize=10, fontweight="bold")
    for number, (legend, seconds, values) in enumerate(lines):
        last = unit(values[-1]) if values else "no data"
        axes.plot(seconds, values, color=COLOURS[number % len(COLOURS)], linewidth=1.3, label=f"{legend}: {last}")
    if any(values for _, _, values in lines):
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7.5, labelcolor=INK, facecolor=PANEL, edgecolor=GRID, loc="best")
    else:
        axes.text(0.5, 0.5, "no data", color=INK, ha="center", transform=axes.transAxes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 60:.3g} min"))
    axes.tick_params(colors=INK, labelsize=7, length=0)
    axes.grid(color=GRID, linewidth=0.6)
    for side in axes.spines.values():
        side.set_color(GRID)


if __name__ == "__main__":
    main(*sys.argv[1:])
