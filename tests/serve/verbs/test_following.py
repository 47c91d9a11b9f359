"""A server follows an alias, and a promotion keeps what it rests on; on a store of small files."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    ReplicaState,
    ServeStatus,
)

from cluster.errors import ClusterError
from pipelines.errors import UserError
from pipelines.store import aliases
from pipelines.store.artifacts import Artifact, Manifest, Store
from pipelines.verbs.arguments import PRODUCTION
from serve.gateway import file_systems
from serve.gateway.database import Sqlite
from serve.gateway.feedback import FeedbackStore, Opinion, Reply
from serve.hosting import app, canary, room
from serve.hosting.app import changed
from serve.hosting.artifacts import ServingSpec
from serve.hosting.deployment import ONLY_DEPLOYMENT, engines
from serve.settings import FEEDBACK_FILE, HostedGuard, Limits, Replicas, Settings
from serve.verbs import commands
from serve.verbs.promote import promote


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


def put(store: Store, fingerprint: str) -> Artifact:
    """A model that is nothing but a config."""
    draft = store.draft(fingerprint)
    (draft.out / "config.json").write_text("{}")
    return store.commit(draft, Manifest(kind="model", fingerprint=fingerprint, stage="sft", name="sft", seed=0,
                                        stage_version=1, options={}, code=""))  # fmt: skip


@pytest.mark.parametrize(
    ("error", "is_tried_again"), [(OSError("disk"), True), (ClusterError("s3"), True), (UserError("bad"), False)]
)
def test_a_model_that_could_not_be_loaded_is_tried_again(store: Store, error: Exception, is_tried_again: bool) -> None:
    following, errors = Settings(model=store.root, version="second"), [error]

    def load() -> Settings:
        if errors:
            raise errors.pop()
        return following

    follow = commands.Follower(store, ["other", PRODUCTION], load)
    assert follow() is None
    aliases.promote(store, PRODUCTION, put(store, "second"), reason="", evidence={})
    with pytest.raises(type(error)):
        follow()
    kept = [each for each in aliases.decisions(store) if each.action == "not_started"]
    decisions = [(each.alias, each.fingerprint, each.reason) for each in kept]
    assert decisions == ([] if is_tried_again else [(PRODUCTION, "second", "bad")])
    assert follow() == (following if is_tried_again else None)
    assert follow() is None


@pytest.mark.parametrize("text", [b"{", b"", b"{}", b"\xff", b"[1]"])
def test_a_damaged_alias_or_decision_is_an_error_that_names_the_file(store: Store, text: bytes) -> None:
    aliases.promote(store, PRODUCTION, put(store, "first"), reason="", evidence={})
    follow = commands.Follower(store, [PRODUCTION], lambda: Settings(model=store.root))
    (decision,) = (store.root / "decisions").iterdir()
    file = store.root / "aliases" / f"{PRODUCTION}.json"
    good = file.read_bytes(), decision.read_bytes()
    file.write_bytes(text)
    for read in (follow, lambda: commands.load_service(store, [PRODUCTION], None, {})):
        with pytest.raises(UserError, match=f"{file}: is damaged, and is no alias any more; restore the file"):
            read()
    file.write_bytes(good[0])
    assert follow() is None
    decision.write_bytes(text)
    with pytest.raises(UserError, match=f"{decision}: is damaged, and is no decision any more"):
        aliases.decisions(store)


def test_a_promotion_is_taken_up_once_a_damaged_decision_is_mended(store: Store) -> None:
    """A canary's decisions are read whenever settings are loaded."""
    put(store, "canary")
    aliases.promote(store, PRODUCTION, put(store, "first"), reason="", evidence={})
    load = lambda: commands.load_service(store, [PRODUCTION], "canary:0.1", {})  # noqa: E731
    follow = commands.Follower(store, [PRODUCTION], load)
    (decision,) = (store.root / "decisions").iterdir()
    good = decision.read_bytes()
    decision.write_bytes(b"{")
    aliases.promote(store, PRODUCTION, put(store, "second"), reason="", evidence={})
    for _ in range(2):
        with pytest.raises(UserError, match=f"{decision}: is damaged"):
            follow()
    decision.write_bytes(good)
    following = follow()
    assert following is not None and following.version == "second"
    assert [each.action for each in aliases.decisions(store)] == ["promote", "promote"]


