"""The report of a sweep: a table for the terminal, facts for `--json`, plots for report.html."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from pipelines.console import console
from pipelines.sweep.tracker import short_names
from pipelines.sweep.trials import SweepRecord, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CURVES = 60  # in one plot
OUTCOME_NAMES = {"pruned": "stopped early"}


def table(record: SweepRecord) -> Table:
    """A row for every trial, the best first and in bold."""
    rows = Table(title=f"sweep of {record.recipe}", title_justify="left", box=None, pad_edge=False)
    for column in ("trial", *short_names(list(record.spaces)).values(), record.watch, record.metric, "outcome"):
        rows.add_column(column, justify="left" if column == "outcome" else "right", overflow="fold")
    for trial in record.ranked():
        live = f"{trial.curve[-1][1]:.4g}" if trial.curve else ""
        figure = "" if trial.figure is None else f"{trial.figure:.6g}"
        values = [str(trial.values.get(name, "")) for name in record.spaces]
        style = "bold" if trial is record.best else ""
        rows.add_row(str(trial.number), *values, live, figure, outcome(trial), style=style)
    return rows


def outcome(trial: Trial) -> str:
    """The outcome of a trial as text: done in 12 s; stopped early at 20%; failed: the loss is nan."""
    name = OUTCOME_NAMES.get(trial.outcome, trial.outcome)
    if trial.outcome in ("pruned", "running"):
        return f"{name} at {trial.reached:.0%}"
    if trial.problem:
        return f"{name}: {trial.problem}"
    return f"{name} in {trial.wall_s:.0f} s" if trial.wall_s else name


def print_sweep(record: SweepRecord, best_file: Path) -> None:
    """Prints the table of trials and the file of the best recipe, at the end of `rayse sweep`."""
    screen = console()
    screen.print(table(record))
    screen.print(f"best recipe: {best_file}", soft_wrap=True)
    screen.print(f"next: rayse run {best_file}", soft_wrap=True)


def facts(record: SweepRecord) -> dict[str, Any]:
    """The figures of a sweep, and its trials, for `--json`."""
    best = record.best
    figures: dict[str, Any] = {
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
        figures |= {"sweep/best_trial": best.number, "sweep/best": best.figure}
    return figures | {"trials": [_trial_facts(trial) for trial in record.trials]}


def _trial_facts(trial: Trial) -> dict[str, Any]:
    return {"trial": trial.number, **trial.model_dump(exclude={"number", "curve", "evaluation"}),
            "reached": trial.reached, "live": trial.curve[-1][1] if trial.curve else None}  # fmt: skip


def plots(record: SweepRecord) -> list[tuple[str, str]]:
    """(caption, svg): the metric against each space's values, and the trials' live curves."""
    done = [trial for trial in record.trials if trial.figure is not None]
    pictures = [(f"{record.metric} by {name}", _scatter(record, done, name)) for name in record.spaces if done]
    if any(trial.curve for trial in record.trials):
        pictures.append((f"{record.watch} of each trial while it ran; grey: stopped early", _curves(record)))
    return pictures


def _scatter(record: SweepRecord, trials: list[Trial], name: str) -> str:
    """The metric of these trials against the values of a space, the best trial in orange."""
    from pipelines.report.drawing import BLUE, ORANGE, new_axes, svg

    figure, axes = new_axes(width=4.2, height=2.4)
    best = record.best
    values = [trial.values.get(name) for trial in trials]
    is_numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    texts = sorted({str(value) for value in values})
    positions: list[Any] = list(values) if is_numeric else [texts.index(str(value)) for value in values]
    colors = [ORANGE if trial is best else BLUE for trial in trials]
    axes.scatter(positions, [trial.figure or 0.0 for trial in trials], c=colors, s=26)
    if not is_numeric:
        axes.set_xticks(range(len(texts)), texts)
        axes.margins(x=0.2)
    elif name in record.log_scales:
        axes.set_xscale("log")
    _label(axes, name.partition(".")[2] or name)
    return svg(figure)


def _curves(record: SweepRecord) -> str:
    """The live figure of each trial against the fraction of its last stage."""
    from pipelines.report.drawing import BLUE, GREY, ORANGE, new_axes, svg

    figure, axes = new_axes(width=4.2, height=2.4)
    trials = [trial for trial in reversed(record.ranked()) if trial.curve]  # the best last, so that it is drawn on top
    for trial in trials[-MAX_CURVES:]:
        color = BLUE if trial.outcome == "done" else GREY
        if trial is record.best:
            color = ORANGE
        percents = [100 * fraction for fraction, _ in trial.curve]
        values = [value for _, value in trial.curve]
        marker = "o" if trial.outcome == "pruned" else None
        axes.plot(percents, values, color=color, linewidth=1.2, marker=marker, markevery=[-1], markersize=4)
    _label(axes, f"% of {record.until}")
    return svg(figure)


def _label(axes: Axes, text: str) -> None:
    axes.set_xlabel(text)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
