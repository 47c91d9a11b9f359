"""One request handed to vLLM's application: its body in, its reply out under the guard, ended at its time limit.

A client that goes away, a guard that ends a reply and a clock that runs out all cancel the same task; vLLM then drops
the request, so that nothing goes on computing for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from typing import Any

from serve.gateway import asgi
from serve.gateway.asgi import DONE, App, Receive, Refused, Scope, Send
from serve.gateway.generation import Asked, Stream, watched_whole
from serve.gateway.guard import Judge
from serve.gateway.metrics import Metrics
from serve.settings import Settings

LAST_WORD_S = 1.0
VALIDATION = re.compile(r"""^1 validation error:.*?'msg': ['"](.+?)['"], """, re.DOTALL)


class Relay:
    """One request on its way. texts: the replies as they were sent, once `run` has returned."""

    def __init__(self, app: App, asked: Asked, guard: Judge, settings: Settings, metrics: Metrics, begin: float):
        self._app, self._asked, self._guard, self._metrics, self._begin = app, asked, guard, metrics, begin
        self._limit_s = settings.limits.request_s
        self._stream: Stream | None = None
        self._model = settings.name
        self._status, self._headers = 0, []
        self._whole: list[bytes] = []
        self._sent = False  # whether the answer has begun
        self._finished = asyncio.Event()  # nothing more of vLLM's is wanted
        self.texts: list[str] = []

    async def run(self, scope: Scope, receive: Receive, send: Send, request: str) -> bool:
        """Whether a whole reply was sent. Raises Refused where it took too long to begin."""
        names = (b"content-length", b"x-request-id", b"content-type")
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in names]
        body = asgi.dumps(self._asked.body)
        own = asgi.encoded([("content-type", "application/json"), ("content-length", str(len(body))),
                            ("x-request-id", request)])  # fmt: skip
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive_ours() -> asgi.Event:
            return next(given, None) or await receive()

        async def send_ours(event: asgi.Event) -> None:
            await self._pass(event, send)

        work = asyncio.ensure_future(self._app({**scope, "headers": [*headers, *own]}, receive_ours, send_ours))
        cut = asyncio.ensure_future(self._finished.wait())
        try:
            await asyncio.wait({work, cut}, timeout=self._left_s(), return_when=asyncio.FIRST_COMPLETED)
            late = not work.done() and not cut.done()
        finally:
            cut.cancel()
            await _cancelled(work)
        if late:
            return await self._end_late(send)
        if not cut.done() or cut.cancelled():
            work.result()  # raises what vLLM's application raised
        if self._stream is not None and self._stream.cut:
            await send({"type": "http.response.body", "body": DONE})
        return self._settle()

    def _left_s(self) -> float:
        return max(0.0, self._limit_s - (time.monotonic() - self._begin))

    async def _pass(self, event: asgi.Event, send: Send) -> None:
        """One event of vLLM's answer on its way to the client."""
        if self._finished.is_set():
            return
        if event["type"] == "http.response.start":
            self._status, self._headers = event["status"], list(event["headers"])
            kind = dict(self._headers).get(b"content-type", b"")
            if kind.startswith(b"text/event-stream"):
                self._stream = Stream(self._asked, self._guard, self._model)
                await self._begin_answer(send, self._headers)
            return
        if event["type"] != "http.response.body":
            return await send(event)
        piece, more = event.get("body", b""), event.get("more_body", False)
        if self._stream is None:
            self._whole.append(piece)
            if not more:
                await self._send_whole(send)
            return
        piece = self._stream.feed(piece)
        if piece:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self._stream.cut:
            self._finished.set()
        elif not more:
            await send({"type": "http.response.body", "body": b""})

    async def _send_whole(self, send: Send) -> None:
        body, headers = b"".join(self._whole), self._headers
        if self._status == 200:
            body, self.texts, reason = watched_whole(body, self._guard)
            if reason:
                self._metrics.declined.labels("reply").inc()
                headers = [*headers, (b"x-rayse-guard", b"reply")]
        elif self._status >= 400:
            body = asgi.dumps(openai_error(self._status, body))
        headers = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        await self._begin_answer(send, [*headers, (b"content-length", str(len(body)).encode())])
        await send({"type": "http.response.body", "body": body})

    async def _begin_answer(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self._sent = True
        self._metrics.first_s.observe(time.monotonic() - self._begin)
        if self._asked.left_out:
            headers = [*headers, (b"x-rayse-turns-left-out", str(self._asked.left_out).encode())]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})

    async def _end_late(self, send: Send) -> bool:
        message = f"the reply took longer than {self._limit_s:g} s, which is this server's limit"
        if not self._sent:
            raise Refused(504, message, code="timeout")
        last = asgi.event(Refused(504, message, code="timeout").body) + DONE
        with contextlib.suppress(TimeoutError):  # a client that does not read holds its place no longer
            async with asyncio.timeout(LAST_WORD_S):
                await send({"type": "http.response.body", "body": last})
        return False

    def _settle(self) -> bool:
        if self._stream is None:
            return self._status == 200
        self.texts = self._stream.texts
        if self._stream.reason:
            self._metrics.declined.labels("reply").inc()
        return not self._stream.failed


def openai_error(status: int, body: bytes) -> dict[str, Any]:
    """vLLM's error in OpenAI's form: the same message, a type by the status, the parameter without `body.`."""
    try:
        found = json.loads(body)["error"]
        message, param = str(found["message"]), found.get("param")
    except (ValueError, KeyError, TypeError):
        message, param = "the engine failed at this request", None
    wrong = VALIDATION.search(message)
    if wrong and isinstance(param, str):
        param = param.removeprefix("body.")
        message = f"{param}: {wrong.group(1)}"
    return Refused(status, message, param=param).body


async def _cancelled(work: asyncio.Future[None]) -> None:
    """Ends a task and waits for it; what it raises on the way is not wanted any more."""
    if not work.done():
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await work