def test_what_is_served_stays_where_a_record_is_damaged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of a server, without Ray: an alias that is damaged, mended, and moved to a folder that is no model."""
    monkeypatch.setattr(app, "_check_ray", lambda: None)
    monkeypatch.setattr(app, "figures_of", lambda settings, log: {})
    monkeypatch.setattr(room, "check_spare", lambda settings, following: None)
    monkeypatch.setattr(app, "deploy", lambda settings: None)
    aliases.promote(store, PRODUCTION, put(store, "first"), reason="", evidence={})
    load = lambda: commands.load_service(store, [PRODUCTION], None, {})  # noqa: E731
    settings, follow, file = (
        load(),
        commands.Follower(store, [PRODUCTION], load),
        store.root / "aliases/production.json",
    )
    stop, log, calls, good = threading.Event(), list[str](), iter(range(9)), file.read_text()

    def following() -> Settings | None:
        number = next(calls)
        if number in (0, 2):
            file.write_text("{" if number == 0 else good)
        if number == 3:
            aliases.promote(store, PRODUCTION, put(store, "second"), reason="", evidence={})
        if number == 4:
            stop.set()
        return follow()

    def record(action: str, evidence: dict[str, Any]) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(canary, "PERIOD_S", float("inf"))  # no canary is looked at
    monkeypatch.setattr(stop, "wait", lambda timeout: stop.is_set())  # without the second between two looks
    app._watch(settings, stop, log.append, following, record, lambda evidence: False)
    assert log[0].startswith(f"what is served stays: {file}: is damaged, and is no alias any more; restore the file")
    assert len(log) == 3 and "version second does not start, what was served before stays" in log[1]
    assert log[2] == "not_started is not recorded: OSError: disk full"


def status_of(app: str, **states: int) -> ServeStatus:
    """What Ray Serve says of an application with one model, whose replicas are in these states."""
    counted = {ReplicaState(name): number for name, number in states.items()}
    replicas = DeploymentStatusOverview(DeploymentStatus.HEALTHY, DeploymentStatusTrigger.UNSPECIFIED, counted, "")
    overview = ApplicationStatusOverview(ApplicationStatus.RUNNING, "", 0.0, {ONLY_DEPLOYMENT: replicas})
    return ServeStatus(applications={app: overview})


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, both of which are in use, as Ray would count them."""
    monkeypatch.setattr(app, "_check_ray", lambda: None)
    monkeypatch.setattr(app, "figures_of", lambda settings, log: {})
    monkeypatch.setattr(room, "END_S", 1.0)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": 2.0})
    monkeypatch.setattr("ray.available_resources", dict[str, float])
    monkeypatch.setattr(Settings, "check", lambda self: self)  # the folder is no model


@pytest.mark.parametrize("drained", [True, False])
def test_a_rollback_waits_for_the_gpus_of_the_version_that_drains(
    store: Store, monkeypatch: pytest.MonkeyPatch, two_gpus: None, drained: bool
) -> None:
    """The loop of a server, without Ray, or any GPU. They are just enough for a version and the one that takes over."""
    monkeypatch.setattr("ray.available_resources", lambda: {"GPU": 1.0} if drained and looks > 5 else {})
    settings = Settings(model=store.root, version="v2", gpus=1, limits=Limits(drain_s=0.5))
    monkeypatch.setattr("ray.serve.status", lambda: status_of(settings.app, RUNNING=1, STOPPING=1))
    stop, log, deployed, looks = threading.Event(), list[str](), list[str](), 0
    monkeypatch.setattr(app, "deploy", lambda settings: deployed.append(settings.version))

    def following() -> Settings | None:
        nonlocal looks
        looks += 1
        if deployed or len(log) > 1:
            stop.set()
        return settings.model_copy(update={"version": "v1"}) if looks == 1 else None

    monkeypatch.setattr(stop, "wait", lambda timeout: time.sleep(0.01) or stop.is_set())
    app._watch(settings, stop, log.append, following, lambda action, evidence: None, lambda evidence: False)
    assert log[0].startswith("another version waits for 1 GPUs until the requests of an earlier one have ended")
    assert deployed == (["v1"] if drained else [])
    assert ("serving version v1, before v2" if drained else "and 0 are free; expected a restart") in log[1]


def test_a_replica_that_load_added_is_none_that_drains(
    store: Store, monkeypatch: pytest.MonkeyPatch, two_gpus: None
) -> None:
    settings = Settings(model=store.root, version="v1", gpus=1, replicas=Replicas(min=1, max=2))
    monkeypatch.setattr("ray.serve.status", lambda: status_of(settings.app, RUNNING=2))
    waiting = room.Waiting(settings.model_copy(update={"version": "v2"}))
    assert not waiting.must_wait(settings, log := list[str]().append)
    monkeypatch.setattr("ray.serve.status", lambda: status_of(settings.app, RUNNING=1, STOPPING=1))
    assert waiting.must_wait(settings, log)
    guard = HostedGuard(model="my-qwen3guard", folder=store.root, max_tokens=64, gpus=0)
    guarded = settings.model_copy(update={"guard_model": guard, "max_tokens": 64})
    assert waiting.must_wait(guarded, log), "its guard model has a deployment of its own"


