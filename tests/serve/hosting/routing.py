"""The real router of a server, in this process: models that answer by a script stand in for Ray's handles of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

from serve.gateway import asgi
from serve.gateway.asgi import Event
from serve.hosting.outcomes import Key
from serve.hosting.router import Router
from serve.settings import Settings
from tests.serve.hosting.running import CHAT

Script = Callable[[], AsyncIterator[Event]]
STREAM = asgi.encode_headers([("content-type", "text/event-stream")])


def start(status: int = 200) -> Event:
    """The event that begins a response."""
    return {"type": "http.response.start", "status": status, "headers": STREAM}


def part(body: bytes = b"", *, more: bool = True) -> Event:
    """A part of a response's body; the last one where no more come."""
    return {"type": "http.response.body", "body": body, "more_body": more}


async def answer() -> AsyncIterator[Event]:
    """A complete stream of one token."""
    yield start()
    yield part(asgi.sse_event({"choices": [{"index": 0, "delta": {"content": "x"}}]}))
    yield part(asgi.DONE, more=False)


async def fail() -> AsyncIterator[Event]:
    """An error of the server."""
    yield start(500)
    yield part(b"{}", more=False)


class Handle:
    """A model, as a router calls it."""

    def __init__(self, script: Script):
        self.respond = SimpleNamespace(remote=lambda scope, body, name: script())

    def options(self, *, stream: bool) -> Handle:
        """As Ray's handle."""
        return self


class Routed:
    """A router with its models."""

    def __init__(self, settings: Settings, scripts: list[Script]):
        self.headers: list[tuple[bytes, bytes]] = []  # of each request
        plain: Any = Router.__mro__[1]  # without what Ray Serve puts around it
        self.router = plain.__new__(plain)
        asyncio.run(plain.__init__(self.router, settings.model_dump_json(), [Handle(each) for each in scripts]))

    def facts(self) -> dict[Key, dict[str, float]]:
        """The figures that the router has counted."""
        _, counted = asyncio.run(self.router.outcomes())
        return {key: outcomes.facts() for key, outcomes in counted.items()}

    async def ask(self, model: str) -> list[Event]:
        """The events that a client gets for one chat."""
        body, sent = json.dumps({"model": model}).encode(), []
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [(b"host", b"localhost"), *self.headers]}

        async def receive() -> Event:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(event: Event) -> None:
            sent.append(event)

        await self.router.route(scope, receive, send)
        return sent

    def ask_often(self, model: str, number: int) -> int:
        """Sends chats, one after another; returns how many were answered with status 200."""

        async def ask_all() -> int:
            return sum([(await self.ask(model))[0]["status"] == 200 for _ in range(number)])

        return asyncio.run(ask_all())


def handle_of(*routed: Routed) -> SimpleNamespace:
    """What Ray Serve gives the process that watches canaries: a handle of these routers."""

    def broadcast(method: str, *arguments: str) -> SimpleNamespace:
        answers = [asyncio.run(getattr(each.router, method)(*arguments)) for each in routed]
        return SimpleNamespace(results=lambda **options: answers)

    return SimpleNamespace(broadcast=broadcast)
