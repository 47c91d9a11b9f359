"""`rayse report`: the report card as a table, as JSON, and as a page."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from pipelines.console import console, print_json
from pipelines.errors import UserError
from pipelines.report import sweep as sweep_report
from pipelines.report.card import Card, card, headlines
from pipelines.report.page import page
from pipelines.store.artifacts import Store, write_atomically


def show_report(store: Store, *, recipe: str | None, out: Path | None, as_json: bool) -> None:
    """`rayse report`: JSON on stdout, or the table, with report.html in the store."""
    found = card(store, recipe)
    if as_json:
        own = {} if found.sweep is None else {"sweep": sweep_report.facts(found.sweep)}
        return print_json(found.facts | own)
    place = out or store.root / "report.html"
    try:
        write_atomically(place, page(store, found))
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror}); name another file with --out") from None
    screen = console()
    screen.print(_table(found))
    if found.sweep is not None:
        screen.print(sweep_report.table(found.sweep))
    screen.print(f"report: {place}", soft_wrap=True)


def _table(found: Card) -> Table:
    machine = next(iter(found.artifacts.values())).manifest.machine if found.artifacts else {}
    table = Table(
        title=f"{found.record.recipe} · {found.record.outcome} · {machine.get('cpu', '')} × {machine.get('cores', '')}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in ("stage", "time", "memory", "figures"):
        table.add_column(column, justify="right" if column in ("time", "memory") else "left", overflow="fold")
    for name, facts in found.facts.items():
        time_s = float(facts["run/wall_s"]) + float(facts.get("run/evaluate_wall_s", 0))
        memory = f"{float(facts['run/peak_memory_bytes']) / 2**30:.1f} GiB"
        style = "bold" if name == "run" else ""
        table.add_row(name, f"{time_s:.1f} s", memory, "  ".join(headlines(facts)), style=style)
    return table