@pytest.mark.parametrize("error", [UserError("v3: is damaged"), aliases.DamagedRecord("production.json"), OSError()])
def test_what_waits_is_dropped_where_the_alias_names_something_else_that_is_not_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, two_gpus: None, error: Exception
) -> None:
    settings = Settings(model=store.root, version="v2", gpus=1)
    monkeypatch.setattr("ray.serve.status", lambda: status_of(settings.app, RUNNING=1, STOPPING=1))
    monkeypatch.setattr("ray.available_resources", lambda: {"GPU": 1.0} if looks > 3 else {})
    stop, deployed, looks = threading.Event(), list[str](), 0
    monkeypatch.setattr(app, "deploy", lambda settings: deployed.append(settings.version))

    def following() -> Settings | None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise error
        if looks == 6:
            stop.set()
        return settings.model_copy(update={"version": "v1"}) if looks == 1 else None

    monkeypatch.setattr(stop, "wait", lambda timeout: stop.is_set())
    app._watch(settings, stop, print, following, lambda action, evidence: None, lambda evidence: False)
    assert deployed == ([] if type(error) is UserError else ["v1"])


def test_an_alias_moved_to_other_settings_of_the_same_weights_is_taken_up(store: Store) -> None:
    model, draft = put(store, "first"), store.draft("tried")
    ServingSpec(model=model.fingerprint, persona="Be brief.", max_turns=3).write(draft.out)
    trial = store.commit(draft, Manifest(kind="trial", fingerprint="tried", stage="serve", name="host", seed=0,
                                         stage_version=1, options={}, code=""))  # fmt: skip
    aliases.promote(store, PRODUCTION, model, reason="", evidence={})

    def load() -> Settings:
        return commands.load_service(store, [PRODUCTION], None, {})

    follow, before = commands.Follower(store, [PRODUCTION], load), load()
    aliases.promote(store, PRODUCTION, trial, reason="", evidence={})
    following = follow()
    assert following and following.persona == "Be brief."
    assert changed(before, following) == [(PRODUCTION, model.fingerprint, model.fingerprint, ["max_turns", "persona"])]
    assert changed(following, load()) == []
    aliases.promote(store, PRODUCTION, put(store, "third"), reason="", evidence={})
    assert changed(following, load()) == [(PRODUCTION, "first", "third", ["max_turns", "persona"])]


def test_what_names_a_model_is_known_and_no_setting_of_its_engine(store: Store) -> None:
    model, draft = put(store, "first"), store.draft("tried")
    ServingSpec(model=model.fingerprint).write(draft.out)
    trial = store.commit(draft, Manifest(kind="trial", fingerprint="tried", stage="serve", name="host", seed=0,
                                         stage_version=1, options={}, code=""))  # fmt: skip
    loaded: list[Settings] = []
    for artifact in (model, trial):
        aliases.promote(store, PRODUCTION, artifact, reason="", evidence={})
        loaded.append(commands.load_service(store, [PRODUCTION], None, {}))
    assert [(each.alias, each.artifact) for each in loaded] == [(PRODUCTION, "first"), (PRODUCTION, "tried")]
    assert changed(*loaded) == [] and engines(loaded[0]) == engines(loaded[1]), "no engine starts anew"
    assert loaded[0].model_dump_json() == loaded[1].model_dump_json(), "nor do replicas of an emitted config"
    plain = commands.load_service(store, ["first"], None, {})
    assert (plain.alias, plain.artifact) == ("", "")


def test_a_canary_that_was_stopped_stays_so_until_it_is_resumed_or_another(store: Store) -> None:
    for fingerprint in ("second", "third"):
        put(store, fingerprint)
    aliases.promote(store, PRODUCTION, put(store, "first"), reason="", evidence={})

    def stopped(canary: str) -> list[bool]:
        loaded = commands.load_service(store, [PRODUCTION], f"{canary}:0.1", {})
        return [model.canary_stopped for model in loaded.models]

    assert stopped("second") == [False, False]
    aliases.keep(store, PRODUCTION, "canary_stopped", fingerprint="second")
    assert stopped("second") == [False, True] and stopped("third") == [False, False]
    aliases.keep(store, "other", "canary_resumed", fingerprint="second")  # of another model
    loaded = commands.load_service(store, [PRODUCTION], "second:0.1", {})
    assert loaded.others[0].canary_stopped
    assert engines(loaded) == engines(commands.resume_canary(store, loaded, "second:0.1")), "no engine starts anew"
    assert stopped("second") == [False, False]
    aliases.keep(store, PRODUCTION, "canary_stopped", fingerprint="second")
    assert stopped("second") == [False, True]
    with pytest.raises(UserError, match="--resume-canary: no canary to resume; expected --canary NAME:SHARE too"):
        commands.resume_canary(store, loaded, None)


