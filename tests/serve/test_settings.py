"""Settings of servers with several replicas and models."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.nodes import Node
from cluster.resources import Resources
from pipelines.errors import UserError
from serve.hosting import deployment, front
from serve.hosting.room import demands
from serve.settings import Limits, Replicas, Settings
from tests.tiny_models import Tiny


@pytest.mark.parametrize(("text", "bounds"), [("2", (2, 2)), ("1:4", (1, 4)), ("0:2", (0, 2))])
def test_replicas_are_read(text: str, bounds: tuple[int, int]) -> None:
    replicas = Replicas.model_validate(text)
    assert (replicas.min, replicas.max) == bounds


@pytest.mark.parametrize("text", ["", "0", "0:0", "4:1", "1:", ":2", "-1:2", "two", "1:2:3", "1.5"])
def test_other_numbers_of_replicas_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of replicas such as 2, or MIN:MAX"):
        Replicas.model_validate(text)


def test_models_of_one_server_have_different_names_and_one_address(tiny: Tiny) -> None:
    first = Settings(model=tiny.first, name="first", port=9000, feedback=tiny.first / "feedback.sqlite")
    second = Settings(model=tiny.second, name="second", persona="Be brief.")
    both = first.model_copy(update={"others": (second,)}).check()
    assert [(model.name, model.port, model.persona) for model in both.models] == [
        ("first", 9000, None), ("second", 9000, "Be brief."),
    ]  # fmt: skip
    assert both.models[1].feedback == first.feedback
    assert Settings.model_validate_json(both.model_dump_json()) == both
    with pytest.raises(UserError, match="two models are named first"):
        first.model_copy(update={"others": (second.model_copy(update={"name": "first"}),)}).check()
    canary = second.model_copy(update={"name": "first", "canary": 0.1})
    assert first.model_copy(update={"others": (canary,)}).check().models[1].canary == 0.1
    with pytest.raises(UserError, match="canary other: expected a model of the same name"):
        first.model_copy(update={"others": (canary.model_copy(update={"name": "other"}),)}).check()


def test_requests_in_flight_get_as_long_as_a_reply_may_take(tmp_path: Path) -> None:
    for limits, drain_s in ((Limits(), 300), (Limits(request_s=700.5), 700.5), (Limits(drain_s=5), 5)):
        settings = Settings(model=tmp_path, limits=limits)
        assert deployment._shutdown(settings)["graceful_shutdown_timeout_s"] == drain_s
        # HAProxy that reloads, as it does where versions change, must not end them before.
        assert int(front.environment(tmp_path, settings)["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) > drain_s
        assert Settings.model_validate_json(settings.model_dump_json()).limits.longest_drain_s == drain_s


def test_models_that_fit_alone_and_not_together_are_too_many(tmp_path: Path) -> None:
    """What is checked before Ray gets to wait for it, for ever."""
    others = (Settings(model=tmp_path, name="b", gpus=1, replicas=Replicas(min=0, max=4)),
              Settings(model=tmp_path, name="adapter", gpus=1, adapter_of="a"))  # fmt: skip
    settings = Settings(model=tmp_path, name="a", gpus=1, address="head:6379", others=others)
    ((names, resources),) = demands(settings.engines)
    assert names == "a, b" and resources.bundles == [{"CPU": 1, "GPU": 1}] * 2
    one, two = (Node("id", "host", "10.0.0.1", cpus=8, gpus=gpus, memory_bytes=1) for gpus in (1, 2))
    assert resources.capacity([one], []) < resources.workers == resources.capacity([two], [])
    canary = Settings(model=tmp_path, name="a", threads=6, canary=0.1, replicas=Replicas(min=2, max=2))
    settings = Settings(model=tmp_path, name="a", address="head:6379", others=(canary,))
    assert demands(settings.engines) == [("a", Resources(1, 4, 0)), ("a", Resources(2, 6, 0))]


@pytest.mark.parametrize("route", ["", "chat", "/chat/", "//", "/a b", "/{x}"])
def test_a_malformed_route_is_refused(tiny: Tiny, route: str) -> None:
    with pytest.raises(UserError, match=r"--route .*expected a path such as /chat"):
        Settings(model=tiny.first, route=route).check()
