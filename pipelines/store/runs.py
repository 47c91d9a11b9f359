"""Records of runs: the artifacts of each stage, when and where the run took place, and its outcome."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipelines.errors import UserError, printable
from pipelines.store import aliases
from pipelines.store.artifacts import Artifact, Store

MIN_PREFIX_LENGTH = 4  # characters of a fingerprint


class StageRecord(BaseModel):
    """One stage of a run."""

    kind: str
    makes: str
    fingerprint: str
    evaluation: str | None = None  # fingerprint of the evaluation of the model it made
    made: bool = False  # whether this run made it; otherwise it was in the store


class RunRecord(BaseModel):
    """One run of one recipe."""

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
    folder: str = "runs"  # below the store; runs of a sweep's trials have a different one

    @classmethod
    def begin(cls, store: Store, *, recipe: str, path: Path, seed: int, folder: str = "runs") -> RunRecord:
        """Creates a record and saves it at once."""
        now = datetime.now(UTC)
        file = f"{now.strftime('%Y%m%dT%H%M%S.%f')}.json"
        record = cls(recipe=recipe, path=path.name, seed=seed, started=now.isoformat(), file=file, folder=folder)
        record.save(store)
        return record

    def save(self, store: Store) -> None:
        """Writes the record to STORE/<folder>/<file>."""
        store.write(f"{self.folder}/{self.file}", self.model_dump_json(indent=1))

    def end(self, store: Store, outcome: str, problem: str = "") -> None:
        """Records the outcome and, if the run failed, the error message."""
        self.outcome = outcome
        self.problem = printable(problem)  # it may name a file whose name is not UTF-8
        self.ended = datetime.now(UTC).isoformat()
        self.save(store)


def latest(store: Store, recipe: str | None = None) -> RunRecord:
    """The newest run, of this recipe if named. Raises UserError if there is none."""
    for name in reversed(store.names("runs")):
        text = store.read(name)
        record = RunRecord.model_validate_json(text) if text is not None else None
        if record is not None and recipe in (None, record.recipe):
            return record
    what = f"run of {recipe!r}" if recipe else "run"
    raise UserError(f"store {store.location}: no {what} yet; make one with `rayse run RECIPE --store {store.location}`")


def resolve(store: Store, name: str) -> Artifact:
    """The artifact that NAME on the command line refers to: a stage of the latest run, an alias or a fingerprint.

    Of a fingerprint at least 4 characters. Raises UserError if there is no such artifact, or more than one."""
    stages = latest(store).stages if store.names("runs") else {}
    if name in stages:
        artifact = store.find(stages[name].makes, stages[name].fingerprint)
        if artifact is None:
            raise UserError(f"{name}: the latest run did not make it (yet); run the recipe again")
        return artifact
    alias = aliases.read(store, name)
    if alias is not None:
        artifact = store.by_fingerprint(alias.fingerprint)
        if artifact is None:
            raise UserError(f"{name}: is {alias.fingerprint}, which the store does not hold any more; run its recipe "
                            f"again, or promote another")  # fmt: skip
        return artifact
    candidates = store.artifacts() if len(name) >= MIN_PREFIX_LENGTH else ()
    matches = [artifact for artifact in candidates if artifact.fingerprint.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"{name}: matches {len(matches)} artifacts; give more of the fingerprint")
    raise UserError(f"{name}: neither a stage of the latest run ({', '.join(stages) or 'there is none'}) nor an "
                    f"alias nor the first letters of a fingerprint; `rayse ls` lists the store")  # fmt: skip
