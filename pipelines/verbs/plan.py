"""`rayse plan`: what a run would make."""

from __future__ import annotations

from typing import Any

from pipelines.console import console, print_json, table
from pipelines.recipe.reader import Recipe
from pipelines.run.plan import plan
from pipelines.run.progress import RunLog
from pipelines.stage import Options
from pipelines.store.artifacts import Store


def show_plan(recipe: Recipe, *, until: str | None, as_json: bool) -> None:
    """`rayse plan`: prints the fingerprint and state of every step, as a table or as JSON."""
    steps = plan(recipe, Store(recipe.store), until=until, warn=RunLog().warn)
    state_by_step: dict[str, dict[str, Any]] = {
        step.name: {
            "fingerprint": step.fingerprint,
            "state": "made" if step.artifact else "to make",
            "made_by_other_code": step.made_by_other_code,
            "inputs": dict(step.parents),
            "runs_on": runs_on(step.entry.cluster),
        }
        for step in steps
    }
    if as_json:
        return print_json(state_by_step)
    rows = table("stage", "fingerprint", "state", "runs on")
    for name, step in state_by_step.items():
        other_code = ", by other code" if step["made_by_other_code"] else ""
        rows.add_row(name, step["fingerprint"], step["state"] + other_code, step["runs_on"])
    console().print(rows)


def runs_on(cluster: Options) -> str:
    """What a stage with these cluster options runs on, such as `2 workers, a GPU each where the cluster has 2`."""
    workers = getattr(cluster, "workers", None)
    gpus = getattr(cluster, "gpus_per_worker", getattr(cluster, "gpus", 0))
    who = "" if workers is None else f"{workers} worker{'s' if workers > 1 else ''}, "
    if gpus == "auto":
        return who + (f"a GPU each where the cluster has {workers}" if workers else "a GPU where the cluster has one")
    return who + (f"{gpus:g} GPU{'' if gpus == 1 else 's'}{' each' if workers else ''}" if gpus else "CPU")
