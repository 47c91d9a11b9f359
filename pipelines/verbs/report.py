"""`rayse report`: the report card as a table, as JSON, and as a page."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from pipelines.console import console, print_json
from pipelines.errors import UserError
from pipelines.report import sweep as sweep_report
from pipelines.report.card import Card, card
from pipelines.report.figures import SEPARATOR, headlines
from pipelines.store.artifacts import Store, write_atomically
from pipelines.store.facts import Facts

COLUMNS = ("stage", "time", "memory", "figures")
GAP = 2  # characters between two columns


def show_report(store: Store, *, recipe: str | None, out: Path | None, as_json: bool) -> None:
    """`rayse report`: prints all facts as JSON, or prints a table and writes the page.

    recipe: the name of a recipe, for its latest run; out: the page, by default report.html in the store."""
    report = card(store, recipe)
    if as_json:
        sweep_facts = {} if report.sweep is None else {"sweep": sweep_report.facts(report.sweep)}
        return print_json(report.facts | sweep_facts)
    from pipelines.report.page import page  # brings matplotlib and jinja2, which JSON needs not

    place = out or f"{store.location}/report.html"
    text = page(store, report)
    try:
        store.write("report.html", text) if out is None else write_atomically(out, text)
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror}); name another file with --out") from None
    screen = console()
    screen.print(table(report, screen.width))
    if report.sweep is not None:
        screen.print(sweep_report.table(report.sweep))
    screen.print(f"report: {place}", soft_wrap=True)


def table(report: Card, width: int) -> Table:
    """A row for every stage and one for the run: time, peak memory, and as many figures as fit into `width`."""
    machine = next(iter(report.artifacts.values())).manifest.machine if report.artifacts else {}
    record = report.record
    rows = Table(
        title=f"{record.recipe} · {record.outcome} · {machine.get('cpu', '')} × {machine.get('cores', '')}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in COLUMNS:
        rows.add_column(column, justify="right" if column in ("time", "memory") else "left", overflow="fold")
    costs = {name: (name, _time(facts), _memory(facts)) for name, facts in report.facts.items()}
    used = sum(max(len(row[i]) for row in (*costs.values(), COLUMNS)) + GAP for i in range(3))
    for name, facts in report.facts.items():
        kind = report.artifacts[name].kind if name in report.artifacts else ""
        figures = SEPARATOR.join(headlines(kind, facts, width - used))
        rows.add_row(*costs[name], figures, style="bold" if name == "run" else "")
    return rows


def _time(facts: Facts) -> str:
    return f"{float(facts['run/wall_s']) + float(facts.get('run/evaluate_wall_s', 0)):,.1f} s"


def _memory(facts: Facts) -> str:
    return f"{float(facts['run/peak_memory_bytes']) / 2**30:.1f} GiB"
