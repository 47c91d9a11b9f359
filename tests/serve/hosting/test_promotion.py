"""What was promoted is watched, and taken back where it does worse than the version before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.exceptions import DeploymentUnavailableError

from pipelines.store import aliases
from pipelines.store.artifacts import Store
from serve.gateway import asgi
from serve.gateway.asgi import ApiError, Event, Receive, Scope, Send
from serve.hosting import promotion
from serve.hosting.outcomes import Outcomes, counting
from serve.hosting.promotion import Promoted, figures_of
from serve.settings import Settings
from serve.verbs.promote import promote, rollback, take_back
from tests.serve.hosting.routing import Routed, Script, answer, fail, handle_of, part, start
from tests.serve.hosting.running import CHAT, put_model

EARLIER = Settings(model=Path("model"), name="a", version="v1", alias="a", artifact="v1")
FOLLOWING = EARLIER.model_copy(update={"version": "v2", "artifact": "v2"})


async def slow() -> Any:
    await asyncio.sleep(0.02)
    yield start()
    yield part(b'{"usage": {"completion_tokens": 1}}', more=False)


async def quick() -> Any:
    yield start()
    await asyncio.sleep(0.001)
    yield part(b'{"usage": {"completion_tokens": 1}}', more=False)


@pytest.mark.parametrize(
    ("before", "after", "reasons"),
    [
        (answer, fail, ["error rate 1.00 of 25 requests"]),
        (fail, fail, []),  # no worse than what was there before
        (quick, slow, ["s to the first bytes"]),
    ],
)
def test_a_version_that_took_over_is_judged_by_the_figures_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch, before: Script, after: Script, reasons: list[str]
) -> None:
    monkeypatch.setattr(promotion, "PERIOD_S", 0.0)
    running = [Routed(EARLIER, [before])]
    monkeypatch.setattr("ray.serve.get_app_handle", lambda name: handle_of(*running))
    running[0].ask_often("a", 30)
    figures = figures_of(EARLIER, print)
    running = [Routed(FOLLOWING, [after])]
    promoted, found = Promoted(EARLIER, figures, FOLLOWING), list[list[str]]()
    for number in (19, 6, 175, 50):  # too few to say; enough for errors; enough for its speed; no longer watched
        running[0].ask_often("a", number)
        found.append([each["reason"] for each in promoted.decisions()])
    at = 2 if after is slow else 1
    assert [len(each) for each in found] == [int(bool(reasons) and index == at) for index in range(4)]
    assert all(reason in found[at][0] for reason in reasons)


def test_thumbs_count_from_the_promotion_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been served before."""
    monkeypatch.setattr(promotion, "PERIOD_S", 0.0)
    thumbs = {"v2": {"up": 0, "down": 30}}
    monkeypatch.setattr(promotion, "count_thumbs", lambda file, url: thumbs)
    routed = Routed(FOLLOWING, [answer])
    monkeypatch.setattr("ray.serve.get_app_handle", lambda name: handle_of(routed))
    promoted = Promoted(EARLIER, {}, FOLLOWING)
    assert list(promoted.decisions()) == []
    thumbs = {"v2": {"up": 1, "down": 41}}
    (evidence,) = promoted.decisions()
    assert evidence["reason"].startswith("11 of 12 thumbs are down") and evidence["promoted"]["down"] == 11


def test_a_model_that_stays_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "PERIOD_S", 0.0)
    other = Settings(model=Path("model"), name="b", version="v1")
    earlier, following = (each.model_copy(update={"others": (other,)}) for each in (EARLIER, FOLLOWING))
    routed = Routed(following, [answer, fail])
    monkeypatch.setattr("ray.serve.get_app_handle", lambda name: handle_of(routed))
    promoted = Promoted(earlier, {}, following)
    routed.ask_often("b", 100)
    assert list(promoted.decisions()) == []


