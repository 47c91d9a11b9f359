"""Which model, guard and settings are served: by rules, on a store of small files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.store.artifacts import Artifact, Manifest, Store
from pipelines.store.runs import RunRecord, StageRecord
from serve.hosting.artifacts import Serving, chosen, newest
from serve.verbs.commands import settings_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


def put(store: Store, kind: str, name: str, files: dict[str, Any] | None = None, **parents: Artifact) -> Artifact:
    """An artifact made by the stage `name`."""
    fingerprint = f"{name}-{sum(1 for _ in store.artifacts())}"
    draft = store.draft(fingerprint)
    for file, content in (files or {"config.json": {}}).items():
        (draft.out / file).write_text(json.dumps(content))
    made_of = {kind: parent.fingerprint for kind, parent in parents.items()}
    return store.commit(draft, Manifest(kind=kind, fingerprint=fingerprint, stage=name, name=name, stage_version=1,
                                        seed=0, options={}, parents=made_of, code=""))  # fmt: skip


def record(store: Store, *artifacts: Artifact) -> None:
    """A run that made these."""
    run = RunRecord.begin(store, recipe="r", path=Path("r.yaml"), seed=0)
    for one in artifacts:
        stage = StageRecord(kind=one.manifest.stage, makes=one.kind, fingerprint=one.fingerprint, made=True)
        run.stages[one.manifest.name] = stage
    run.end(store, "done")


@pytest.mark.parametrize(("serve", "name"), [("quantised", "quantise"), ("original", "sft")])
def test_a_quantised_model_says_which_of_the_two_is_served(store: Store, serve: str, name: str) -> None:
    model = put(store, "model", "sft")
    small = put(store, "model", "quantise", {"config.json": {}, "choice.json": {"serve": serve}}, model=model)
    record(store, model, small)
    assert chosen(small).manifest.name == name
    for asked in (None, "quantise", small.fingerprint[:9]):
        found = settings_of(store, asked)
        assert (found.name, found.model) == (name, store.root / "artifacts" / "model" / found.version)
    assert settings_of(store, "sft").name == "sft"


def test_an_original_that_is_gone_is_told(store: Store) -> None:
    model = put(store, "model", "sft")
    small = put(store, "model", "quantise", {"choice.json": {"serve": "original"}}, model=model)
    shutil.rmtree(model.path)
    with pytest.raises(
        UserError, match=rf"made of, {model.fingerprint}, which the store does not hold; run the recipe"
    ):
        settings_of(store, small.fingerprint)


def test_a_trial_brings_what_was_tried_and_flags_go_before_it(store: Store) -> None:
    model, other = put(store, "model", "sft"), put(store, "model", "ppo")
    guard, later = put(store, "guard", "guard"), put(store, "guard", "later")
    serving = Serving(model=model.fingerprint, guard=guard.fingerprint, persona="You are Rayse.", max_turns=3)
    draft = store.draft("trial")
    serving.write(draft.out)
    trial = store.commit(draft, Manifest(kind="trial", fingerprint="trial", stage="serve", name="host",
                                         stage_version=1, seed=0, options={}, code=""))  # fmt: skip
    record(store, other, model, guard, later, trial)
    for asked in (None, "host"):
        found = settings_of(store, asked, port=0, max_turns=None)
        assert (found.version, found.persona, found.max_turns) == (model.fingerprint, "You are Rayse.", 3)
        assert found.guard_folder == guard.path and found.feedback == store.root / "feedback.sqlite"
    assert settings_of(store, "host", persona="Be brief.").persona == "Be brief."
    assert settings_of(store, "host", guard=False).guard is False
    assert settings_of(store, "ppo").persona is None
    assert settings_of(store, "ppo").guard_folder == later.path
    shutil.rmtree(guard.path)
    with pytest.raises(UserError, match=f"its guard {guard.fingerprint} is gone; run the recipe again"):
        settings_of(store, "host")


def test_a_trial_without_a_guard_stays_without(store: Store) -> None:
    model, guard = put(store, "model", "sft"), put(store, "guard", "guard")
    trial = put(store, "trial", "serve", {"serve.json": {"model": model.fingerprint}})
    record(store, model, guard, trial)
    assert settings_of(store, None).guard_folder is None


def test_the_newest_is_the_last_of_the_latest_run(store: Store) -> None:
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
        settings_of(store, guard.fingerprint)
