"""`rayse run`."""

from __future__ import annotations

from pathlib import Path

import cluster
import pipelines
from pipelines.recipe.reader import Recipe
from pipelines.run.progress import Story
from pipelines.store.artifacts import Store
from pipelines.store.runs import RunRecord


def run_recipe(
    recipe: Recipe,
    *,
    until: str | None = None,
    from_: str | None = None,
    force: str | None = None,
    address: str | None = None,
    wait: bool = True,
    quiet: bool = False,
) -> RunRecord:
    """`rayse run`: makes what is missing and says where it is."""
    from cluster.session import Session
    from pipelines.run.walk import Walk

    story = Story(quiet=quiet)
    store = Store(recipe.store).create()
    packages = [Path(package.__file__ or "").parent for package in (cluster, pipelines)]
    logs = store.root / "cache" / "logs"
    session = Session(address, logs=logs, packages=packages, shared=store.root, on_message=story.note)
    try:  # not `with`: a session starts when the first stage asks for it
        record = Walk(recipe, store, session, story, wait).run(until=until, force=force, from_=from_)
    finally:
        session.stop()
    story.note(f"{recipe.name}: {record.made} made, {_count(record) - record.made} found, in {store.root}")
    story.note(f"next: rayse report --store {recipe.store}")
    tried = next((name for name, stage in reversed(record.stages.items()) if stage.makes == "trial"), None)
    if tried is not None:
        story.note(f"talk to it: rayse chat {tried} --store {recipe.store}")
        story.note(f"host it: rayse serve {tried} --store {recipe.store}")
    return record


def _count(record: RunRecord) -> int:
    return len(record.stages) + sum(stage.evaluation is not None for stage in record.stages.values())
