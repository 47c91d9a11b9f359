"""The routers of a server with several models: the request's `model` chooses one; a canary gets a share of requests.

    client ──► front ──► a Router ──Ray's router──► a replica of the Model ──events──► client
                                                    (an adapter's: the one of its base)

A server with one model has none: there the front streams from the replica itself. A router checks the key from the
headers, before it reads a body; requests pass from process to process with the client's headers, and the model's
gateway checks keys, limits and fields as ever. Routers know nothing of each other: each counts what it passed on, and
whoever watches a canary adds that up.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import ray.serve
from ray.exceptions import RayActorError

from serve.gateway import asgi, metrics, receipts
from serve.gateway.asgi import ApiError, App, ClientDisconnected, Event, Receive, Scope, Send
from serve.gateway.keys import authorize
from serve.gateway.routes import GENERATION
from serve.hosting.outcomes import Key, Outcomes, Passing
from serve.settings import Settings


@ray.serve.ingress()
class Router:
    """Routes by the request's `model`. settings: Settings as JSON; handles: of the models, in their order."""

    async def __init__(self, settings: str, handles: list[Any]):
        self._server = server = Settings.model_validate_json(settings)
        self._id = uuid.uuid4().hex
        self._limits, self._names = server.limits, list(dict.fromkeys(model.name for model in server.models))
        self._models = list(zip(server.models, [handle.options(stream=True) for handle in handles], strict=True))
        self._shares = {
            model.name: model.canary for model in server.models if model.canary and not model.canary_stopped
        }
        self._outcomes: dict[Key, Outcomes] = defaultdict(Outcomes)
        self._random = random.Random()

    async def __serve_build_asgi_app__(self) -> App:
        async def app(
            scope: Scope, receive: Receive, send: Send
        ) -> None:  # a function: uvicorn takes methods for ASGI 2
            await self.route(scope, receive, send)

        return app

    async def outcomes(self) -> tuple[str, dict[Key, Outcomes]]:
        """This router's id, and what became of the requests that it has passed on so far, by model."""
        return self._id, dict(self._outcomes)

    async def stop_canary(self, name: str) -> None:
        """Sends all requests for a model to the version that is no canary; called for every router."""
        self._shares.pop(name, None)

    async def route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, as an ASGI application."""
        if scope["type"] != "http":
            return await asgi.close_other(scope, receive, send)
        scope = asgi.without_prefix(scope)
        try:
            await self._dispatch(scope, receive, send)
        except ApiError as error:
            await asgi.respond_json(send, error.status, error.body, error.headers)
        except ClientDisconnected:
            pass  # while the body was read: no response began

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        authorize(self._server, path, asgi.headers_of(scope))
        body = await asgi.read_body(receive, max_bytes=self._limits.body_bytes, timeout_s=self._limits.body_s)
        if path == "/v1/models" or path == "/metrics":
            return await self._merge(scope, send)
        if path == "/feedback":
            return await self._first_success(scope, body, send)
        # Only such a request is counted, and may go to a canary.
        name, is_generation = None, path in GENERATION and scope["method"] == "POST"
        if path.startswith("/v1/models/"):
            name = path.removeprefix("/v1/models/")
        elif is_generation:
            name = asgi.parse_object(body).get("model")
        if name is not None and name not in self._names:
            return await self._refuse(name, scope, body, send)
        model, handle = self._choose(name or self._names[0], may_be_canary=is_generation)
        response = Passing()
        try:
            async for event in _events(handle, scope, body, model.name):
                response.note(event)
                await send(event)
        except asyncio.CancelledError:
            response.leave()
            raise
        finally:
            if is_generation:
                self._outcomes[model.name, model.version, bool(model.canary)].count(response)

    def _choose(self, name: str, *, may_be_canary: bool) -> tuple[Settings, Any]:
        """The model of this name, or its canary."""
        is_canary = may_be_canary and self._random.random() < self._shares.get(name, 0.0)
        return next((model, handle) for model, handle in self._models
                    if model.name == name and bool(model.canary) == is_canary)  # fmt: skip

    async def _refuse(self, name: Any, scope: Scope, body: bytes, send: Send) -> None:
        """A model's name that this server has not: the first model says so, or what else is wrong, such as the key."""
        events, status, _ = await self._respond(*self._models[0], scope, body)
        if status != 404:
            return await _send_all(events, send)
        raise ApiError(404, f"The model {name!r} does not exist; this server has {', '.join(self._names)}",
                       param="model", code="model_not_found")  # fmt: skip

    async def _respond(self, model: Settings, handle: Any, scope: Scope, body: bytes) -> tuple[list[Event], int, bytes]:
        """The whole response of one model: its events, status and body."""
        events = [event async for event in _events(handle, scope, body, model.name)]
        return events, events[0]["status"], b"".join(event.get("body", b"") for event in events[1:])

    async def _merge(self, scope: Scope, send: Send) -> None:
        """The list of all models, or the metrics of all; one model's error where there is one, such as a wrong key."""
        texts: dict[str, str] = {}
        cards: list[Any] = []
        for model, handle in self._models:
            events, status, body = await self._respond(model, handle, scope, b"")
            if status != 200:
                return await _send_all(events, send)
            if scope["path"] == "/metrics":
                texts[f"{model.name} {model.version}".strip()] = body.decode()
            elif not model.canary:
                cards += asgi.parse_object(body)["data"]
        if scope["path"] == "/metrics":
            merged = metrics.merge(texts, "server_model").encode()
            return await asgi.respond(send, 200, merged, content_type=metrics.METRICS_TYPE)
        await asgi.respond_json(send, 200, {"object": "list", "data": cards})

    async def _first_success(self, scope: Scope, body: bytes, send: Send) -> None:
        """Feedback: the model that wrote the reply takes it; the others do not know its id. Any takes a receipt, but
        only the one that wrote it has its texts."""
        events: list[Event] = []
        for number in order_of_feedback([model for model, _ in self._models], body):
            events, status, _ = await self._respond(*self._models[number], scope, body)
            if status != 404:
                break
        await _send_all(events, send)


def order_of_feedback(models: Sequence[Settings], body: bytes) -> list[int]:
    """Indices of the models, in the order in which they are asked to take feedback: first the one that a receipt in
    the body names. body: JSON, which that model checks."""
    facts: dict[str, Any] = {}
    with contextlib.suppress(ApiError):
        facts = receipts.unverified(asgi.parse_object(body).get("receipt"))
    wrote = [(model.name, model.version) == (facts.get("model"), facts.get("version")) for model in models]
    return sorted(range(len(models)), key=lambda number: not wrote[number])


async def _events(handle: Any, scope: Scope, body: bytes, name: str) -> AsyncGenerator[Event, None]:
    """The events of a model's response. Where its replica ends before the first one, another gets the request, once;
    also where it is out of reach, as that of a lost node is until Ray knows that it died.
    Raises ApiError where that ends too, RayActorError where one ends in the middle of a response."""
    is_begun = False
    for _ in range(2):
        try:
            async for event in handle.respond.remote(_plain(scope), body, name):
                is_begun = True
                yield event
            return
        except RayActorError:
            if is_begun:
                raise
    raise ApiError(503, f"replicas of {name} ended; try again shortly", code="replica_replaced",
                   headers={"retry-after": "1"})  # fmt: skip


async def _send_all(events: list[Event], send: Send) -> None:
    for event in events:
        await send(event)


def _plain(scope: Scope) -> Scope:
    """The parts of a scope that pass from process to process."""
    kept = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path",
            "headers", "client", "server")  # fmt: skip
    return {name: scope[name] for name in kept if name in scope}
