"""Records of runs: which recipe made or found which artifacts, when, where and how it ended."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipelines.errors import UserError
from pipelines.store.artifacts import Artifact, Store, write_atomically


class StageRecord(BaseModel):
    """What a run knows of one of its stages."""

    kind: str
    makes: str
    fingerprint: str
    evaluation: str | None = None  # fingerprint of the evaluation of the model it made
    made: bool = False  # by this run; otherwise the store held it


class RunRecord(BaseModel):
    """One walk of one recipe."""

    recipe: str
    path: str
    seed: int
    started: str
    ended: str | None = None
    outcome: str = "running"  # running | done | failed | interrupted
    problem: str = ""
    stages: dict[str, StageRecord] = {}
    nodes: list[dict[str, Any]] = []
    made: int = 0  # artifacts made by this run
    file: str = ""
    folder: str = "runs"  # of the store; the runs of a sweep's trials have one of their own

    @classmethod
    def begin(cls, store: Store, *, recipe: str, path: Path, seed: int, folder: str = "runs") -> RunRecord:
        """A new record, on disk from the first moment."""
        now = datetime.now(UTC)
        file = f"{now.strftime('%Y%m%dT%H%M%S.%f')}.json"
        record = cls(recipe=recipe, path=path.name, seed=seed, started=now.isoformat(), file=file, folder=folder)
        record.save(store)
        return record

    def save(self, store: Store) -> None:
        write_atomically(store.root / self.folder / self.file, self.model_dump_json(indent=1))

    def end(self, store: Store, outcome: str, problem: str = "") -> None:
        self.outcome, self.problem, self.ended = outcome, problem, datetime.now(UTC).isoformat()
        self.save(store)


def latest(store: Store, recipe: str | None = None) -> RunRecord:
    """The newest run (of one recipe, if named). Raises UserError if there is none."""
    for file in sorted((store.root / "runs").glob("*.json"), reverse=True):
        record = RunRecord.model_validate_json(file.read_text(encoding="utf-8"))
        if recipe is None or record.recipe == recipe:
            return record
    what = f"run of {recipe!r}" if recipe else "run"
    raise UserError(f"store {store.root}: no {what} yet; make one with `rayse run RECIPE --store {store.root}`")


def resolve(store: Store, name: str) -> Artifact:
    """NAME as people give it: a stage of the latest run, or a fingerprint's first letters. Raises UserError."""
    matches = [a for a in store.artifacts() if a.fingerprint.startswith(name)] if len(name) >= 4 else []
    known: list[str] = []
    if any((store.root / "runs").glob("*.json")):
        stages = latest(store).stages
        known = list(stages)
        if name in stages:
            found = store.find(stages[name].makes, stages[name].fingerprint)
            if found is None:
                raise UserError(f"{name}: the latest run did not make it (yet); run the recipe again")
            return found
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"{name}: stands for {len(matches)} artifacts; give more of the fingerprint")
    raise UserError(f"{name}: neither a stage of the latest run ({', '.join(known) or 'there is none'}) nor the first "
                    f"letters of a fingerprint; `rayse ls` lists what the store holds")  # fmt: skip