def test_a_stopped_canary_is_known_by_all_that_its_replies_rest_on(store: Store) -> None:
    """The same weights with another persona are another canary; a decision that names the weights alone is of both."""
    model, draft = put(store, "second"), store.draft("tried")
    ServingSpec(model=model.fingerprint, persona="Be brief.").write(draft.out)
    store.commit(draft, Manifest(kind="trial", fingerprint="tried", stage="serve", name="host", seed=0, stage_version=1,
                                 options={}, code=""))  # fmt: skip
    aliases.promote(store, PRODUCTION, put(store, "first"), reason="", evidence={})

    def load(canary: str) -> Settings:
        return commands.load_service(store, [PRODUCTION], f"{canary}:0.1", {}).others[0]

    plain, brief = load("second"), load("tried")
    assert plain.version == brief.version == "second" and plain.variant != brief.variant
    evidence = {"variant": plain.variant}
    aliases.keep(store, PRODUCTION, "canary_stopped", fingerprint="second", evidence=evidence)
    assert (load("second").canary_stopped, load("tried").canary_stopped) == (True, False)
    aliases.keep(store, PRODUCTION, "canary_resumed", fingerprint="second", evidence=evidence)
    assert not load("second").canary_stopped
    aliases.keep(store, PRODUCTION, "canary_stopped", fingerprint="second")
    assert load("second").canary_stopped and load("tried").canary_stopped


def test_a_promotion_rests_on_the_thumbs_of_the_database(store: Store) -> None:
    model = put(store, "first")
    feedback = FeedbackStore(Sqlite(store.root / FEEDBACK_FILE))
    feedback.save("a", Opinion("up"), Reply("a", [], "text", "m", model.fingerprint, {}, 0.0))
    feedback.close()
    with pytest.raises(UserError, match="expected postgresql://"):
        promote(store, "first", "production", reason="", as_json=True, feedback_url="mysql://x")
    # Thumbs of a database that does not answer are left out, and those of the file are not its.
    url = "postgresql://rayse@127.0.0.1:9/rayse"
    promote(store, "first", "other", reason="", as_json=True, feedback_url=url)
    promote(store, "first", "production", reason="", as_json=True)
    (store.root / FEEDBACK_FILE).rename(local := store.root / "local.sqlite")
    promote(store, "first", "third", reason="", as_json=True, feedback_url=str(local))
    kept = [each.evidence.get("feedback") for each in aliases.decisions(store)]
    assert kept == [None, {"up": 1, "down": 0}, {"up": 1, "down": 0}]


def test_an_old_file_of_feedback_on_a_networks_disk_is_no_obstacle_to_a_promotion(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, "first")
    FeedbackStore(Sqlite(store.root / FEEDBACK_FILE)).close()
    mounts = store.root / "mountinfo"
    mounts.write_text(f"1 1 0:1 / {store.root} rw - nfs4 server:/ rw\n")
    monkeypatch.setattr(file_systems, "MOUNTS", mounts)
    with pytest.raises(UserError, match="network's file system"):
        promote(store, "first", "production", reason="", as_json=True, feedback_url=str(store.root / FEEDBACK_FILE))
    promote(store, "first", "production", reason="", as_json=True)
    assert "without the thumbs of the store's file: " in capsys.readouterr().err
    (decision,) = aliases.decisions(store)
    assert decision.fingerprint == "first" and "feedback" not in decision.evidence


def test_a_server_on_a_cluster_needs_a_database_of_feedback(store: Store) -> None:
    put(store, "first")
    with pytest.raises(UserError, match=r"--address: without a database .* expected --feedback postgresql://"):
        commands.serve(store, {"names": ["first"], "address": "head:6379"})
    with pytest.raises(UserError, match=r"--emit: without a database .* expected --feedback postgresql://"):
        commands.serve(store, {"emit": store.root / "serve.yaml"})
    with pytest.raises(UserError, match=r"--address: without a database in --feedback each node"):
        commands.serve(store, {"names": ["first"], "address": "head:6379", "feedback": "/data/feedback.sqlite"})
    with pytest.raises(UserError, match=r"--feedback feedback\.sqlite: expected postgresql://"):
        commands.serve(store, {"names": ["first"], "feedback": "feedback.sqlite"})
