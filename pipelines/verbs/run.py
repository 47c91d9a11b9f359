"""`rayse run`: makes the missing artifacts of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.recipe.reader import Recipe
from pipelines.run.progress import RunLog
from pipelines.store.artifacts import Store
from pipelines.store.provenance import folder_of
from pipelines.store.runs import RunRecord

if TYPE_CHECKING:
    from cluster.session import Session


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
    """`rayse run`: makes the missing artifacts, and logs where they are and what to do next."""
    from pipelines.run.plan import unread_sources
    from pipelines.run.walk import Walk

    log = RunLog(quiet=quiet)
    for sentence in unread_sources(recipe):
        log.warn(sentence)
    store = Store(recipe.store).create()
    session = open_session(store, address, log)
    try:  # not `with`: the first stage that needs the session starts it
        record = Walk(recipe, store, session, log, wait).run(until=until, force=force, from_=from_)
    finally:
        session.stop()
    num_reused = _num_artifacts(record) - record.made
    log.note(f"{recipe.name}: {record.made} made, {num_reused} reused, in {store.location}")
    log.note(f"next: rayse report --store {recipe.store}")
    trials = [name for name, stage in record.stages.items() if stage.makes == "trial"]
    if trials:
        log.note(f"talk to it: rayse chat {trials[-1]} --store {recipe.store}")
        log.note(f"host it: rayse serve {trials[-1]} --store {recipe.store}")
    return record


def open_session(store: Store, address: str | None, log: RunLog, cpus: int | None = None) -> Session:
    """A session for stages that work on this store; nothing is started yet. address, cpus: as Session takes them."""
    from cluster.session import Session

    packages = [folder_of(package) for package in ("cluster", "pipelines")]
    logs = store.root / "cache" / "logs"
    return Session(address, cpus=cpus, logs=logs, packages=packages, shared=store.root, on_message=log.note)


def _num_artifacts(record: RunRecord) -> int:
    return len(record.stages) + sum(stage.evaluation is not None for stage in record.stages.values())
