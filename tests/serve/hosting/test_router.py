"""What several models behind one address share: outcomes, feedback, names of deployments, a reader that leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from pipelines.errors import UserError
from pipelines.store.artifacts import Store
from serve.gateway import receipts
from serve.gateway.asgi import DONE, ApiError, Event, Receive, Scope, Send, sse_event
from serve.hosting.deployment import deployment_name
from serve.hosting.engine import local
from serve.hosting.outcomes import Outcomes, Passing
from serve.hosting.replica import events_of
from serve.hosting.router import order_of_feedback
from serve.settings import Settings
from tests.serve.hosting.routing import Routed, Script, answer, fail, part, start
from tests.serve.hosting.running import CHAT

MODEL = Path("model")


def test_requests_that_no_model_had_a_part_in_are_not_counted() -> None:
    outcomes = Outcomes()
    for status in (200, 404, 500, 401, 403, 429):
        outcomes.count(passed(start(status), part(more=False)))
    outcomes.count(Passing())  # no response
    (left := Passing()).leave()
    outcomes.count(left)
    facts = outcomes.facts()
    assert (facts["requests"], facts["error_rate"], facts["replies"]) == (4, 0.5, 1)


def passed(*events: Event) -> Passing:
    """A response of these events."""
    response = Passing()
    for event in events:
        response.note(event)
    return response


def script(*bodies: bytes, more: bool = False, error: Exception | None = None) -> Script:
    """A stream of these parts, the last of which says whether more come; or an error comes after them."""

    async def respond() -> AsyncIterator[Event]:
        yield start()
        for number, each in enumerate(bodies, 1):
            yield part(each, more=more or error is not None or number < len(bodies))
        if error is not None:
            raise error

    return respond


TEXT = sse_event({"choices": [{"index": 0, "delta": {"content": 'x\ndata: {"error": 1}\nevent: error\n'}}]})
LIMIT = sse_event(ApiError(504, "the reply took longer than 300 s", code="timeout").body)
RESPONSE_FAILED = b"event: response.failed\n" + sse_event({"type": "response.failed"})


@pytest.mark.parametrize(
    ("answer", "error_rate"),
    [
        (script(TEXT, TEXT + DONE), 0.0),
        (script(TEXT, sse_event({"choices": [], "usage": {"completion_tokens": 3}}) + DONE), 0.0),
        (script(TEXT, LIMIT + DONE), 1.0),
        (script(TEXT, b'data: {"error": {"message": "the engine is dead"}}\n\n', DONE), 1.0),
        (script(TEXT, RESPONSE_FAILED), 1.0),
        (script(TEXT, TEXT, more=True), 1.0),  # its last part never comes
        (script(TEXT, error=RayActorError()), 1.0),
        (script(error=ValueError("of the engine")), 1.0),
        (fail, 1.0),
    ],
)
def test_a_stream_that_breaks_off_or_ends_with_an_error_is_a_failure(answer: Script, error_rate: float) -> None:
    routed = Routed(Settings(model=MODEL, name="a", version="v1"), [answer])
    with contextlib.suppress(RayActorError, ValueError):
        asyncio.run(routed.ask("a"))
    (facts,) = routed.facts().values()
    assert (facts["requests"], facts["error_rate"], facts["replies"]) == (1, error_rate, 1 - error_rate)


def test_a_client_that_leaves_in_the_middle_is_no_failure() -> None:
    async def stall() -> AsyncIterator[Event]:
        yield start()
        yield part(TEXT)
        begun.set()
        await asyncio.Event().wait()

    async def leave() -> None:
        asked = asyncio.create_task(routed.ask("a"))
        await begun.wait()
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked

    begun = asyncio.Event()

    routed = Routed(Settings(model=MODEL, name="a", version="v1"), [stall])
    asyncio.run(leave())
    (facts,) = routed.facts().values()
    assert (facts["requests"], facts["error_rate"]) == (1, 0.0)


def test_times_are_those_of_whole_replies_and_no_failure_lowers_them() -> None:
    async def slow() -> AsyncIterator[Event]:
        yield start()
        for number in range(4):
            await asyncio.sleep(0.05)
            yield part(TEXT, more=number < 3)

    async def counted() -> AsyncIterator[Event]:  # no stream
        await asyncio.sleep(0.2)
        yield start()
        yield part(b'{"usage": {"completion_tokens": 20, "completion_tokens_details": {}}}', more=False)

    async def refused() -> AsyncIterator[Event]:
        yield start(400)
        yield part(b"{}", more=False)

    scripts = iter([slow, *[fail] * 30, script(TEXT, LIMIT), refused])
    routed = Routed(Settings(model=MODEL, name="a"), [lambda: next(scripts)()])
    routed.ask_often("a", 33)
    (facts,) = routed.facts().values()
    assert facts["requests"] == 33 and facts["replies"] == 1 and facts["error_rate"] == 31 / 33
    assert facts["reply_s"] - facts["first_bytes_s"] > 0.19 and facts["token_s"] == facts["reply_s"] / 4
    routed = Routed(Settings(model=MODEL, name="a"), [counted])
    routed.ask_often("a", 1)
    (facts,) = routed.facts().values()
    assert facts["reply_s"] > 0.19 and facts["token_s"] == facts["reply_s"] / 20


def test_outcomes_are_those_of_a_name_and_a_version() -> None:
    """Two names of one artifact, and a canary of the same weights with another persona."""
    others = (Settings(model=MODEL, name="b", version="v1"),
              Settings(model=MODEL, name="a", version="v1", canary=0.5))  # fmt: skip
    routed = Routed(Settings(model=MODEL, name="a", version="v1", others=others), [answer, fail, fail])
    routed.ask_often("b", 3)
    answered = routed.ask_often("a", 100)
    rates = {key: (facts["requests"], facts["error_rate"]) for key, facts in routed.facts().items()}
    assert rates == {("a", "v1", False): (answered, 0.0), ("b", "v1", False): (3, 1.0),
                     ("a", "v1", True): (100 - answered, 1.0)}  # fmt: skip


def test_a_key_is_checked_before_a_body_is_read() -> None:
    async def read() -> Event:
        raise AssertionError("the body was read")

    async def send(event: Event) -> None:
        sent.append(event)

    sent: list[Event] = []
    settings = Settings(model=MODEL, name="a", host="0.0.0.0", key="secret")
    router = Routed(settings, [answer]).router
    for path, headers in ((CHAT, []), ("/feedback", [(b"authorization", b"Bearer wrong")]), ("/metrics", [])):
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        asyncio.run(router.route(scope, read, send))
    assert [event["status"] for event in sent[::2]] == [401, 401, 401]
    (right := Routed(settings, [answer])).headers = [(b"authorization", b"Bearer secret")]
    assert right.ask_often("a", 1) == 1


def test_the_model_that_wrote_a_reply_is_asked_first_by_its_receipt() -> None:
    models = [Settings(model=MODEL, name="a", version="v1"), Settings(model=MODEL, name="b", version="v1"),
              Settings(model=MODEL, name="a", version="v2", canary=0.1)]  # fmt: skip
    for index, model in enumerate(models):
        receipt = receipts.sign({"model": model.name, "version": model.version}, b"any key")
        order = order_of_feedback(models, json.dumps({"receipt": receipt, "thumb": "up"}).encode())
        assert order[0] == index and sorted(order) == [0, 1, 2]
    for receipt in (b"3", b"null", b'""', b'"W10.x"', '"ä.x"'.encode(), b""):
        assert order_of_feedback(models, b'{"receipt": %s}' % receipt) == [0, 1, 2]


def test_versions_share_a_deployment_and_a_canary_has_another() -> None:
    first = Settings(model=MODEL, name="模型", version="v1")
    following = first.model_copy(update={"model": Path("other"), "version": "v2"})
    assert deployment_name(first) == deployment_name(following)
    different = [first, first.model_copy(update={"canary": 0.1}), first.model_copy(update={"name": "型模"})]
    assert len({deployment_name(each) for each in different}) == 3


@pytest.mark.parametrize("field", [name for name in Settings.model_fields if name.endswith("_folder")])
def test_every_artifact_of_a_server_is_fetched_on_its_node(field: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store").create()
    (here := tmp_path / "here").mkdir()
    (here / "manifest.json").write_text("{}")
    settings = Settings.model_validate({"model": here, "store": str(store.root), field: tmp_path / "gone"})
    with pytest.raises(UserError, match="no artifact gone"):
        local(settings)


def test_work_for_a_reader_that_left_ends() -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def read_one() -> None:
        before = asyncio.all_tasks()
        events = events_of(stream, {"type": "http"}, b"")
        await anext(events)
        await asyncio.sleep(0)  # the queue fills up
        await events.aclose()
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    asyncio.run(read_one())
