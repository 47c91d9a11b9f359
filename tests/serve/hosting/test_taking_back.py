"""The loop of a server that follows aliases of a store and takes back what does worse, from the promotion to the alias.

Without Ray: where it would deploy, routers of this process take over, whose models answer by a script.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from pipelines.store import aliases
from pipelines.store.artifacts import Manifest, Store
from serve.hosting import app, promotion, room
from serve.hosting.artifacts import ServingSpec, hosted_guard
from serve.options import GuardHosting
from serve.settings import Settings
from serve.verbs.commands import Follower, load_service, load_settings
from serve.verbs.promote import take_back
from tests.serve.hosting.routing import Routed, answer, fail, handle_of
from tests.serve.hosting.running import put_model

GUARD = "my-qwen3guard"
UNSTARTED = "Never starts."  # a persona


class Loop:
    """Follows aliases. bad: fingerprints of the models all of whose requests fail."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch):
        self.store, self.log, self.bad = store, list[str](), list[str]()
        self._monkeypatch, self._routed = monkeypatch, list[Routed]()
        monkeypatch.setattr(promotion, "PERIOD_S", 0.0)
        monkeypatch.setattr(app, "_check_ray", lambda: None)
        monkeypatch.setattr(room, "check_spare", lambda settings, following: None)
        monkeypatch.setattr(Settings, "check", lambda self: self)  # the folders are no models
        monkeypatch.setattr(app, "deploy", self._deploy)
        monkeypatch.setattr("ray.serve.get_app_handle", lambda name: handle_of(*self._routed))

    def promote(self, alias: str, name: str) -> None:
        """Moves an alias."""
        artifact = self.store.by_fingerprint(f"{name:0>16}")
        assert artifact is not None
        aliases.promote(self.store, alias, artifact, reason="", evidence={})

    def ask(self, name: str, number: int = 25) -> None:
        """Sends requests for a model to the server."""
        self._routed[0].ask_often(name, number)

    def run(self, names: list[str], load: Callable[[], Settings], *steps: Callable[[], object]) -> None:
        """Runs the loop; each of its looks at the aliases comes after one of the steps."""
        stop, left, follow = threading.Event(), [*steps, lambda: None, lambda: None], Follower(self.store, names, load)

        def following() -> Settings | None:
            left.pop(0)()
            if not left:
                stop.set()
            return follow()

        self._monkeypatch.setattr(stop, "wait", lambda timeout: stop.is_set())
        self._deploy(settings := load())
        app._watch(settings, stop, self.log.append, following, lambda *decision: None, partial(take_back, self.store))

    def named(self, alias: str) -> str:
        """The name of what an alias names."""
        found = aliases.read(self.store, alias)
        return found.fingerprint.lstrip("0") if found else ""

    def _deploy(self, settings: Settings) -> None:
        if settings.persona == UNSTARTED:
            raise ClusterError("does not start")
        scripts = [fail if model.version.lstrip("0") in self.bad else answer for model in settings.models]
        self._routed = [Routed(settings, scripts)]


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """On a store with models and two trials of one of them."""
    store = Store(tmp_path / "store").create()
    (folder := tmp_path / "model").mkdir()
    for name in ("a1", "a2", "b1", "b2", "g1", "g2"):
        put_model(store, name, folder)
    for name, persona in (("t1", "Be brief."), ("t2", UNSTARTED)):
        draft = store.draft(f"{name:0>16}")
        ServingSpec(model=f"{'a1':0>16}", persona=persona).write(draft.out)
        store.commit(draft, Manifest(kind="trial", fingerprint=draft.fingerprint, stage="serve", name=name, seed=0,
                                     stage_version=1, options={}, code=""))  # fmt: skip
    loop = Loop(store, monkeypatch)
    loop.promote("a", "a1")
    loop.promote("b", "b1")
    return loop


