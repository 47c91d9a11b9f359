"""From artifacts to settings: which model is served, with which guard, persona and limits.

    trial ──serve.json───────────┐
    model ──model_to_serve───────┴──► ServingSpec(model, guard, knowledge, persona, …) ──► Settings

`rayse serve`, `rayse chat` and the stage `serve` of a recipe all use these functions, so that what is hosted is what
was tried.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from pipelines.data.knowledge.index import read_summary
from pipelines.errors import UserError
from pipelines.options import Options
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.runs import latest, resolve
from serve.guard_families import find_family
from serve.options import GuardHosting
from serve.settings import HostedGuard, Settings

MODEL, TRIAL, GUARD, KNOWLEDGE = "model", "trial", "guard", "knowledge"  # kinds of artifact
SPEC_FILE = "serve.json"  # of a trial
QUANTISE, CHOICE_FILE = "quantise", "choice.json"  # the stage, and its file that says which model to serve


class ServingSpec(Options):
    """How a model is served: the file serve.json of a trial's artifact. None leaves a setting at its default."""

    model: str = Field(description="Fingerprint of the model")
    guard: str | None = Field(default=None, description="Fingerprint of the guard; default: the built-in rules alone")
    knowledge: str | None = Field(default=None, description="Fingerprint of the documents; default: none")
    persona: str | None = Field(default=None, description="System message of conversations that bring none")
    max_turns: int | None = Field(
        default=None, gt=0, description="Maximum number of a conversation's turns in the prompt"
    )
    max_tokens: int | None = Field(default=None, gt=0, description="Maximum tokens of a prompt with its reply")

    def write(self, folder: Path) -> None:
        """Writes serve.json into a folder."""
        (folder / SPEC_FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ServingSpec:
        """Reads serve.json of a folder."""
        return cls.model_validate_json((folder / SPEC_FILE).read_text(encoding="utf-8"))

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that are fields of Settings too."""
        return self.model_dump(exclude={"model", "guard", "knowledge"})


def model_to_serve(model: Artifact) -> Artifact:
    """This model, or the original of a quantised one that was slower or lost too much quality.

    Raises UserError where the store does not hold that original any more."""
    if model.manifest.stage != QUANTISE:
        return model
    if json.loads((model.local() / CHOICE_FILE).read_text(encoding="utf-8"))["serve"] == "quantised":
        return model
    original = model.parent(MODEL)
    if original is None:
        raise UserError(
            f"{model.manifest.name} {model.fingerprint}: its {CHOICE_FILE} says to serve the model it was made of, "
            f"{model.manifest.parents.get(MODEL)}, which the store does not hold; run the recipe again"
        )
    return original


def newest(store: Store) -> Artifact:
    """The last trial or model of the latest run, else the newest of the store. Raises UserError where there is none."""
    for kind, fingerprint in reversed(_latest_run(store)):
        artifact = store.find(kind, fingerprint) if kind in (TRIAL, MODEL) else None
        if artifact is not None:
            return artifact
    models = [artifact for artifact in store.artifacts() if artifact.kind in (TRIAL, MODEL)]
    if not models:
        raise UserError(
            f"store {store.location}: no model yet; make one with `rayse run RECIPE --store {store.location}`"
        )
    return models[-1]


def nearest_guard(store: Store, model: Artifact) -> Artifact | None:
    """The guard of the latest run, if that run made this model; else the newest of the store, if there is one."""
    run = _latest_run(store)
    if (MODEL, model.fingerprint) in run:
        for kind, fingerprint in reversed(run):
            guard = store.find(GUARD, fingerprint) if kind == GUARD else None
            if guard is not None:
                return guard
    guards = [artifact for artifact in store.artifacts() if artifact.kind == GUARD]
    return guards[-1] if guards else None


def knowledge_of_run(store: Store, model: Artifact) -> Artifact | None:
    """The last knowledge of the latest run, if that run made this model. Other runs' documents are other users'."""
    run = _latest_run(store)
    fingerprints = [fingerprint for kind, fingerprint in run if kind == KNOWLEDGE]
    return store.find(KNOWLEDGE, fingerprints[-1]) if fingerprints and (MODEL, model.fingerprint) in run else None


def knowledge_settings(knowledge: Artifact | None) -> dict[str, Any]:
    """The settings of a server for these documents. Raises UserError for an index that cannot be looked up in here."""
    if knowledge is None:
        return {}
    read_summary(knowledge.local())
    return {"knowledge_folder": knowledge.local(), "knowledge_version": knowledge.fingerprint}


def _latest_run(store: Store) -> list[tuple[str, str]]:
    """(kind, fingerprint) of every artifact that the latest run made or reused, in the order of its stages."""
    if not store.names("runs"):
        return []
    return [(stage.makes, stage.fingerprint) for stage in latest(store).stages.values()]


def serving_spec(store: Store, artifact: Artifact) -> ServingSpec:
    """How a trial or a model of the store is served. Raises UserError for an artifact of another kind."""
    if artifact.kind == TRIAL:
        return ServingSpec.read(artifact.local())
    if artifact.kind != MODEL:
        reason = " (it cannot be merged into weights, and vLLM cannot hold it)" if artifact.kind == "adapter" else ""
        raise UserError(
            f"{artifact.manifest.name}: is of kind {artifact.kind}{reason}; expected a model, or a trial of one. "
            f"`rayse ls` lists the artifacts of the store"
        )
    guard, knowledge = nearest_guard(store, artifact), knowledge_of_run(store, artifact)
    return ServingSpec(
        model=model_to_serve(artifact).fingerprint,
        guard=guard.fingerprint if guard else None,
        knowledge=knowledge.fingerprint if knowledge else None,
    )


def require(store: Store, kind: str, fingerprint: str) -> Artifact:
    """An artifact that a trial refers to. Raises UserError where the store does not hold it complete."""
    artifact = store.find(kind, fingerprint)
    if artifact is None:
        raise UserError(f"store {store.location}: its {kind} {fingerprint} is gone; run the recipe again to remake it")
    return artifact


def hosted_guard(store: Store, hosting: GuardHosting) -> HostedGuard:
    """The guard model that a server hosts: of a folder, or of the store. Raises UserError where it is neither, and
    where no name says its family."""
    written = f"--guard-model {hosting.model}"
    folder, version = Path(hosting.model).expanduser().absolute(), ""
    if (folder / "config.json").is_file():  # one in the cache of Hugging Face has a digest for its name
        names = [folder.name, *(part for part in folder.parts if part.startswith("models--"))]
    elif "/" in hosting.model:
        raise UserError(f"{written}: no folder with a config.json, and nothing is downloaded; expected the folder of a "
                        f"model, or a model of the store")  # fmt: skip
    else:
        artifact = resolve(store, hosting.model)
        if artifact.kind != MODEL:
            raise UserError(f"{written}: is of kind {artifact.kind}; expected a model, or a folder")
        folder, version, names = artifact.local(), artifact.fingerprint, [hosting.model, artifact.manifest.name]
    name = next(filter(find_family, names), None)
    if name is None:
        raise UserError(
            f"{written}: is of no family of guard models that is known; expected Llama-Guard, Qwen3Guard or "
            f"ShieldGemma in the name of the folder, stage or alias (`rayse promote NAME --alias my-qwen3guard`)"
        )
    return HostedGuard(folder=folder, version=version, **{**dict(hosting), "model": name})


def settings(model: Artifact, guard: Artifact | None, cache: Path, /, **options: Any) -> Settings:
    """Settings of a server for these artifacts. cache: the store's cache folder. options: further settings; None
    leaves one at its default."""
    described = {"name": model.manifest.name, "logs": cache / "logs", "cache": cache}
    return Settings(
        model=model.local(),
        version=model.fingerprint,
        guard_folder=guard.local() if guard else None,
        **described | {option: value for option, value in options.items() if value is not None},
    )
