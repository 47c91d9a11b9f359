"""The gateway around an application that stands in for vLLM: keys, hosts, limits. (test_server.py has vLLM.)"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from pipelines.errors import UserError
from serve.gateway import asgi, replies
from serve.gateway.database import Sqlite
from serve.gateway.feedback import FeedbackStore, Reply
from serve.gateway.gateway import Gateway
from serve.gateway.metrics import Metrics
from serve.settings import Limits, Settings
from tests.tiny_models import CONTEXT, Tiny

BODY = {"messages": [{"role": "user", "content": "hello"}]}


class Engine:
    """Says `reply` after wait_s, or starts a stream and then waits; counts requests that run and were cancelled."""

    def __init__(self) -> None:
        self.wait_s, self.streams, self.running, self.cancelled, self.reply = 0.0, False, 0, 0, "Hi."
        self.first_text = "One. "  # of a stream

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        await receive()
        self.running += 1
        try:
            if self.streams:
                headers = [(b"content-type", b"text/event-stream")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                chunk = {"choices": [{"index": 0, "delta": {"content": self.first_text}, "finish_reason": None}]}
                event = asgi.sse_event(chunk) if self.first_text else b""
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.sleep(self.wait_s)
            if not self.streams:
                await asgi.respond_json(send, 200, {"choices": [{"message": {"content": self.reply}}]})
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def gateway(tiny: Tiny, engine: Engine, registry: CollectorRegistry | None = None, **options: Any) -> Gateway:
    async def check_engine() -> None:
        if engine.wait_s < 0:
            raise RuntimeError("dead")

    settings = Settings(model=tiny.first, **options)
    metrics = Metrics(registry or CollectorRegistry())
    return Gateway(engine, settings, context_tokens=CONTEXT, check_engine=check_engine, metrics=metrics)


def send_request(app: Gateway, method: str, path: str, **request: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)  # pyright: ignore[reportArgumentType]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, **request)

    return asyncio.run(run())


def check_error(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Asserts that a response is an error in OpenAI's form; returns the error."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error


def test_loopback_without_a_key_answers_only_programs_of_this_machine(tiny: Tiny) -> None:
    app = gateway(tiny, Engine())
    path = "/v1/chat/completions"
    assert send_request(app, "POST", path, json=BODY).status_code == 200
    assert send_request(app, "POST", path, json=BODY, headers={"origin": "http://127.0.0.1:8000"}).status_code == 200
    check_error(
        send_request(app, "POST", path, json=BODY, headers={"origin": "https://evil.example"}), 403, "foreign_origin"
    )
    check_error(send_request(app, "POST", path, json=BODY, headers={"host": "evil.example:8000"}), 403, "foreign_host")
    check_error(send_request(app, "POST", path, content=json.dumps(BODY), headers={"content-type": "text/plain"}), 415)


@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", "Basic secret", "Bearer", "Bearer s\xe9cret", "secret"]
)
def test_a_wrong_key_opens_nothing_but_the_page_and_health(tiny: Tiny, authorization: str | None) -> None:
    app = gateway(tiny, Engine(), key="secret", host="0.0.0.0")
    headers = [(b"authorization", authorization.encode("latin-1"))] if authorization else []
    for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/about"), ("POST", "/feedback"),
                         ("POST", "/v1/chat/completions"), ("GET", "/nowhere")):  # fmt: skip
        response = send_request(app, method, path, headers=headers)
        check_error(response, 401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    assert send_request(app, "GET", "/", headers=headers).status_code == 200
    assert send_request(app, "GET", "/health", headers=headers).status_code == 503
    valid = {"authorization": "bearer secret", "origin": "https://elsewhere.example", "host": "model.example"}
    assert send_request(app, "GET", "/v1/models", headers=valid).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.com"])
def test_a_port_open_to_others_requires_a_key_before_anything_starts(tiny: Tiny, host: str) -> None:
    with pytest.raises(UserError, match="no key is set"):
        Settings(model=tiny.first, host=host).check()
    assert Settings(model=tiny.first, host=host, key="k").check()
    assert "k3y" not in repr(Settings(model=tiny.first, host=host, key="k3y"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_key(tiny: Tiny, host: str) -> None:
    assert Settings(model=tiny.first, host=host).check()


def test_health_reports_starting_ready_and_a_dead_engine(tiny: Tiny) -> None:
    engine = Engine()
    app = gateway(tiny, engine)
    assert send_request(app, "GET", "/health").json()["status"] == "starting"
    app.ready = True
    assert send_request(app, "GET", "/health").status_code == 200
    engine.wait_s = -1  # the engine is dead
    response = send_request(app, "GET", "/health")
    assert response.status_code == 503 and "does not answer" in response.json()["status"]


def test_a_reply_beyond_the_time_limit_is_ended_and_its_request_cancelled(tiny: Tiny) -> None:
    engine = Engine()
    engine.wait_s = 30
    app = gateway(tiny, engine, limits=Limits(request_s=0.2))
    check_error(send_request(app, "POST", "/v1/chat/completions", json=BODY), 504, "timeout")
    engine.streams = True
    response = send_request(app, "POST", "/v1/chat/completions", json={**BODY, "stream": True})
    assert response.status_code == 200
    assert '"content":"One. "' in response.text and '"code":"timeout"' in response.text
    assert response.text.endswith("data: [DONE]\n\n")
    assert (engine.running, engine.cancelled) == (0, 2)
    engine.first_text = ""  # vLLM's headers alone begin no response: the request could still go to another replica
    check_error(send_request(app, "POST", "/v1/chat/completions", json={**BODY, "stream": True}), 504, "timeout")


def test_without_a_guard_text_does_not_wait_for_the_end_of_its_sentence(tiny: Tiny) -> None:
    engine = Engine()
    engine.wait_s, engine.streams, engine.first_text = 30, True, "On"
    for guard in (True, False):
        app = gateway(tiny, engine, guard=guard, limits=Limits(request_s=0.2))
        response = send_request(app, "POST", "/v1/chat/completions", json={**BODY, "stream": True})
        assert ('"content":"On"' in response.text) == (response.status_code == 200) == (not guard)


def test_the_request_of_a_client_that_disconnects_is_cancelled(tiny: Tiny) -> None:
    engine = Engine()
    engine.wait_s, engine.streams = 30, True
    app = gateway(tiny, engine)

    async def disconnect() -> None:
        started = asyncio.Event()

        async def receive() -> asgi.Event:
            return {"type": "http.request", "body": json.dumps(BODY | {"stream": True}).encode()}

        async def send(event: asgi.Event) -> None:
            if event["type"] == "http.response.body":
                started.set()

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
        work = asyncio.create_task(app(scope, receive, send))
        await started.wait()
        work.cancel()  # as Ray Serve does
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(disconnect())
    assert (engine.running, engine.cancelled) == (0, 1)


def test_requests_beyond_the_limit_in_flight_get_429_at_once(tiny: Tiny) -> None:
    engine = Engine()
    engine.wait_s = 0.3
    app = gateway(tiny, engine, limits=Limits(requests_in_flight=2))

    async def many() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)  # pyright: ignore[reportArgumentType]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=BODY) for _ in range(5)))

    responses = asyncio.run(many())
    assert sorted(response.status_code for response in responses) == [200, 200, 429, 429, 429]
    assert all(response.headers["retry-after"] for response in responses if response.status_code == 429)
    assert send_request(app, "POST", "/v1/chat/completions", json=BODY).status_code == 200


def test_each_prompt_of_a_completion_is_a_request_in_flight(tiny: Tiny) -> None:
    engine = Engine()
    engine.wait_s = 0.5
    app = gateway(tiny, engine, limits=Limits(requests_in_flight=13))
    twelve = {"prompt": ["a"] * 12, "max_tokens": 2}

    async def beside() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)  # pyright: ignore[reportArgumentType]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            first = asyncio.create_task(client.post("/v1/completions", json=twelve))
            while not engine.running:
                await asyncio.sleep(0.01)
            second = await client.post("/v1/completions", json={**twelve, "prompt": ["a", "b"]})
            chat = await client.post("/v1/chat/completions", json=BODY)
            return [await first, second, chat]

    first, second, chat = asyncio.run(beside())
    assert (first.status_code, chat.status_code) == (200, 200)
    check_error(second, 429, "too_many_requests")
    assert send_request(app, "POST", "/v1/completions", json=twelve).status_code == 200, "none is counted any more"
    error = check_error(send_request(app, "POST", "/v1/completions", json={"prompt": [[1]] * 14}), 400)
    assert error["param"] == "prompt" and "14 prompts; expected at most 13" in error["message"]


def test_a_body_that_arrives_too_slowly_gets_408(tiny: Tiny) -> None:
    app = gateway(tiny, Engine(), limits=Limits(body_s=0.2))

    async def slow_body() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" "
            await asyncio.sleep(0.05)

    check_error(
        send_request(
            app, "POST", "/v1/chat/completions", content=slow_body(), headers={"content-type": "application/json"}
        ),
        408,
    )


def test_a_client_that_does_not_read_stays_in_flight_no_longer_than_the_time_limit(tiny: Tiny) -> None:
    engine = Engine()
    engine.streams, engine.wait_s = True, 60.0
    app = gateway(tiny, engine, limits=Limits(request_s=0.3))
    body = json.dumps({**BODY, "stream": True}).encode()
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"",
             "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")]}  # fmt: skip

    async def receive() -> asgi.Event:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: asgi.Event) -> None:
        if event["type"] == "http.response.body":
            await asyncio.Event().wait()  # as uvicorn does when a client's buffers are full

    asyncio.run(asyncio.wait_for(app(scope, receive, send), 5.0))
    assert (engine.running, engine.cancelled) == (0, 1)


@pytest.mark.parametrize(
    ("headers", "code"), [({"host": "[::1"}, "foreign_host"), ({"origin": "http://[::1"}, "foreign_origin")]
)
def test_malformed_hosts_and_origins_are_refused(tiny: Tiny, headers: dict[str, str], code: str) -> None:
    check_error(send_request(gateway(tiny, Engine()), "GET", "/v1/models", headers=headers), 403, code)


def test_impossible_settings_are_refused_before_anything_starts(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="--key-file: the key holds other"):
        Settings(model=tiny.first, key="").check()
    with pytest.raises(UserError, match=r"share 20 tokens, and the readiness probe's prompt takes \d+"):
        Settings(model=tiny.first, max_tokens=20).check()
    with pytest.raises(UserError, match="shorten the persona"):
        Settings(model=tiny.first, persona="Be kind. " * 200).check()


def test_a_complete_reply_has_choices_its_end_and_no_error() -> None:
    chunk = asgi.sse_event({"choices": [{"index": 0, "delta": {"content": "Hi"}}]})
    assert asgi.is_complete_reply(chunk + asgi.DONE, stream=True)
    assert not asgi.is_complete_reply(chunk, stream=True)
    dead = asgi.sse_event({"error": {"message": "the engine is dead"}})
    assert not asgi.is_complete_reply(dead + asgi.DONE, stream=True)
    assert asgi.is_complete_reply(b'{"choices": [{}]}', stream=False)
    assert not asgi.is_complete_reply(b'{"choices": []}', stream=False)


def test_feedback_on_an_unknown_reply_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    app = gateway(tiny, Engine(), feedback=tmp_path / "f.sqlite")
    check_error(
        send_request(app, "POST", "/feedback", json={"reply_id": "chatcmpl-x", "thumb": "up"}), 404, "reply_not_found"
    )
    for invalid in ({}, {"reply_id": 1}, {"reply_id": "x", "thumb": "sideways"}, {"reply_id": "x", "thumb": "up",
                  "comment": "c" * 5000}, {"reply_id": "x", "thumb": "up", "comment": 1}):  # fmt: skip
        check_error(send_request(app, "POST", "/feedback", json=invalid), 400)
    without_feedback = gateway(tiny, Engine())
    check_error(
        send_request(without_feedback, "POST", "/feedback", json={"reply_id": "x", "thumb": "up"}), 404, "not_found"
    )


def test_routes_are_below_the_prefix_under_which_a_server_is_mounted(tiny: Tiny) -> None:
    app = gateway(tiny, Engine())
    app.ready = True

    async def statuses(*paths: str) -> list[int]:
        transport = httpx.ASGITransport(app, root_path="/chat")  # pyright: ignore[reportArgumentType]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(statuses("/chat/health", "/chat/", "/chat", "/chat/chat")) == [200, 200, 200, 404]


def test_feedback_on_a_reply_that_another_replica_remembers(tiny: Tiny, tmp_path: Path) -> None:
    reply = Reply("chatcmpl-1", [{"role": "user", "content": "hello"}], "Hi.", "m", "v", {}, 0.0)

    async def find_reply(reply_id: str) -> Reply | None:
        return reply if reply_id == reply.reply_id else None

    async def check_engine() -> None:
        pass

    settings = Settings(model=tiny.first, feedback=tmp_path / "feedback.sqlite")
    app = Gateway(Engine(), settings, context_tokens=CONTEXT, check_engine=check_engine, find_reply=find_reply,
                  metrics=Metrics(CollectorRegistry()))  # fmt: skip
    assert send_request(app, "POST", "/feedback", json={"reply_id": "chatcmpl-1", "thumb": "up"}).status_code == 200
    other = send_request(app, "POST", "/feedback", json={"reply_id": "chatcmpl-2", "thumb": "up"})
    check_error(other, 404, "reply_not_found")
    (row,) = FeedbackStore(Sqlite(tmp_path / "feedback.sqlite")).rows()
    assert (row["reply"], row["version"]) == ("Hi.", "v")


def test_feedback_is_parsed_beside_the_loop_and_beyond_the_limit_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, all_wait, parse = list[threading.Thread](), threading.Barrier(2), asgi.parse_object

    def noted(body: bytes) -> dict[str, Any]:
        threads.append(threading.current_thread())
        all_wait.wait(60)  # so that two are in flight
        return parse(body)

    monkeypatch.setattr(replies, "parse_object", noted)
    app = gateway(tiny, Engine(), feedback=tmp_path / "f.sqlite", limits=Limits(requests_in_flight=2))

    async def many() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)  # pyright: ignore[reportArgumentType]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            body = {"reply_id": "chatcmpl-x", "thumb": "up"}
            return await asyncio.gather(*(client.post("/feedback", json=body) for _ in range(3)))

    responses = asyncio.run(many())
    assert sorted(response.status_code for response in responses) == [404, 404, 429]
    assert [response.headers["retry-after"] for response in responses if response.status_code == 429]
    assert len(threads) == 2 and threading.main_thread() not in threads
