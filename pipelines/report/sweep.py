"""A sweep as people see it: the table in the terminal, facts for `--json`, pictures for report.html."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from pipelines.sweep.progress import short_names
from pipelines.sweep.trials import SweepRecord, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CURVES = 60  # of one picture
SAID = {"pruned": "ended early"}


def table(record: SweepRecord) -> Table:
    """Every trial, the best first."""
    shown = Table(title=f"sweep of {record.recipe}", title_justify="left", box=None, pad_edge=False)
    for column in ("trial", *short_names(list(record.spaces)).values(), record.watch, record.metric, "outcome"):
        shown.add_column(column, justify="left" if column == "outcome" else "right", overflow="fold")
    for trial in record.ranked():
        live = f"{trial.curve[-1][1]:.4g}" if trial.curve else ""
        figure = "" if trial.figure is None else f"{trial.figure:.6g}"
        values = [str(trial.values.get(name, "")) for name in record.spaces]
        style = "bold" if trial is record.best else ""
        shown.add_row(str(trial.number), *values, live, figure, outcome(trial), style=style)
    return shown


def outcome(trial: Trial) -> str:
    """What became of a trial, in words."""
    said = SAID.get(trial.outcome, trial.outcome)
    if trial.outcome in ("pruned", "running"):
        return f"{said} at {trial.reached:.0%}"
    return f"{said}: {trial.problem}" if trial.problem else f"{said} in {trial.wall_s:.0f} s" if trial.wall_s else said


def print_sweep(record: SweepRecord, best_file: Path) -> None:
    """What `rayse sweep` leaves on the terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(table(record))
    console.print(f"best recipe: {best_file}", soft_wrap=True)
    console.print(f"next: rayse run {best_file}", soft_wrap=True)


def facts(record: SweepRecord) -> dict[str, Any]:
    """Flat figures of a sweep, and its trials."""
    best = record.best
    found: dict[str, Any] = {
        "sweep/metric": record.metric,
        "sweep/mode": record.mode,
        "sweep/until": record.until,
        "sweep/trials": len(record.trials),
        "sweep/done": record.count("done"),
        "sweep/pruned": record.count("pruned"),
        "sweep/failed": record.count("failed") + record.count("lost"),
        "sweep/wall_s": round(sum(trial.wall_s for trial in record.trials), 3),
    }
    if best is not None:
        found |= {"sweep/best_trial": best.number, "sweep/best": best.figure}
    return found | {"trials": [_trial_facts(trial) for trial in record.trials]}


def _trial_facts(trial: Trial) -> dict[str, Any]:
    return {"trial": trial.number, **trial.model_dump(exclude={"number", "curve", "evaluation"}),
            "reached": trial.reached, "live": trial.curve[-1][1] if trial.curve else None}  # fmt: skip


def pictures(record: SweepRecord) -> list[tuple[str, str]]:
    """(caption, svg): the metric against each space's values, and the trials' live curves."""
    found = [(f"{record.metric} by {name}", _scatter(record, name)) for name in record.spaces if _done(record)]
    if any(trial.curve for trial in record.trials):
        found.append((f"{record.watch} of each trial while it worked; grey: ended early", _curves(record)))
    return found


def _done(record: SweepRecord) -> list[Trial]:
    return [trial for trial in record.trials if trial.figure is not None]


def _scatter(record: SweepRecord, name: str) -> str:
    from pipelines.report.drawing import BLUE, ORANGE, new_axes, svg

    figure, axes = new_axes(width=4.2, height=2.4)
    done, best = _done(record), record.best
    values = [trial.values.get(name) for trial in done]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    texts = sorted({str(value) for value in values})
    places: list[Any] = list(values) if numbers else [texts.index(str(value)) for value in values]
    colors = [ORANGE if trial is best else BLUE for trial in done]
    axes.scatter(places, [trial.figure or 0.0 for trial in done], c=colors, s=26)
    if not numbers:
        axes.set_xticks(range(len(texts)), texts)
        axes.margins(x=0.2)
    elif name in record.log_scales:
        axes.set_xscale("log")
    _label(axes, name.partition(".")[2] or name)
    return svg(figure)


def _curves(record: SweepRecord) -> str:
    from pipelines.report.drawing import BLUE, GREY, ORANGE, new_axes, svg

    figure, axes = new_axes(width=4.2, height=2.4)
    best = record.best
    for trial in [trial for trial in reversed(record.ranked()) if trial.curve][-MOST_CURVES:]:  # the best on top
        color = ORANGE if trial is best else BLUE if trial.outcome == "done" else GREY
        shares, values = zip(*trial.curve, strict=True)
        ended = "o" if trial.outcome == "pruned" else None
        axes.plot([100 * share for share in shares], values, color=color, linewidth=1.2, marker=ended, markevery=[-1],
                  markersize=4)  # fmt: skip
    _label(axes, f"% of {record.until}")
    return svg(figure)


def _label(axes: Axes, text: str) -> None:
    axes.set_xlabel(text)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
