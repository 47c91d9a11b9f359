"""Relay: one generation request handed to vLLM's application, and its response passed back under the guard.

    GenerationRequest ──► vLLM's ASGI application ──events──► guard (reply.py) ──► the client

A client that disconnects, a guard that ends the reply and a time limit that runs out all cancel the same task; vLLM
then aborts the request, and computes no tokens that nobody reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pipelines.data.tokens.chat_messages import Message
from serve.gateway import asgi
from serve.gateway.asgi import DONE, ApiError, App, Receive, Scope, Send
from serve.gateway.guard import Guard
from serve.gateway.guard_model import ReplyJudge
from serve.gateway.metrics import Metrics
from serve.gateway.quality import Scorer, low
from serve.gateway.reply import GuardedStream, guard_response, with_notes
from serve.gateway.request import GenerationRequest
from serve.settings import Settings

logger = logging.getLogger(__name__)
LAST_EVENT_TIMEOUT_S = 1.0
VALIDATION_ERROR = re.compile(r"""^1 validation error:.*?'msg': ['"](.+?)['"], """, re.DOTALL)
Headers = list[tuple[bytes, bytes]]


class Relay:
    """One request on its way through vLLM. start: time.monotonic() when it came in.

    on_reply: called with the request that vLLM answered and the replies as their reader has them, after the beginning
    that the request brought, once they are complete and before the response ends: a client may send feedback as soon as
    it has the end. Returns the receipt that the response carries. scorer: scores a reply before it is sent, or before
    the last event of its stream is; default: none is. judge: of a guard model, without whose verdict nothing is
    sent; default: none."""

    def __init__(
        self, app: App, request: GenerationRequest, guard: Guard, settings: Settings, metrics: Metrics, start: float,
        on_reply: Callable[[GenerationRequest, list[Message]], str], scorer: Scorer | None = None,
        judge: ReplyJudge | None = None,
    ):  # fmt: skip
        self._judge = judge
        self._scorer, self._regenerates = scorer, settings.quality == "regenerate"
        self.quality: dict[str, Any] = {}  # scores of the reply, which of them are low, whether it is the second one
        self._on_reply = on_reply
        self._app, self._request, self._guard, self._metrics, self._start = app, request, guard, metrics, start
        self.first_text_s = 0.0  # time from the request to the first text of the reply; 0 before it
        self.declined_reason = ""  # of the guard, where it ended the reply
        self._timeout_s = settings.limits.request_s
        self._model = settings.name
        self._stream: GuardedStream | None = None  # once vLLM answers with a stream
        self._status = 0
        self._headers: Headers = []
        self._body: list[bytes] = []  # of a response that is no stream
        self._early = b""  # of a stream: the role, until there is text to send with it
        self._started = False  # whether the response has begun
        self._cut = asyncio.Event()  # set when the rest of vLLM's response can be dropped

    async def run(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """Runs the request. Raises ApiError where no response had begun within the time limit."""
        self._call = partial(self._call_vllm, scope, receive, request_id)

        async def send_guarded(event: asgi.Event) -> None:
            await self._forward(event, send)

        work = asyncio.ensure_future(self._call(self._request.body, send_guarded))
        cut = asyncio.ensure_future(self._cut.wait())
        try:
            await asyncio.wait({work, cut}, timeout=self._remaining_s(), return_when=asyncio.FIRST_COMPLETED)
            timed_out = not work.done() and not cut.done()
        finally:
            if self._judge is not None:
                self._judge.stopped.set()
            cut.cancel()
            await _cancel(work)
        if timed_out:
            return await self._end_timed_out(send)
        if not cut.done() or cut.cancelled():
            work.result()  # raises what vLLM's application raised
        if self._stream is not None and self._stream.cut:
            self._count_declined(self._stream)
            await self._send_part(DONE, send, more_body=False)

    async def _call_vllm(
        self, scope: Scope, receive: Receive, request_id: str, fields: dict[str, Any], send: Send
    ) -> None:
        body = asgi.dumps(fields)
        unsent_body = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_prepared() -> asgi.Event:
            return unsent_body.pop() if unsent_body else await receive()

        scope = {**scope, "headers": _prepared_headers(scope["headers"], len(body), request_id)}
        await self._app(scope, receive_prepared, send)

    def _remaining_s(self) -> float:
        return max(0.0, self._timeout_s - (time.monotonic() - self._start))

    async def _forward(self, event: asgi.Event, send: Send) -> None:
        """Passes one event of vLLM's response on to the client."""
        if self._cut.is_set():
            return
        if event["type"] == "http.response.start":
            self._status, self._headers = event["status"], list(event["headers"])
            content_type = dict(self._headers).get(b"content-type", b"")
            if content_type.startswith(b"text/event-stream"):
                on_reply = partial(self._on_reply, self._request)
                self._stream = GuardedStream(self._request, self._guard, self._model, on_reply, self._streamed_quality,
                                             self._judge)  # fmt: skip
        elif event["type"] != "http.response.body":
            await send(event)
        elif self._stream is None:
            self._body.append(event.get("body", b""))
            if not event.get("more_body", False):
                await self._send_whole(send)
        else:
            await self._forward_chunk(self._stream, event, send)

    async def _forward_chunk(self, stream: GuardedStream, event: asgi.Event, send: Send) -> None:
        chunk = event.get("body", b"")
        if self._judge is not None:
            checked = await self._judge.model.in_thread(stream.feed, chunk)
        elif self._scorer is not None and b'"finish_reason":"' in chunk:  # the event that waits for scores
            checked = await asyncio.to_thread(stream.feed, chunk)
        else:
            checked = stream.feed(chunk)
        if not self.first_text_s and stream.shows_text:
            self._note_first_text()
        self._early += checked
        is_end = stream.cut or stream.failed or not event.get("more_body", False)
        if self._early and (stream.shows_text or is_end):
            early, self._early = self._early, b""
            await self._send_part(early, send, more_body=True)
        if stream.cut:
            self._cut.set()
        elif not event.get("more_body", False):
            self._count_declined(stream)
            await self._send_part(b"", send, more_body=False)

    async def _send_part(self, part: bytes, send: Send, *, more_body: bool) -> None:
        """Sends a part of a stream. The first one, with text, begins the response, and not vLLM's headers or the role,
        which come before the guard has checked a sentence: where this replica ends before, the front sends the request
        to another one."""
        if not self._started:
            await self._start_response(send, self._headers)
        await send({"type": "http.response.body", "body": part, "more_body": more_body})

    async def _send_whole(self, send: Send) -> None:
        """Sends a response that is no stream: a reply, or vLLM's error in OpenAI's form."""
        body, headers = b"".join(self._body), self._headers
        if self._status == 200:
            body, messages, reason = await self._guarded(body, self._request)
            if self._scorer is not None and not reason and not messages[0].get("tool_calls"):
                body, messages = await self._scored(body, messages, self._scorer)
            body = with_notes(body, self._request, self._on_reply(self._request, messages), self.quality)
            self._note_first_text()
            self.declined_reason = reason
            if reason:
                self._metrics.count_declined("reply", reason)
                headers = [*headers, (b"x-rayse-guard", b"reply")]
        elif self._status >= 400:
            body = asgi.dumps(openai_error(self._status, body))
        headers = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        await self._start_response(send, [*headers, (b"content-length", str(len(body)).encode())])
        await send({"type": "http.response.body", "body": body})

    async def _guarded(self, body: bytes, request: GenerationRequest) -> tuple[bytes, list[Message], str]:
        """What guard_response makes of a response, in a thread where a guard model judges it."""
        if self._judge is None:
            return guard_response(body, self._guard, request)
        return await self._judge.model.in_thread(guard_response, body, self._guard, request, self._judge)

    async def _scored(self, body: bytes, messages: list[Message], scorer: Scorer) -> tuple[bytes, list[Message]]:
        """(body, messages) of the reply, or of a second one in place of a low one, if that scores better. Only the one
        that is sent counts in the metrics."""
        question = self._request.user_text if self._request.is_chat else ""
        scored = await asyncio.to_thread(scorer.score, question, messages[0]["content"])
        is_second = False
        if low(scored) and self._regenerates and self._request.body.get("temperature") != 0:  # which repeats it
            request = _with_other_seed(self._request)
            second_body, second = await self._second_reply(request)
            if second:
                rescored = await asyncio.to_thread(scorer.score, question, second[0]["content"])
                if (-len(low(rescored)), sum(rescored.values())) > (-len(low(scored)), sum(scored.values())):
                    self._request, body, messages, scored, is_second = request, second_body, second, rescored, True
        scorer.count(scored)
        self.quality = scored | {"low": low(scored), "regenerated": is_second}
        return body, messages

    def _streamed_quality(self, message: Message) -> dict[str, Any]:
        """The field of a streamed reply's scores; empty where it is not scored."""
        if self._scorer is not None and not message.get("tool_calls"):
            scored = self._scorer.score(self._request.user_text if self._request.is_chat else "", message["content"])
            self._scorer.count(scored)
            self.quality = scored | {"low": low(scored), "regenerated": False}
        return self.quality

    async def _second_reply(self, request: GenerationRequest) -> tuple[bytes, list[Message]]:
        """(body, messages) of vLLM's response to another request for the reply; no messages where it is an error, calls
        a tool, or is declined by the guard."""
        events: list[asgi.Event] = []

        async def collect(event: asgi.Event) -> None:
            events.append(event)

        try:  # the first reply is there to be sent: no failure of the second may lose it
            async with asyncio.timeout(self._remaining_s() / 2):
                await self._call(request.body, collect)
        except Exception as error:
            logger.warning("quality: no second reply: %s", error or type(error).__name__)
            return b"", []
        if not events or events[0].get("status") != 200:
            return b"", []
        body = b"".join(event.get("body", b"") for event in events)
        body, messages, reason = await self._guarded(body, request)
        return body, [] if reason or messages[0].get("tool_calls") else messages

    async def _start_response(self, send: Send, headers: Headers) -> None:
        self._started = True
        self._metrics.first_bytes_s.observe(time.monotonic() - self._start)
        if self._request.turns_left_out:
            headers = [*headers, (b"x-rayse-turns-left-out", str(self._request.turns_left_out).encode())]
        if self._request.tools_ignored:
            headers = [*headers, (b"x-rayse-tools-ignored", str(self._request.tools_ignored).encode())]
        if self._request.orders_removed:
            headers = [*headers, (b"x-rayse-orders-removed", str(self._request.orders_removed).encode())]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})

    async def _end_timed_out(self, send: Send) -> None:
        error = ApiError(504, f"the reply took longer than {self._timeout_s:g} s, which is this server's limit",
                         code="timeout")  # fmt: skip
        if not self._started:
            raise error
        with contextlib.suppress(TimeoutError):  # a client that does not read must not keep the request in flight
            async with asyncio.timeout(LAST_EVENT_TIMEOUT_S):
                await send({"type": "http.response.body", "body": asgi.sse_event(error.body) + DONE})

    def _note_first_text(self) -> None:
        self.first_text_s = time.monotonic() - self._start
        self._metrics.first_text_s.observe(self.first_text_s)

    def _count_declined(self, stream: GuardedStream) -> None:
        self.declined_reason = stream.reason
        if stream.reason:
            self._metrics.count_declined("reply", stream.reason)