def test_the_alias_is_moved_back_only_from_what_was_promoted_to_be_watched(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").create()
    (folder := tmp_path / "model").mkdir()
    first, second = put_model(store, "aaaa", folder), put_model(store, "bbbb", folder)
    evidence = {"model": "support", "alias": "production", "artifact": second.fingerprint, "reason": "error rate 1.00"}

    def move_to_second(*, watch: bool) -> None:
        promote(store, second.fingerprint, "production", reason="", as_json=True, watch=watch)

    promote(store, first.fingerprint, "production", reason="", as_json=True)
    assert not take_back(store, evidence | {"artifact": first.fingerprint}), "there is none before it"
    move_to_second(watch=False)
    assert not take_back(store, evidence)
    rollback(store, "production", reason="", as_json=True)
    assert not take_back(store, evidence | {"artifact": first.fingerprint}), "it was rolled back to"
    move_to_second(watch=True)
    assert not take_back(store, evidence | {"artifact": "another"}), "another was promoted meanwhile"
    assert not take_back(store, evidence | {"alias": "b"}), "is no alias"
    assert take_back(store, evidence) and not take_back(store, evidence)
    last = aliases.decisions(store)[-1]
    assert (last.alias, last.action, last.fingerprint) == ("production", "rollback", first.fingerprint)
    assert (last.reason, last.evidence) == ("by the server: error rate 1.00", evidence)


def test_nothing_is_new_while_no_replica_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with --replicas 0:2, while a model is idle: what ended has counted."""

    def broadcast(method: str) -> Any:
        unavailable: Any = DeploymentUnavailableError
        raise unavailable("Replica")

    monkeypatch.setattr(promotion, "PERIOD_S", 0.0)
    routed = Routed(FOLLOWING, [fail])
    handles = [handle_of(routed), SimpleNamespace(broadcast=broadcast), handle_of(routed)]
    monkeypatch.setattr("ray.serve.get_app_handle", lambda name: handles.pop(0))
    promoted = Promoted(EARLIER, {}, FOLLOWING)
    routed.ask_often("a", 12)
    assert list(promoted.decisions()) == list(promoted.decisions()) == []
    routed.ask_often("a", 13)
    assert [each["promoted"]["requests"] for each in promoted.decisions()] == [25]


@pytest.mark.parametrize(
    ("code", "num_requests"), [("guard_unavailable", 0), ("database_unavailable", 0), ("replica_replaced", 1)]
)
def test_what_fails_beside_the_model_does_not_count(code: str, num_requests: int) -> None:
    """It would fail every model of the server."""

    async def refuse() -> AsyncIterator[Event]:
        yield start(503)
        yield part(asgi.dumps(ApiError(503, "try again", code=code).body), more=False)

    async def quote() -> AsyncIterator[Event]:
        yield start(500)
        yield part(
            asgi.dumps(ApiError(500, 'has "code": "guard_unavailable"', code="guard_unavailable").body), more=False
        )

    for script, number in ((refuse, num_requests), (quote, 1)):
        routed = Routed(EARLIER, [script])
        routed.ask_often("a", 1)
        facts = routed.facts()["a", "v1", False]
        assert (facts["requests"], facts["error_rate"]) == (number, number)


@pytest.mark.parametrize(("leaves", "failed"), [(True, 0), (False, 1)])
def test_a_replica_without_a_router_counts_what_a_router_counts(leaves: bool, failed: int) -> None:
    """A stream that breaks off is a failure, but not where its client left."""

    async def break_off(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await receive()

    async def receive() -> Event:
        return {"type": "http.disconnect" if leaves else "http.request"}

    async def send(event: Event) -> None: ...

    async def run(scope: Scope) -> None:
        await app(scope, receive, send)

    app = counting(break_off, outcomes := Outcomes())
    for path, root_path in (("/chat" + CHAT, "/chat"), (CHAT, ""), ("/health", "")):
        scope = {"type": "http", "method": "POST", "path": path, "root_path": root_path}
        asyncio.run(run(scope))
    assert (outcomes.requests, outcomes.failed) == (2, 2 * failed)
