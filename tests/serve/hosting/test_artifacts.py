"""Which model, guard and settings are served, on a store of small files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.store.artifacts import Artifact, Manifest, Store
from pipelines.store.runs import RunRecord, StageRecord
from serve.hosting.artifacts import ServingSpec, model_to_serve, newest
from serve.verbs.commands import load_settings


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


def put(store: Store, kind: str, name: str, files: dict[str, Any] | None = None, **parents: Artifact) -> Artifact:
    """Commits an artifact of the stage `name`. files: JSON values by file name."""
    fingerprint = f"{name}-{sum(1 for _ in store.artifacts())}"
    draft = store.draft(fingerprint)
    for file, content in (files or {"config.json": {}}).items():
        (draft.out / file).write_text(json.dumps(content))
    fingerprints = {kind: parent.fingerprint for kind, parent in parents.items()}
    return store.commit(draft, Manifest(kind=kind, fingerprint=fingerprint, stage=name, name=name, stage_version=1,
                                        seed=0, options={}, parents=fingerprints, code=""))  # fmt: skip


def record(store: Store, *artifacts: Artifact) -> None:
    """Records a run that made these."""
    run = RunRecord.begin(store, recipe="r", path=Path("r.yaml"), seed=0)
    for artifact in artifacts:
        manifest = artifact.manifest
        run.stages[manifest.name] = StageRecord(
            kind=manifest.stage, makes=artifact.kind, fingerprint=artifact.fingerprint, made=True
        )
    run.end(store, "done")


@pytest.mark.parametrize(("serve", "name"), [("quantised", "quantise"), ("original", "sft")])
def test_a_quantised_model_determines_which_of_the_two_is_served(store: Store, serve: str, name: str) -> None:
    model = put(store, "model", "sft")
    quantised = put(store, "model", "quantise", {"config.json": {}, "choice.json": {"serve": serve}}, model=model)
    record(store, model, quantised)
    assert model_to_serve(quantised).manifest.name == name
    for requested in (None, "quantise", quantised.fingerprint[:9]):
        settings = load_settings(store, requested)
        assert (settings.name, settings.model) == (name, store.root / "artifacts" / "model" / settings.version)
    assert load_settings(store, "sft").name == "sft"


def test_a_missing_original_is_an_error(store: Store) -> None:
    model = put(store, "model", "sft")
    quantised = put(store, "model", "quantise", {"choice.json": {"serve": "original"}}, model=model)
    shutil.rmtree(model.path)
    with pytest.raises(
        UserError, match=rf"made of, {model.fingerprint}, which the store does not hold; run the recipe"
    ):
        load_settings(store, quantised.fingerprint)


def test_a_trial_sets_what_was_tried_and_flags_override_it(store: Store) -> None:
    model, other = put(store, "model", "sft"), put(store, "model", "ppo")
    guard, later = put(store, "guard", "guard"), put(store, "guard", "later")
    spec = ServingSpec(model=model.fingerprint, guard=guard.fingerprint, persona="You are Rayse.", max_turns=3)
    draft = store.draft("trial")
    spec.write(draft.out)
    trial = store.commit(draft, Manifest(kind="trial", fingerprint="trial", stage="serve", name="host",
                                         stage_version=1, seed=0, options={}, code=""))  # fmt: skip
    record(store, other, model, guard, later, trial)
    for requested in (None, "host"):
        settings = load_settings(store, requested, port=0, max_turns=None)
        assert (settings.version, settings.persona, settings.max_turns) == (model.fingerprint, "You are Rayse.", 3)
        assert settings.guard_folder == guard.path and settings.feedback == store.root / "feedback.sqlite"
    assert load_settings(store, "host", persona="Be brief.").persona == "Be brief."
    assert load_settings(store, "host", guard=False).guard is False
    assert load_settings(store, "ppo").persona is None
    assert load_settings(store, "ppo").guard_folder == later.path
    shutil.rmtree(guard.path)
    with pytest.raises(UserError, match=f"its guard {guard.fingerprint} is gone; run the recipe again"):
        load_settings(store, "host")


def test_a_trial_without_a_guard_is_served_without(store: Store) -> None:
    model, guard = put(store, "model", "sft"), put(store, "guard", "guard")
    trial = put(store, "trial", "serve", {"serve.json": {"model": model.fingerprint}})
    record(store, model, guard, trial)
    assert load_settings(store, None).guard_folder is None


def test_documents_of_the_models_run_are_served_with_it(store: Store) -> None:
    summary = {"knowledge.json": {"format": 1, "terms": 1, "embedder": None}}
    model, other = put(store, "model", "sft"), put(store, "model", "ppo")
    earlier, documents = put(store, "knowledge", "notes", summary), put(store, "knowledge", "manuals", summary)
    record(store, model, documents)
    settings = load_settings(store, "sft")
    assert (settings.knowledge_folder, settings.knowledge_version) == (documents.path, documents.fingerprint)
    assert load_settings(store, "sft", no_knowledge=True).knowledge_folder is None
    assert load_settings(store, "sft", knowledge=earlier.fingerprint).knowledge_folder == earlier.path
    assert load_settings(store, other.fingerprint).knowledge_folder is None  # another run's documents are not its own
    with pytest.raises(UserError, match="is of kind model; expected documents"):
        load_settings(store, "sft", knowledge="sft")
    with pytest.raises(UserError, match="not together with --no-knowledge"):
        load_settings(store, "sft", knowledge="manuals", no_knowledge=True)
    trial = put(store, "trial", "serve", {"serve.json": {"model": other.fingerprint, "knowledge": earlier.fingerprint}})
    assert load_settings(store, trial.fingerprint).knowledge_folder == earlier.path


def test_an_index_of_another_make_is_refused_before_anything_starts(store: Store) -> None:
    model = put(store, "model", "sft")
    record(store, model, put(store, "knowledge", "manuals", {"knowledge.json": {"format": 0, "embedder": None}}))
    with pytest.raises(UserError, match="--force knowledge"):
        load_settings(store, "sft")
    assert load_settings(store, "sft", no_knowledge=True).knowledge_folder is None


def test_the_newest_is_the_last_artifact_of_the_latest_run(store: Store) -> None:
    with pytest.raises(UserError, match="no model yet; make one with `rayse run RECIPE"):
        newest(store)
    model = put(store, "model", "sft")
    assert newest(store).fingerprint == model.fingerprint
    trial = put(store, "trial", "serve", {"serve.json": {"model": model.fingerprint}})
    assert newest(store).fingerprint == trial.fingerprint
    record(store, model, trial)
    record(store, model)  # `--until sft`
    assert newest(store).fingerprint == model.fingerprint
    guard = put(store, "guard", "guard")
    with pytest.raises(UserError, match="is of kind guard; expected a model, or a trial of one"):
        load_settings(store, guard.fingerprint)
