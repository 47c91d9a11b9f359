"""`rayse plan`."""

from __future__ import annotations

from pipelines.console import console, print_json, table
from pipelines.recipe.reader import Recipe
from pipelines.run.plan import plan
from pipelines.run.progress import Story
from pipelines.store.artifacts import Store


def show_plan(recipe: Recipe, *, until: str | None, as_json: bool) -> None:
    """`rayse plan`."""
    steps = plan(recipe, Store(recipe.store), until=until, warn=Story().warn)
    facts = {
        step.name: {
            "fingerprint": step.fingerprint,
            "state": "made" if step.artifact else "to make",
            "made_by_other_code": step.made_by_other_code,
            "inputs": dict(step.parents),
        }
        for step in steps
    }
    if as_json:
        return print_json(facts)
    rows = table("stage", "fingerprint", "state")
    for name, fact in facts.items():
        other = ", by other code than is here now" if fact["made_by_other_code"] else ""
        rows.add_row(name, fact["fingerprint"], fact["state"] + other)
    console().print(rows)