def test_what_was_promoted_and_does_worse_is_taken_back(loop: Loop) -> None:
    loop.bad.append("a2")
    load = partial(load_service, loop.store, ["a"], None, {})
    loop.run(["a"], load, lambda: loop.promote("a", "a2"), lambda: loop.ask("a"))
    assert loop.named("a") == "a1" and loop.log[-1].endswith(f"serving version {'a1':0>16}, before {'a2':0>16}")
    decision = aliases.decisions(loop.store)[-1]
    assert (decision.action, decision.alias, decision.evidence["promoted"]["requests"]) == ("rollback", "a", 25)


def test_a_guard_model_that_is_promoted_is_no_promotion_of_the_models(loop: Loop) -> None:
    """Theirs may have been long ago."""
    loop.promote(GUARD, "g1")
    loop.promote("a", "a2")

    def load() -> Settings:
        guard = hosted_guard(loop.store, GuardHosting(model=GUARD, max_tokens=64))
        return load_settings(loop.store, "a", max_tokens=64).model_copy(update={"guard_model": guard})

    def promote_guard() -> None:
        loop.bad.append("a2")
        loop.promote(GUARD, "g2")

    loop.run(["a", GUARD], load, promote_guard, lambda: loop.ask("a"))
    assert loop.log == [f"a: serving version {'a2':0>16}, with other settings: guard_model"]
    assert loop.named("a") == "a2"


def test_only_what_was_served_is_taken_back(loop: Loop) -> None:
    """Not the same weights with other settings, which the alias names by then."""
    loop.bad.append("a1")
    load = partial(load_service, loop.store, ["a"], None, {})
    steps = [lambda: loop.promote("a", "t1"), lambda: loop.promote("a", "t2"), lambda: loop.ask("a")]
    loop.run(["a"], load, *steps)
    assert loop.named("a") == "t2"
    assert "does not start, what was served before stays" in loop.log[1]
    assert "does worse than the one before it, and is not rolled back: the alias a was moved again" in loop.log[2]
    assert len(loop.log) == 3


def test_another_take_over_does_not_end_the_watch(loop: Loop) -> None:
    """Nor are its figures lost. One of the models has another name than its alias, as adapters may."""
    loop.bad.append("a2")

    def load() -> Settings:
        other = load_settings(loop.store, "a").model_copy(update={"name": "support"})
        return load_settings(loop.store, "b").model_copy(update={"others": (other,)})

    steps = [lambda: loop.promote("a", "a2"), lambda: loop.ask("support", 12), lambda: loop.promote("b", "b2"),
             lambda: loop.ask("support", 13)]  # fmt: skip
    loop.run(["a", "b"], load, *steps)
    assert (loop.named("a"), loop.named("b")) == ("a1", "b2")
    assert f"support: version {'a2':0>16} is rolled back: error rate 1.00 of 25 requests" in loop.log[2]


def test_a_model_that_is_promoted_again_is_watched_anew(loop: Loop) -> None:
    loop.bad.append("a2")
    load = partial(load_service, loop.store, ["a"], None, {})
    steps = [lambda: loop.promote("a", "a2"), lambda: loop.ask("a", 12), lambda: loop.promote("a", "b1"),
             lambda: loop.ask("a", 25)]  # fmt: skip
    loop.run(["a"], load, *steps)
    assert loop.named("a") == "b1" and len(loop.log) == 2


def test_an_error_of_the_store_does_not_lose_the_decision(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is kept already, and only the alias could not be moved."""
    loop.bad.append("a2")
    write, errors = loop.store.write, [OSError("disk full")] * 3

    def write_or_fail(name: str, text: str) -> None:
        if name == "aliases/a.json" and loop.named("a") == "a2" and errors:
            raise errors.pop()
        write(name, text)

    monkeypatch.setattr(loop.store, "write", write_or_fail)
    load = partial(load_service, loop.store, ["a"], None, {})
    loop.run(["a"], load, lambda: loop.promote("a", "a2"), lambda: loop.ask("a"), *[lambda: None] * 4)
    assert loop.named("a") == "a1" and not errors
    assert [line for line in loop.log if "disk full" in line] == ["watching what was promoted: OSError: disk full"]
