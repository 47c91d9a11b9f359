"""The HTTP face: routes, keys, limits and errors around vLLM's application, in the replica's process.

    GET  /, /page/NAME          the chat page            GET /about    what the page needs to know
    GET  /health                200 once it is ready     GET /metrics  Prometheus
    GET  /openapi.json          the API, described
    POST /v1/chat/completions   POST /v1/completions     GET /v1/models, /v1/models/NAME
    POST /v1/responses          that of chats, as OpenAI's Responses API has it
    POST /feedback              {reply_id, thumb, comment, correction, report}

Other routes of vLLM are not reachable. A plain ASGI application: no web framework handles each token of a stream.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import httpx

from pipelines.data.dialogues.refusals import is_refusal
from pipelines.data.guard.classifier import Verdict
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.chat_messages import Message, reply_message, said
from serve.gateway import asgi, openapi
from serve.gateway.access_log import AccessLog
from serve.gateway.asgi import ApiError, App, ClientDisconnected, Receive, Scope, Send
from serve.gateway.feedback import Reply
from serve.gateway.fields import ResponsesFields
from serve.gateway.guard import NoGuard, RememberingGuard, check_prompt, open_guard
from serve.gateway.guard_model import MODEL_REFUSALS, GuardModel
from serve.gateway.keys import authorize, bearer, open_access
from serve.gateway.knowledge import Knowledge
from serve.gateway.metrics import METRICS_TYPE, Metrics
from serve.gateway.page import Page
from serve.gateway.quality import Scorer
from serve.gateway.reading import read
from serve.gateway.relay import Relay
from serve.gateway.replies import Replies
from serve.gateway.reply import refusal_chunks
from serve.gateway.request import GenerationRequest, count_prompts, prepare
from serve.gateway.responses import Responder, check_truncation, renamed, to_chat
from serve.gateway.routes import CHAT, COMPLETIONS, EMBEDDINGS, GENERATION, RESPONSES
from serve.guard_families import REASON
from serve.settings import NamedKey, Settings

logger = logging.getLogger(__name__)
METHODS = {
    "/": ("GET", "HEAD"),
    "/page": ("GET", "HEAD"),
    "/health": ("GET", "HEAD"),
    "/about": ("GET",),
    "/metrics": ("GET",),
    "/openapi.json": ("GET",),
    "/feedback": ("POST",),
    "/v1/models": ("GET",),
    CHAT: ("POST",),
    COMPLETIONS: ("POST",),
    RESPONSES: ("POST",),
    EMBEDDINGS: ("POST",),
}


class Gateway:
    """The application that clients reach.

    app: vLLM's. context_tokens: maximum of a prompt with its reply. check_engine: raises when the engine is dead.
    admit: counts requests of a named key over all replicas, and raises ApiError beyond its limits; default: in this
    process. collect_metrics: metrics of all replicas, for /metrics; default: of this process. find_reply: a reply that
    another replica remembers, by its id. guard_transport: to the guard model that this server hosts.
    ready: set by the replica once warm-up requests were answered; until then /health says 503 and nothing is counted.
    """

    def __init__(
        self,
        app: App,
        settings: Settings,
        *,
        context_tokens: int,
        check_engine: Callable[[], Awaitable[Any]],
        metrics: Metrics | None = None,
        admit: Callable[[NamedKey, int], Awaitable[None]] | None = None,
        collect_metrics: Callable[[], Awaitable[str]] | None = None,
        find_reply: Callable[[str], Awaitable[Reply | None]] | None = None,
        guard_transport: httpx.BaseTransport | None = None,
    ):
        self._app, self._settings, self._check_engine = app, settings, check_engine
        self._context_tokens = context_tokens
        self._chat = Chat.open(settings.model)
        self._guard = RememberingGuard(open_guard(settings.guard_folder)) if settings.guard else NoGuard()
        self._guard_model = GuardModel(settings.judging, guard_transport) if settings.judging else None
        self._replies = Replies(settings, self._chat) if settings.feedback else None
        self._knowledge = Knowledge.open(settings.knowledge_folder, settings.max_passages)
        self._metrics = metrics or Metrics()
        self._scorer = Scorer(self._guard, self._metrics, settings.quality_sample)
        self._page = Page()
        self._access = open_access(settings)
        self._access_log = AccessLog(settings.access_log) if settings.access_log else None
        self._admit, self._collect_metrics = admit or self._admit_here, collect_metrics
        self._find_reply = find_reply
        self._in_flight = 0
        self._created = int(time.time())
        self.ready = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await asgi.close_other(scope, receive, send)
        scope = asgi.without_prefix(scope)
        route, start = _route(scope["path"]), time.monotonic()
        scope["rayse"] = facts = dict[str, Any]()  # of the request, for the access log
        status = 499  # the client disconnected before a response began

        async def send_and_note_status(event: asgi.Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        try:
            await self._dispatch(route, scope, receive, send_and_note_status)
        except ApiError as error:
            await asgi.respond_json(send_and_note_status, error.status, error.body, error.headers)
        except ClientDisconnected:
            pass  # while the body was read: no response began
        finally:
            if self.ready:
                self._metrics.requests.labels(route or "other", str(status)).inc()
            if self.ready and (self._access_log is not None or "texts" in facts):
                whole = {"route": route or "other", "status": status, "seconds": round(time.monotonic() - start, 4)}
                await asyncio.shield(asyncio.to_thread(self._finish, whole | facts))

    def _finish(self, facts: dict[str, Any]) -> None:
        """Scores and logs a request, after its response was sent. facts: of the request, as the access log has them."""
        texts, question = facts.pop("texts", []), facts.pop("question", "")
        if texts and "quality" not in facts and self._scorer.samples(facts["id"]):
            facts["quality"] = self._scorer.score(question, texts[0])
            self._scorer.count(facts["quality"])
        if self._access_log is None:
            return
        if texts:
            facts["reply_tokens"] = sum(map(len, self._chat.encoder.encode(texts)))
        try:
            self._access_log.write(facts)
        except OSError as error:  # a full disk must not stop the server
            logger.warning("access log: %s", error)

    async def _dispatch(self, route: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = asgi.headers_of(scope)
        authorize(self._settings, scope["path"], headers)
        if not route:
            raise ApiError(404, f"{scope['path']}: no such route", code="not_found")
        if scope["method"] not in METHODS[route]:
            raise ApiError(405, f"{scope['path']}: expected {' or '.join(METHODS[route])}, got {scope['method']}",
                           headers={"allow": ", ".join(METHODS[route])})  # fmt: skip
        if route in GENERATION:
            return await self._generate(route, scope, headers, receive, send)
        if route == EMBEDDINGS:
            raise ApiError(404, f"{EMBEDDINGS}: {self._settings.name} writes text, and makes no embeddings; send the "
                           f"request to a server of an embedding model, and chats to {CHAT}",
                           param="model", code="model_not_supported")  # fmt: skip
        if route == "/feedback":
            return await self._save_feedback(headers, receive, send)
        if route == "/health":
            return await self._health(scope, send)
        if route == "/about":
            return await asgi.respond_json(send, 200, self._about())
        if route == "/openapi.json":
            has_key, prefix = self._settings.key is not None, self._settings.route
            return await asgi.respond_json(send, 200, openapi.document(needs_key=has_key, prefix=prefix))
        if route == "/v1/models":
            return await asgi.respond_json(send, 200, self._models(scope["path"]))
        if route in ("/", "/page"):
            return await self._page.respond(send, scope["path"], headers, head_only=scope["method"] == "HEAD")
        if self._collect_metrics is not None:
            return await asgi.respond(send, 200, (await self._collect_metrics()).encode(), content_type=METRICS_TYPE)
        await self._app(scope, receive, send)  # /metrics: vLLM's application serves the process's registry

    async def _admit_here(self, key: NamedKey, requests: int) -> None:
        await asyncio.to_thread(self._access.admit, key, requests)

    # ---- generation -------------------------------------------------------------------------------------------------

    async def _generate(self, route: str, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
        """Admits a request, and answers it. Each prompt of a completion counts as a request; all of them are admitted,
        or none is."""
        start, facts = time.monotonic(), scope["rayse"]
        if (key := self._access.find(bearer(headers))) is not None:
            facts["key"] = key.name
            if route != COMPLETIONS:  # whose number of prompts is in the body
                await self._admit(key, 1)
        body = await self._read_body(headers, receive)
        self._take_places(1)  # before any work is done on the body
        num_places, parsed = 1, None
        try:
            if route == COMPLETIONS:
                parsed = await asyncio.to_thread(asgi.parse_object, body)
                num_prompts = count_prompts(parsed, self._settings.limits)
                self._take_places(num_prompts - 1)
                num_places = num_prompts
                if key is not None:
                    await self._admit(key, num_prompts)
            await self._answer(route, body, parsed, start, scope, receive, send)
        finally:
            self._free_places(num_places)

    async def _answer(
        self, route: str, body: bytes, parsed: dict[str, Any] | None, start: float, scope: Scope, receive: Receive,
        send: Send,
    ) -> None:  # fmt: skip
        """Answers a request that was admitted. parsed: its body, where that was necessary before."""
        facts, request_id = scope["rayse"], uuid.uuid4().hex
        # In a thread: a long body takes a while to parse, tokenise and check.
        if route == RESPONSES:
            request, verdict, fields = await asyncio.to_thread(self._prepare_response, body, request_id)
            send, scope = Responder(send, request, fields), {**scope, "path": CHAT, "raw_path": CHAT.encode()}
        else:
            request, verdict = await asyncio.to_thread(self._prepare, route, parsed or body, request_id)
        if verdict is None and self._guard_model is not None:
            within_s = self._settings.limits.request_s - (time.monotonic() - start)
            verdict = await asgi.while_connected(receive, self._guard_model.ask(request.checked, within_s))
        facts |= {"model": self._settings.name, "id": request.reply_id, "prompt_tokens": request.prompt_tokens,
                  "stream": request.streams, "guard": None}  # fmt: skip
        if verdict is not None:
            facts["guard"] = {"where": "prompt", "reason": verdict.reason}
            return await self._decline(request, verdict.reason, facts, send)
        guard = NoGuard() if request.only_scores else self._guard
        scores_first = (self._settings.quality != "score" and self._scorer.samples(request.reply_id)
                        and not request.only_scores and request.num_replies == 1)  # fmt: skip
        judge = self._guard_model and self._guard_model.judge(request.checked, request.num_replies)
        relay = Relay(self._app, request, guard, self._settings, self._metrics, start,
                      partial(self._end_reply, facts), self._scorer if scores_first else None, judge)  # fmt: skip
        try:
            await relay.run(scope, receive, send, request_id)
        finally:
            facts["first_text_s"] = round(relay.first_text_s, 4) or None
            facts |= {"quality": relay.quality} if relay.quality else {}
            if relay.declined_reason:
                facts["guard"] = {"where": "reply", "reason": relay.declined_reason}

    def _prepare_response(
        self, body: bytes, request_id: str
    ) -> tuple[GenerationRequest, Verdict | None, ResponsesFields]:
        """The chat request that a response is made with, the guard's verdict, and the client's fields."""
        fields = read(ResponsesFields, asgi.parse_object(body))
        try:
            request, verdict = self._prepare_object(CHAT, to_chat(fields), request_id)
        except ApiError as error:
            raise renamed(error, fields) from None
        check_truncation(fields, request)
        return replace(request, reply_id=f"resp_{request_id}"), verdict, fields

    def _prepare(
        self, route: str, body: bytes | dict[str, Any], request_id: str
    ) -> tuple[GenerationRequest, Verdict | None]:
        """vLLM's request, and the guard's verdict where it must be declined. Raises ApiError."""
        parsed = body if isinstance(body, dict) else asgi.parse_object(body)
        return self._prepare_object(route, parsed, request_id)

    def _prepare_object(
        self, route: str, body: dict[str, Any], request_id: str
    ) -> tuple[GenerationRequest, Verdict | None]:
        request = prepare(route, body, self._settings, self._chat, self._guard, context_tokens=self._context_tokens,
                          request_id=request_id, knowledge=self._knowledge)  # fmt: skip
        with self._metrics.guard_s.time():
            verdict = check_prompt(self._guard, request.checked, request.begun_reply)
        return request, verdict

    def _take_places(self, number: int) -> None:
        """Counts requests in flight. Raises ApiError where there is no room for all of them."""
        if self._in_flight + number > self._settings.limits.requests_in_flight:
            raise ApiError(429, f"{self._in_flight} requests are in flight, and no more than "
                           f"{self._settings.limits.requests_in_flight} may be on this server; try again shortly",
                           code="too_many_requests", headers={"retry-after": "1"})  # fmt: skip
        self._free_places(-number)

    def _free_places(self, number: int) -> None:
        self._in_flight -= number
        self._metrics.in_flight.set(self._in_flight)

    async def _decline(self, request: GenerationRequest, reason: str, facts: dict[str, Any], send: Send) -> None:
        """Sends a refusal in place of a reply."""
        self._metrics.count_declined("prompt", reason)
        by_model = reason.startswith(REASON)
        text = (MODEL_REFUSALS.get(request.language, MODEL_REFUSALS["en"]) if by_model
                else self._guard.refusal(request.language))  # fmt: skip
        num_tokens = len(self._chat.encoder.encode([text])[0])
        content_type = "text/event-stream; charset=utf-8" if request.streams else "application/json"
        headers = {"content-type": content_type, "x-rayse-guard": "prompt"}
        await send({"type": "http.response.start", "status": 200, "headers": asgi.encode_headers(headers.items())})
        receipt = self._receipt(request, facts.get("key", ""), [reply_message(request.begun_reply + text)])
        for chunk in refusal_chunks(request, text, model=self._settings.name, num_tokens=num_tokens, reason=reason,
                                    receipt=receipt):  # fmt: skip
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _end_reply(self, facts: dict[str, Any], request: GenerationRequest, messages: list[Message]) -> str:
        """Notes the texts of complete replies, which are assistant's messages, and returns their receipt."""
        texts = [said(message) for message in messages]
        if self._access_log is not None or self._scorer.samples(request.reply_id):
            replies = request.is_chat and not any(message.get("tool_calls") for message in messages)
            facts |= {"texts": texts, "question": request.user_text if replies else ""}
        self._metrics.refusals.inc(sum(map(is_refusal, texts)))
        return self._receipt(request, facts.get("key", ""), messages)

    def _receipt(self, request: GenerationRequest, key_name: str, messages: list[Message]) -> str:
        """Keeps a reply for feedback, and returns its receipt. A request for several replies has one id for all: none
        of them is kept, and they have no receipt."""
        if self._replies is None or not self.ready or len(messages) != 1 or request.only_scores:
            return ""
        return self._replies.keep(request, messages[0], key_name)

    async def _read_body(self, headers: dict[str, str], receive: Receive) -> bytes:
        limits = self._settings.limits
        content_type = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        body = await asgi.read_body(receive, max_bytes=limits.body_bytes, timeout_s=limits.body_s)
        if content_type != "application/json":
            raise ApiError(415, f"content-type {content_type!r}: expected application/json")
        return body

    # ---- feedback, health, description ------------------------------------------------------------------------------

    async def _save_feedback(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        body = await self._read_body(headers, receive)
        if self._replies is None:
            raise ApiError(404, "this server stores no feedback: it was started without a database for it, such as by "
                           "--feedback none", code="not_found")  # fmt: skip
        reply_id, opinion = await self._replies.save(body, self._find_reply)
        self._metrics.feedback.labels(opinion.thumb).inc()
        await asgi.respond_json(send, 200, {"reply_id": reply_id, "thumb": opinion.thumb, "stored": True})

    def recent_reply(self, reply_id: str) -> Reply | None:
        """A reply that this process remembers, by its id."""
        return self._replies.recent(reply_id) if self._replies is not None else None

    async def _health(self, scope: Scope, send: Send) -> None:
        problem = "" if self.ready else "starting"
        if self.ready:
            try:
                await self._check_engine()
            except Exception as error:  # whatever vLLM raises: the engine does not answer
                problem = f"the engine does not answer ({type(error).__name__})"
        body = {"status": problem or "ready", "model": self._settings.name, "version": self._settings.version}
        await asgi.respond(send, 503 if problem else 200, asgi.dumps(body), head_only=scope["method"] == "HEAD")

    def _models(self, path: str) -> dict[str, Any]:
        """The list with the one model, or that model. (vLLM's response would show the folder's path.)"""
        model = {
            "id": self._settings.name,
            "object": "model",
            "created": self._created,
            "owned_by": "rayse",
            "max_model_len": self._context_tokens,
        }
        if path == "/v1/models":
            return {"object": "list", "data": [model]}
        name = path.removeprefix("/v1/models/")
        if name != self._settings.name:
            raise ApiError(404, f"The model {name!r} does not exist; this server has {self._settings.name!r}",
                           param="model", code="model_not_found")  # fmt: skip
        return model

    def _about(self) -> dict[str, Any]:
        return {
            "model": self._settings.name,
            "version": self._settings.version,
            "persona": self._settings.persona or "",
            "context_tokens": self._context_tokens,
            "max_turns": self._settings.max_turns,
            "feedback": self._replies is not None,
            "guard": self._settings.guard,
            "knowledge": self._knowledge is not None,
        }


def _route(path: str) -> str:
    """The route of a path, as METHODS and the metrics name it; empty where there is none."""
    for route in ("/v1/models", "/page"):
        if path.startswith(f"{route}/"):
            return route
    return path if path in METHODS else ""
