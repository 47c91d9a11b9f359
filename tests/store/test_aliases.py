"""Aliases of a store, and the records of the decisions that moved them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.store import aliases
from pipelines.store.artifacts import Store
from pipelines.store.runs import resolve
from pipelines.verbs.arguments import PRODUCTION
from serve.verbs.commands import Follower, load_settings
from serve.verbs.promote import parse_canary, promote, rollback
from tests.serve.hosting.test_artifacts import put, record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


def test_promoting_moves_the_alias_and_rolling_back_returns(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    models = [put(store, "model", name) for name in ("sft", "dpo", "ppo")]
    record(store, *models)
    for name in ("sft", "dpo", "ppo"):
        promote(store, name, PRODUCTION, reason=f"{name} is better", as_json=True)
        assert resolve(store, PRODUCTION).manifest.name == name
    printed = capsys.readouterr().out
    assert json.loads(printed[: printed.index("}\n{") + 1])["action"] == "promote"
    for name in ("dpo", "sft"):
        rollback(store, PRODUCTION, reason="", as_json=False)
        assert resolve(store, PRODUCTION).manifest.name == name
    with pytest.raises(UserError, match="nothing was promoted before"):
        rollback(store, PRODUCTION, reason="", as_json=False)
    kept = aliases.decisions(store)
    assert [(each.action, each.reason) for each in kept] == [
        ("promote", "sft is better"), ("promote", "dpo is better"), ("promote", "ppo is better"),
        ("rollback", ""), ("rollback", ""),
    ]  # fmt: skip
    assert [each.before for each in kept[:3]] == ["", models[0].fingerprint, models[1].fingerprint]
    assert kept[0].evidence == {"model": {}}


def test_a_server_of_an_alias_follows_it_under_one_name(store: Store) -> None:
    first, second = put(store, "model", "sft"), put(store, "model", "dpo")
    record(store, first, second)
    promote(store, "sft", PRODUCTION, reason="", as_json=False)
    settings = load_settings(store, PRODUCTION, port=9000)
    assert (settings.name, settings.version, settings.store) == ("production", first.fingerprint, str(store.root))
    follow = Follower(store, [PRODUCTION], lambda: load_settings(store, PRODUCTION, port=9000))
    assert follow() is None
    promote(store, "dpo", PRODUCTION, reason="", as_json=False)
    following = follow()
    assert following is not None and follow() is None
    assert (following.name, following.version, following.port) == ("production", second.fingerprint, 9000)
    assert following.model == store.root / "artifacts" / "model" / second.fingerprint


def test_what_cannot_be_promoted_is_refused(store: Store) -> None:
    model, corpus = put(store, "model", "sft"), put(store, "corpus", "corpus")
    record(store, model, corpus)
    with pytest.raises(UserError, match="is of kind corpus; expected a model"):
        promote(store, "corpus", PRODUCTION, reason="", as_json=False)
    with pytest.raises(UserError, match="--alias sft: is a stage of the latest run"):
        promote(store, "sft", "sft", reason="", as_json=False)
    with pytest.raises(UserError, match=r"--alias ../x: expected letters"):
        promote(store, "sft", "../x", reason="", as_json=False)
    promote(store, "sft", PRODUCTION, reason="", as_json=False)
    with pytest.raises(UserError, match=r"is sft .* already"):
        promote(store, "sft", PRODUCTION, reason="", as_json=False)
    with pytest.raises(UserError, match="no such alias"):
        rollback(store, "staging", reason="", as_json=False)
    assert len(aliases.decisions(store)) == 1


@pytest.mark.parametrize("text", ["sft", "sft:", ":0.1", "sft:0", "sft:1", "sft:x", "sft:nan"])
def test_a_malformed_canary_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected NAME:SHARE"):
        parse_canary(text)
