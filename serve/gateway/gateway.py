"""The HTTP face: routes, keys, limits and errors around vLLM's own server, in the replica's process.

    GET  /                      the chat page            GET /about    what the page must know
    GET  /health                200 once it has answered GET /metrics  Prometheus
    POST /v1/chat/completions   POST /v1/completions     GET /v1/models, /v1/models/NAME
    POST /feedback              {reply_id, thumb, comment}

Whatever is not listed does not exist, though vLLM may know it. A plain ASGI application: no framework between a token
and its reader.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pipelines.data.tokens.chat import Chat
from serve.gateway import asgi
from serve.gateway import guard as guards
from serve.gateway.asgi import App, Gone, Receive, Refused, Scope, Send
from serve.gateway.feedback import COMMENT_CHARACTERS, THUMBS, Feedback, Memory, Reply, UnknownReply
from serve.gateway.generation import CHAT, COMPLETIONS, Asked, new_request, prepare, refusal
from serve.gateway.metrics import Metrics
from serve.gateway.page import Page
from serve.gateway.relay import Relay
from serve.settings import Settings

OPEN = ("/", "/health")  # need no key: the page asks for it, and health says nothing of anybody
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
METHODS = {
    "/": ("GET", "HEAD"),
    "/health": ("GET", "HEAD"),
    "/about": ("GET",),
    "/metrics": ("GET",),
    "/feedback": ("POST",),
    "/v1/models": ("GET",),
    CHAT: ("POST",),
    COMPLETIONS: ("POST",),
}


class Gateway:
    """The application the world sees. app: vLLM's. context: tokens of a prompt with its reply.

    healthy: raises when the engine is dead."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        *,
        context: int,
        healthy: Callable[[], Awaitable[Any]],
        metrics: Metrics | None = None,
    ):
        self._app, self._settings, self._context, self._healthy = app, settings, context, healthy
        self._chat = Chat.open(settings.model)
        self._guard = guards.judge(settings.guard_folder, on=settings.guard)
        self._feedback = Feedback(settings.feedback) if settings.feedback else None
        self._memory = Memory()
        self._metrics = metrics or Metrics()
        self._page = Page()
        self._active = 0
        self._created = int(time.time())
        self.ready = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await _close(scope, receive, send)
        route = self._route(scope["path"])
        status = [0]

        async def counted(event: asgi.Event) -> None:
            if event["type"] == "http.response.start":
                status[0] = event["status"]
            await send(event)

        try:
            await self._admitted(route, scope, receive, counted)
        except Refused as refused:
            await asgi.answer_json(counted, refused.status, refused.body, refused.headers)
        except Gone:
            status[0] = 499
        finally:
            if self.ready:
                self._metrics.requests.labels(route or "other", str(status[0] or 499)).inc()

    async def _admitted(self, route: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = asgi.headers_of(scope)
        self._check_sender(route, headers)
        if not route:
            raise Refused(404, f"{scope['path']}: there is no such place here", code="not_found")
        if scope["method"] not in METHODS[route]:
            raise Refused(405, f"{scope['path']}: expected {' or '.join(METHODS[route])}, not {scope['method']}",
                          headers={"allow": ", ".join(METHODS[route])})  # fmt: skip
        if route in (CHAT, COMPLETIONS):
            return await self._generate(route, scope, headers, receive, send)
        if route == "/feedback":
            return await self._keep(scope, headers, receive, send)
        if route == "/health":
            return await self._health(scope, send)
        if route == "/about":
            return await asgi.answer_json(send, 200, self._about())
        if route == "/v1/models":
            return await asgi.answer_json(send, 200, self._models(scope["path"]))
        if route == "/":
            return await self._page.answer(send, headers, head_only=scope["method"] == "HEAD")
        await self._app(scope, receive, send)

    def _route(self, path: str) -> str:
        """The name a path goes by, or nothing."""
        if path.startswith("/v1/models/"):
            return "/v1/models"
        return path if path in METHODS else ""

    def _check_sender(self, route: str, headers: dict[str, str]) -> None:
        """Who sends the key may ask. Where no key is set only this machine's own programs and our own page may, so
        that no web site in somebody's browser can speak to a model that listens on their loopback."""
        if self._settings.key is not None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = scheme.lower() == "bearer" and secrets.compare_digest(
                given.strip().encode("latin-1", "replace"), self._settings.key.encode()
            )
            if not right and route not in OPEN:
                raise Refused(401, "wrong or missing key; expected the header `Authorization: Bearer KEY`",
                              code="invalid_api_key", headers={"www-authenticate": "Bearer"})  # fmt: skip
            return
        host, origin = headers.get("host", ""), headers.get("origin")
        if _parts(f"//{host}").hostname not in (*LOCAL_NAMES, self._settings.host):
            raise Refused(403, f"this server answers to localhost, not to {host!r}", code="foreign_host")
        if origin is not None and _parts(origin).netloc != host:
            raise Refused(403, f"pages of {origin!r} may not ask this server", code="foreign_origin")

    # ---- replies ------------------------------------------------------------------------------------------------

    async def _generate(self, route: str, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
        begin = time.monotonic()
        body = await self._object(scope, headers, receive)
        asked = prepare(route, body, self._settings, self._chat, self._context, request := new_request())
        if self._active >= self._settings.limits.concurrent:
            raise Refused(429, f"{self._active} requests are at work, which is this server's limit; try again shortly",
                          code="too_many_requests", headers={"retry-after": "1"})  # fmt: skip
        with self._metrics.guard_s.time():
            verdict = guards.declined(self._guard, asked.question)
        relay = Relay(self._app, asked, self._guard, self._settings, self._metrics, begin)
        self._active += 1
        self._metrics.active.set(self._active)
        try:
            if verdict is not None:
                await self._decline(asked, verdict.reason, send)
            elif await relay.run(scope, receive, send, request):
                self._remember(asked, relay.texts)
        finally:
            self._active -= 1
            self._metrics.active.set(self._active)

    async def _decline(self, asked: Asked, reason: str, send: Send) -> None:
        self._metrics.declined.labels("prompt").inc()
        text = self._guard.refusal(asked.language)
        pieces = refusal(asked, text, self._settings, len(self._chat.encoder.encode([text])[0]), reason)
        kind = "text/event-stream; charset=utf-8" if asked.body.get("stream") is True else "application/json"
        listed = {"content-type": kind, "x-rayse-guard": "prompt"}
        await send({"type": "http.response.start", "status": 200, "headers": asgi.encoded(listed.items())})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self._remember(asked, [text])

    def _remember(self, asked: Asked, texts: list[str]) -> None:
        if self._feedback is not None and self.ready and len(texts) == 1:
            self._memory.remember(Reply(asked.reply_id, asked.prompt, texts[0], self._settings.name,
                                        self._settings.version, asked.sampling, asked.created))  # fmt: skip

    async def _object(self, scope: Scope, headers: dict[str, str], receive: Receive) -> dict[str, Any]:
        limits = self._settings.limits
        kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        body = await asgi.read_body(scope, receive, most_bytes=limits.body_bytes, most_s=limits.body_s)
        if kind != "application/json":
            raise Refused(415, f"content-type {kind!r}: expected application/json")
        return asgi.parse_object(body)

    # ---- the rest -----------------------------------------------------------------------------------------------

    async def _keep(self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
        body = await self._object(scope, headers, receive)
        if self._feedback is None:
            raise Refused(404, "this server keeps no feedback", code="not_found")
        reply_id, thumb, comment = body.get("reply_id"), body.get("thumb"), body.get("comment", "")
        if not isinstance(reply_id, str) or not reply_id.isascii() or len(reply_id) > 100:
            raise Refused(400, "reply_id: expected the id of a reply", param="reply_id")
        if thumb not in THUMBS:
            raise Refused(400, "thumb: expected up or down", param="thumb")
        if not isinstance(comment, str) or len(comment) > COMMENT_CHARACTERS:
            raise Refused(400, f"comment: expected text of at most {COMMENT_CHARACTERS} characters", param="comment")
        comment = comment.encode("utf-8", "replace").decode()
        try:
            await asyncio.to_thread(self._feedback.keep, reply_id, thumb, comment, self._memory.get(reply_id))
        except UnknownReply:
            raise Refused(404, f"reply_id {reply_id!r}: no such reply, or it is too long ago", param="reply_id",
                          code="reply_not_found") from None  # fmt: skip
        except (sqlite3.Error, OSError) as error:
            raise Refused(507, f"the feedback could not be stored ({error}); please try again later") from None
        self._metrics.feedback.labels(thumb).inc()
        await asgi.answer_json(send, 200, {"reply_id": reply_id, "thumb": thumb, "stored": True})

    async def _health(self, scope: Scope, send: Send) -> None:
        problem = "" if self.ready else "starting"
        if self.ready:
            try:
                await self._healthy()
            except Exception as error:  # whatever vLLM raises: the engine does not answer
                problem = f"the engine does not answer ({type(error).__name__})"
        about = {"status": problem or "ready", "model": self._settings.name, "version": self._settings.version}
        await asgi.answer(send, 503 if problem else 200, asgi.dumps(about), head_only=scope["method"] == "HEAD")

    def _models(self, path: str) -> dict[str, Any]:
        """The list of the one model, or the model. (vLLM's own answer tells the folder's path.)"""
        model = {
            "id": self._settings.name,
            "object": "model",
            "created": self._created,
            "owned_by": "rayse",
            "max_model_len": self._context,
        }
        if path == "/v1/models":
            return {"object": "list", "data": [model]}
        name = path.removeprefix("/v1/models/")
        if name != self._settings.name:
            raise Refused(404, f"The model {name!r} does not exist; this server has {self._settings.name!r}",
                          param="model", code="model_not_found")  # fmt: skip
        return model

    def _about(self) -> dict[str, Any]:
        return {
            "model": self._settings.name,
            "version": self._settings.version,
            "persona": self._settings.persona or "",
            "context_tokens": self._context,
            "max_turns": self._settings.max_turns,
            "feedback": self._feedback is not None,
            "guard": self._settings.guard,
        }


def _parts(url: str) -> SplitResult:
    """Of a URL; of what is none, no parts."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


async def _close(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket, which nothing here speaks, or a server that starts and ends."""
    event = await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1002})
    elif event["type"] in ("lifespan.startup", "lifespan.shutdown"):
        await send({"type": f"{event['type']}.complete"})
