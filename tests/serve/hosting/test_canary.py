"""When a canary is stopped, from its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from serve.gateway.database import Sqlite
from serve.gateway.feedback import FeedbackStore, Opinion, Reply
from serve.hosting import canary
from serve.hosting.canary import Watch, count_thumbs, fault
from serve.settings import CanaryRules, Settings
from tests.serve.hosting.routing import Routed, answer, fail, handle_of

STABLE = {"requests": 1000, "error_rate": 0.01, "replies": 990, "first_bytes_s": 0.2, "reply_s": 2.0, "token_s": 0.02}
QUICK_START = {"requests": 100, "error_rate": 0.0, "replies": 100, "first_bytes_s": 0.2}


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({}, None),
        ({"requests": 100, "error_rate": 0.03, "replies": 97, "first_bytes_s": 0.4}, None),  # both at the bound
        ({"requests": 100, "error_rate": 0.04, "first_bytes_s": 0.2}, "error rate 0.04 of 100 requests"),
        ({"requests": 19, "error_rate": 1.0, "first_bytes_s": 9.0}, None),  # too few to say
        ({"requests": 20, "error_rate": 1.0, "first_bytes_s": 0.0}, "error rate 1.00 of 20"),
        ({"requests": 100, "error_rate": 0.0, "replies": 100, "first_bytes_s": 0.41}, "0.41 s to the first bytes"),
        ({"requests": 100, "error_rate": 0.02, "replies": 19, "first_bytes_s": 9.0}, None),  # too few to say
        (QUICK_START | {"reply_s": 20.0, "token_s": 0.2}, "0.2 s for each token of a whole reply"),
        (QUICK_START | {"reply_s": 4.0, "token_s": 0.04}, None),  # at the bound
        (QUICK_START | {"reply_s": 20.0, "token_s": 0.02}, None),  # ten times longer replies
        (QUICK_START | {"reply_s": 0.9, "token_s": 0.09}, None),  # short ones: most of it is the time to the first
        ({"requests": 1, "up": 4, "down": 5}, None),
        ({"requests": 1, "up": 5, "down": 5}, None),  # at the bound
        ({"requests": 1, "up": 4, "down": 6}, "6 of 10 thumbs are down"),
    ],
)
def test_a_canary_is_stopped_by_errors_latency_or_feedback(figures: dict[str, float], reason: str | None) -> None:
    actual = fault(figures, STABLE, CanaryRules())
    assert actual is None if reason is None else actual is not None and actual.startswith(reason)


def test_thumbs_are_counted_by_version(tmp_path: Path) -> None:
    file = tmp_path / "feedback.sqlite"
    assert count_thumbs(None) == count_thumbs(file) == {}
    store = FeedbackStore(Sqlite(file))
    assert count_thumbs(file) == {}
    votes: list[tuple[str, Literal["up", "down"]]] = [("a", "up"), ("b", "down"), ("a", "up"), ("a", "down")]
    for number, (version, thumb) in enumerate(votes):
        store.save(str(number), Opinion(thumb), Reply(str(number), [], "text", "m", version, {}, 0.0))
    store.close()
    assert count_thumbs(file) == {"a": {"up": 2, "down": 1}, "b": {"up": 0, "down": 1}}


def versions(stable: str, of_canary: str) -> Settings:
    """A server of a model with a canary that gets half of its requests."""
    other = Settings(model=Path("model"), name="a", version=of_canary, canary=0.5)
    return Settings(model=Path("model"), name="a", version=stable, others=(other,))


def test_a_stopped_canary_stays_stopped_where_an_alias_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "PERIOD_S", 0.0)
    routed, watch = Routed(versions("v1", "v2"), [answer, fail]), Watch(versions("v1", "v2"))
    monkeypatch.setattr("ray.serve.get_app_handle", lambda name: handle_of(routed))
    assert 40 < 200 - routed.ask_often("a", 200) < 160
    ((action, evidence),) = watch.decisions()
    assert (action, evidence["version"]) == ("canary_stopped", "v2") and routed.ask_often("a", 50) == 50
    assert watch.settings.others[0].canary_stopped  # those that are deployed again where another version fails
    following = watch.with_stopped(versions("v3", "v2"))  # the alias of the stable version moved
    assert Routed(following, [answer, fail]).ask_often("a", 50) == 50
    assert list(Watch(following).decisions()) == []
    assert Watch(following).with_stopped(versions("v5", "v2")).others[0].canary_stopped, "at the next one too"
    another = watch.with_stopped(versions("v3", "v4"))  # that of the canary did
    assert Routed(another, [answer, fail]).ask_often("a", 50) < 50


@pytest.mark.parametrize(("share", "is_compared"), [(0.5, True), (0.999, False)])
def test_a_canary_that_passes_says_whether_its_speed_was_compared(
    monkeypatch: pytest.MonkeyPatch, share: float, is_compared: bool
) -> None:
    """The other version may have had too few requests."""
    monkeypatch.setattr(canary, "PERIOD_S", 0.0)
    settings = versions("v1", "v2")
    others = (settings.others[0].model_copy(update={"canary": share}),)
    settings = settings.model_copy(update={"others": others, "canary_rules": CanaryRules(max_latency_ratio=1000)})
    routed, watch = Routed(settings, [answer, answer]), Watch(settings)
    monkeypatch.setattr("ray.serve.get_app_handle", lambda name: handle_of(routed))
    routed.ask_often("a", 600)
    ((action, evidence),) = watch.decisions()
    assert (action, evidence["speed_compared"]) == ("canary_passed", is_compared)
    assert ("its speed was not compared: " in evidence["reason"]) != is_compared


def test_a_canary_of_the_same_weights_is_another_with_another_persona(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not judged by thumbs, which are counted by the weights."""
    monkeypatch.setattr(canary, "PERIOD_S", 0.0)
    monkeypatch.setattr(canary, "count_thumbs", lambda file, url: {"v1": {"up": 0, "down": 50}})
    routed, watch = Routed(versions("v1", "v1"), [answer, answer]), Watch(versions("v1", "v1"))
    monkeypatch.setattr("ray.serve.get_app_handle", lambda name: handle_of(routed))
    routed.ask_often("a", 100)
    assert list(watch.decisions()) == []
    routed = Routed(versions("v1", "v1"), [answer, fail])
    routed.ask_often("a", 100)
    ((action, evidence),) = watch.decisions()
    assert action == "canary_stopped" and "thumbs" not in evidence["reason"]
    settings = versions("v1", "v1")
    brief = settings.others[0].model_copy(update={"persona": "Be brief."})
    following = watch.with_stopped(settings.model_copy(update={"others": (settings.others[0], brief)}))
    assert [other.canary_stopped for other in following.others] == [True, False]
    assert evidence["variant"] == following.others[0].variant != following.others[1].variant


def test_a_canary_is_judged_by_what_all_routers_counted_also_one_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """And stopped at all of them. Each has too few requests of its own to say."""
    monkeypatch.setattr(canary, "PERIOD_S", 0.0)
    settings = versions("v1", "v2")
    routers = [Routed(settings, [answer, fail]) for _ in range(3)]
    running = [routers[:2]]
    monkeypatch.setattr("ray.serve.get_app_handle", lambda name: handle_of(*running[0]))
    watch = Watch(settings)
    failed = []
    for router in routers[:2]:
        failed.append(0)
        while failed[-1] < 9:
            failed[-1] += 1 - router.ask_often("a", 1)
    assert list(watch.decisions()) == []  # 18, and 20 are needed
    running[0] = routers[1:]  # the first ended; another took its place
    while sum(failed) < 20:
        failed[-1] += 1 - routers[2].ask_often("a", 1)
    ((action, evidence),) = watch.decisions()
    assert (action, evidence["canary"]["requests"], evidence["canary"]["error_rate"]) == ("canary_stopped", 20, 1.0)
    assert [router.ask_often("a", 30) for router in running[0]] == [30, 30]