def _with_other_seed(request: GenerationRequest) -> GenerationRequest:
    """The request with another seed; where it has none, each reply is another one anyway."""
    seed = request.body.get("seed")
    return request if seed is None else replace(request, body={**request.body, "seed": seed + 1})


def _prepared_headers(headers: Headers, body_bytes: int, request_id: str) -> Headers:
    """The client's headers with the length, type and request id of vLLM's body in place of its body's."""
    replaced = {
        b"content-type": b"application/json",
        b"content-length": str(body_bytes).encode(),
        b"x-request-id": request_id.encode(),
    }
    return [*((name, value) for name, value in headers if name.lower() not in replaced), *replaced.items()]


def openai_error(status: int, body: bytes) -> dict[str, Any]:
    """vLLM's error in OpenAI's form: the same message, a type by the status, the parameter without `body.`."""
    try:
        error = json.loads(body)["error"]
        message, param = str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError):
        message, param = "the engine failed at this request", None
    validation_error = VALIDATION_ERROR.search(message)
    if validation_error and isinstance(param, str):
        param = param.removeprefix("body.")
        message = f"{param}: {validation_error.group(1)}"
    return ApiError(status, message, param=param).body


async def _cancel(task: asyncio.Future[None]) -> None:
    """Cancels a task that is not done, and waits for its end."""
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await task
