"""From a store to what is served: a trial's settings, the model that quantising chose, the guard that goes with it.

    trial ──serve.json──┐
    model ──chosen──────┴──► Serving(model, guard, persona, …) ──► Settings

`rayse serve`, `rayse chat` and a recipe's stage `serve` go by these rules and no others, so that what was tried is what
is hosted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from pipelines.errors import UserError
from pipelines.options import Options
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.runs import latest
from serve.settings import Settings

MODEL, TRIAL, GUARD = "model", "trial", "guard"
SERVING = "serve.json"  # of a trial
QUANTISE, CHOICE = "quantise", "choice.json"  # the stage that says there which model to serve


class Serving(Options):
    """What a trial's artifact keeps of its settings. model, guard: fingerprints; None: as `Settings` has it."""

    model: str
    guard: str | None = None  # none: rules alone
    persona: str | None = None
    max_turns: PositiveInt | None = None
    max_tokens: PositiveInt | None = None

    def write(self, folder: Path) -> None:
        (folder / SERVING).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Serving:
        return cls.model_validate_json((folder / SERVING).read_text(encoding="utf-8"))

    @property
    def told(self) -> dict[str, Any]:
        """Those that are settings by the same name."""
        return self.model_dump(exclude={"model", "guard"})


def chosen(model: Artifact) -> Artifact:
    """The model to serve in this one's place: for a quantised one that was slower or worse, its original.

    Raises UserError where the store does not hold that original any more."""
    if model.manifest.stage != QUANTISE:
        return model
    if json.loads((model.local() / CHOICE).read_text(encoding="utf-8"))["serve"] == "quantised":
        return model
    original = model.parent(MODEL)
    if original is None:
        raise UserError(
            f"{model.manifest.name} {model.fingerprint}: its {CHOICE} says to serve the model it was made of, "
            f"{model.manifest.parents.get(MODEL)}, which the store does not hold; run the recipe again"
        )
    return original


def newest(store: Store) -> Artifact:
    """The last trial or model of the latest run, else the newest of the store. Raises UserError where there is none."""
    for kind, fingerprint in reversed(_of_latest_run(store)):
        found = store.find(kind, fingerprint) if kind in (TRIAL, MODEL) else None
        if found is not None:
            return found
    models = [artifact for artifact in store.artifacts() if artifact.kind in (TRIAL, MODEL)]
    if not models:
        raise UserError(f"store {store.root}: no model yet; make one with `rayse run RECIPE --store {store.root}`")
    return models[-1]


def nearest_guard(store: Store, model: Artifact) -> Artifact | None:
    """The guard of the latest run, if that run made this model; else the newest of the store, if there is one."""
    run = _of_latest_run(store)
    if (MODEL, model.fingerprint) in run:
        for kind, fingerprint in reversed(run):
            found = store.find(GUARD, fingerprint) if kind == GUARD else None
            if found is not None:
                return found
    guards = [artifact for artifact in store.artifacts() if artifact.kind == GUARD]
    return guards[-1] if guards else None


def _of_latest_run(store: Store) -> list[tuple[str, str]]:
    """(kind, fingerprint) of what the latest run made or found, in its order."""
    if not any((store.root / "runs").glob("*.json")):
        return []
    return [(stage.makes, stage.fingerprint) for stage in latest(store).stages.values()]


def serving_of(store: Store, artifact: Artifact) -> Serving:
    """How a trial or a model of the store is served. Raises UserError for an artifact of another kind."""
    if artifact.kind == TRIAL:
        return Serving.read(artifact.local())
    if artifact.kind != MODEL:
        raise UserError(
            f"{artifact.manifest.name}: is of kind {artifact.kind}; expected a model, or a trial of one. `rayse ls` "
            f"lists what the store holds"
        )
    guard = nearest_guard(store, artifact)
    return Serving(model=chosen(artifact).fingerprint, guard=guard.fingerprint if guard else None)


def held(store: Store, kind: str, fingerprint: str) -> Artifact:
    """An artifact that a trial names. Raises UserError where the store does not hold it whole."""
    found = store.find(kind, fingerprint)
    if found is None:
        raise UserError(f"store {store.root}: its {kind} {fingerprint} is gone; run the recipe again to remake it")
    return found


def settings(model: Artifact, guard: Artifact | None, cache: Path, /, **options: Any) -> Settings:
    """Settings for these artifacts. cache: the store's folder for it; options that are None are left at their
    defaults."""
    return Settings(
        model=model.local(),
        name=model.manifest.name,
        version=model.fingerprint,
        guard_folder=guard.local() if guard else None,
        logs=cache / "logs",
        cache=cache,
        **{option: value for option, value in options.items() if value is not None},
    )
