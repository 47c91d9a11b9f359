"""The gateway's own rules, around an application that is not vLLM: keys, hosts, limits. (test_server.py has vLLM.)"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from pipelines.errors import UserError
from serve.gateway import asgi
from serve.gateway.feedback import Memory
from serve.gateway.gateway import Gateway
from serve.gateway.metrics import Metrics
from serve.settings import Limits, Settings
from tests.tiny_models import CONTEXT, Tiny

ASK = {"messages": [{"role": "user", "content": "hello"}]}


class Engine:
    """Answers after a while, or begins a stream and stands still; counts who it works for."""

    def __init__(self) -> None:
        self.wait_s, self.streams, self.working, self.dropped = 0.0, False, 0, 0

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        await receive()
        self.working += 1
        try:
            if self.streams:
                kind = [(b"content-type", b"text/event-stream")]
                await send({"type": "http.response.start", "status": 200, "headers": kind})
                piece = {"choices": [{"index": 0, "delta": {"content": "One. "}, "finish_reason": None}]}
                await send({"type": "http.response.body", "body": asgi.event(piece), "more_body": True})
            await asyncio.sleep(self.wait_s)
            if not self.streams:
                await asgi.answer_json(send, 200, {"choices": [{"message": {"content": "Hi."}}]})
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        finally:
            self.working -= 1


def gateway(tiny: Tiny, engine: Engine, **options: Any) -> Gateway:
    async def healthy() -> None:
        if engine.wait_s < 0:
            raise RuntimeError("dead")

    settings = Settings(model=tiny.first, **options)
    return Gateway(engine, settings, context=CONTEXT, healthy=healthy, metrics=Metrics(CollectorRegistry()))


def ask(app: Gateway, method: str, path: str, **request: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app)  # pyright: ignore[reportArgumentType]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, **request)

    return asyncio.run(once())


def error(found: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    assert found.status_code == status, found.text
    told = found.json()["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert told["code"] == code
    return told


def test_loopback_without_a_key_answers_only_this_machines_own(tiny: Tiny) -> None:
    app = gateway(tiny, Engine())
    path = "/v1/chat/completions"
    assert ask(app, "POST", path, json=ASK).status_code == 200
    assert ask(app, "POST", path, json=ASK, headers={"origin": "http://127.0.0.1:8000"}).status_code == 200
    error(ask(app, "POST", path, json=ASK, headers={"origin": "https://evil.example"}), 403, "foreign_origin")
    error(ask(app, "POST", path, json=ASK, headers={"host": "evil.example:8000"}), 403, "foreign_host")
    error(ask(app, "POST", path, content=json.dumps(ASK), headers={"content-type": "text/plain"}), 415)


@pytest.mark.parametrize("sent", [None, "Bearer wrong", "Basic secret", "Bearer", "Bearer s\xe9cret", "secret"])
def test_a_wrong_key_opens_nothing_but_the_page_and_health(tiny: Tiny, sent: str | None) -> None:
    app = gateway(tiny, Engine(), key="secret", host="0.0.0.0")
    headers = [(b"authorization", sent.encode("latin-1"))] if sent else []
    for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/about"), ("POST", "/feedback"),
                         ("POST", "/v1/chat/completions"), ("GET", "/nowhere")):  # fmt: skip
        found = ask(app, method, path, headers=headers)
        error(found, 401, "invalid_api_key")
        assert found.headers["www-authenticate"] == "Bearer"
    assert ask(app, "GET", "/", headers=headers).status_code == 200
    assert ask(app, "GET", "/health", headers=headers).status_code == 503
    right = {"authorization": "bearer secret", "origin": "https://elsewhere.example", "host": "model.example"}
    assert ask(app, "GET", "/v1/models", headers=right).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.com"])
def test_an_open_port_wants_a_key_before_anything_starts(tiny: Tiny, host: str) -> None:
    with pytest.raises(UserError, match="no key is set"):
        Settings(model=tiny.first, host=host).check()
    assert Settings(model=tiny.first, host=host, key="k").check()
    assert "k3y" not in repr(Settings(model=tiny.first, host=host, key="k3y"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_key(tiny: Tiny, host: str) -> None:
    assert Settings(model=tiny.first, host=host).check()


def test_health_is_honest(tiny: Tiny) -> None:
    engine = Engine()
    app = gateway(tiny, engine)
    assert ask(app, "GET", "/health").json()["status"] == "starting"
    app.ready = True
    assert ask(app, "GET", "/health").status_code == 200
    engine.wait_s = -1  # the engine is dead
    found = ask(app, "GET", "/health")
    assert found.status_code == 503 and "does not answer" in found.json()["status"]


def test_a_reply_that_takes_too_long_is_ended_and_dropped(tiny: Tiny) -> None:
    engine = Engine()
    engine.wait_s = 30
    app = gateway(tiny, engine, limits=Limits(request_s=0.2))
    error(ask(app, "POST", "/v1/chat/completions", json=ASK), 504, "timeout")
    engine.streams = True
    found = ask(app, "POST", "/v1/chat/completions", json={**ASK, "stream": True})
    assert found.status_code == 200
    assert '"content":"One. "' in found.text and '"code":"timeout"' in found.text
    assert found.text.endswith("data: [DONE]\n\n")
    assert (engine.working, engine.dropped) == (0, 2)


def test_a_client_that_goes_away_is_not_worked_for(tiny: Tiny) -> None:
    engine = Engine()
    engine.wait_s, engine.streams = 30, True
    app = gateway(tiny, engine)

    async def leave() -> None:
        begun = asyncio.Event()

        async def receive() -> asgi.Event:
            return {"type": "http.request", "body": json.dumps(ASK | {"stream": True}).encode()}

        async def send(event: asgi.Event) -> None:
            if event["type"] == "http.response.body":
                begun.set()

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
        work = asyncio.create_task(app(scope, receive, send))
        await begun.wait()
        work.cancel()  # as Ray Serve does
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(leave())
    assert (engine.working, engine.dropped) == (0, 1)


def test_more_requests_than_the_limit_hear_so_at_once(tiny: Tiny) -> None:
    engine = Engine()
    engine.wait_s = 0.3
    app = gateway(tiny, engine, limits=Limits(concurrent=2))

    async def many() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)  # pyright: ignore[reportArgumentType]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=ASK) for _ in range(5)))

    found = asyncio.run(many())
    assert sorted(one.status_code for one in found) == [200, 200, 429, 429, 429]
    assert all(one.headers["retry-after"] for one in found if one.status_code == 429)
    assert ask(app, "POST", "/v1/chat/completions", json=ASK).status_code == 200


def test_a_slow_body_is_not_waited_for(tiny: Tiny) -> None:
    app = gateway(tiny, Engine(), limits=Limits(body_s=0.2))

    async def drip() -> Any:
        for _ in range(50):
            yield b" "
            await asyncio.sleep(0.05)

    error(ask(app, "POST", "/v1/chat/completions", content=drip(), headers={"content-type": "application/json"}), 408)


def test_a_client_that_does_not_read_holds_its_place_no_longer_than_others(tiny: Tiny) -> None:
    engine = Engine()
    engine.streams, engine.wait_s = True, 60.0
    app = gateway(tiny, engine, limits=Limits(request_s=0.3))
    body = json.dumps({**ASK, "stream": True}).encode()
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"",
             "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")]}  # fmt: skip

    async def receive() -> asgi.Event:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: asgi.Event) -> None:
        if event["type"] == "http.response.body":
            await asyncio.Event().wait()  # as uvicorn does when a client's buffers are full

    asyncio.run(asyncio.wait_for(app(scope, receive, send), 5.0))
    assert (engine.working, engine.dropped) == (0, 1)


@pytest.mark.parametrize(
    ("headers", "code"), [({"host": "[::1"}, "foreign_host"), ({"origin": "http://[::1"}, "foreign_origin")]
)
def test_hosts_and_origins_that_are_none(tiny: Tiny, headers: dict[str, str], code: str) -> None:
    error(ask(gateway(tiny, Engine()), "GET", "/v1/models", headers=headers), 403, code)


def test_what_can_never_answer_is_refused_before_anything_starts(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="--key: expected visible"):
        Settings(model=tiny.first, key="").check()
    with pytest.raises(UserError, match=r"have 20 tokens, and a greeting takes \d+"):
        Settings(model=tiny.first, max_tokens=20).check()
    with pytest.raises(UserError, match="shorten the persona"):
        Settings(model=tiny.first, persona="Be kind. " * 200).check()


def test_a_reply_is_whole_and_no_error() -> None:
    said = asgi.event({"choices": [{"index": 0, "delta": {"content": "Hi"}}]})
    assert asgi.is_reply(said + asgi.DONE, stream=True)
    assert not asgi.is_reply(said, stream=True)
    assert not asgi.is_reply(asgi.event({"error": {"message": "the engine is dead"}}) + asgi.DONE, stream=True)
    assert asgi.is_reply(b'{"choices": [{}]}', stream=False) and not asgi.is_reply(b'{"choices": []}', stream=False)


def test_feedback_on_what_nobody_said_is_refused(tiny: Tiny, tmp_path: Any) -> None:
    app = gateway(tiny, Engine(), feedback=tmp_path / "f.sqlite")
    error(ask(app, "POST", "/feedback", json={"reply_id": "chatcmpl-x", "thumb": "up"}), 404, "reply_not_found")
    for wrong in ({}, {"reply_id": 1}, {"reply_id": "x", "thumb": "sideways"}, {"reply_id": "x", "thumb": "up",
                  "comment": "c" * 5000}, {"reply_id": "x", "thumb": "up", "comment": 1}):  # fmt: skip
        error(ask(app, "POST", "/feedback", json=wrong), 400)
    assert isinstance(app._memory, Memory)
    silent = gateway(tiny, Engine())
    error(ask(silent, "POST", "/feedback", json={"reply_id": "x", "thumb": "up"}), 404, "not_found")
