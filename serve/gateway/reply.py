"""Replies under the guard: what a client gets of vLLM's response, and the refusal in place of a declined prompt.

vLLM's JSON object ──guard_response──► the same bytes, or a copy whose unsafe replies end with a refusal
vLLM's event stream ──GuardedStream.feed──► its events unchanged, once their text was checked; then a refusal, if any
calls of tools in a stream ──► one event with all of them, whole and checked, before the stream's last
a declined prompt ──refusal_chunks──► a whole reply in vLLM's form

What the chat template itself puts before a reply, an empty thought for instance, is taken out first.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipelines.data.guard.classifier import Verdict
from pipelines.data.tokens.chat_messages import Message, reply_message
from pipelines.data.tokens.chat_thoughts import GrowingReply
from serve.gateway.asgi import DONE, dumps, sse_event
from serve.gateway.guard import Guard, GuardedReply, Judge, begin_reply
from serve.gateway.request import GenerationRequest
from serve.gateway.tools import call_texts, check_calls, stored_calls

Judges = Callable[[int, str], Verdict | None]  # as a Judge, of the reply with this index
RECEIPT, CITATIONS, QUALITY = "rayse_receipt", "rayse_citations", "rayse_quality"  # fields of a reply


def refusal_chunks(
    request: GenerationRequest, text: str, *, model: str, num_tokens: int, reason: str, receipt: str = ""
) -> Iterator[bytes]:
    """The body of a reply that declines a prompt, in vLLM's form: one JSON object, or the events of a stream.

    text: the refusal; num_tokens: its length; reason: of the guard; receipt: of the reply."""
    note: dict[str, Any] = {"rayse_guard": {"where": "prompt", "reason": reason}}
    note |= {RECEIPT: receipt} if receipt else {}
    usage = {
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": num_tokens,
        "total_tokens": request.prompt_tokens + num_tokens,
    }
    choice: dict[str, Any] = {"index": 0, "logprobs": None}
    stop = {"finish_reason": "stop"}
    if not request.streams:
        message = {"role": "assistant", "content": text, "refusal": None}
        content = {"message": message} if request.is_chat else {"text": text}
        kind = "chat.completion" if request.is_chat else "text_completion"
        yield dumps(_frame(request, model, kind) | {"choices": [choice | stop | content], "usage": usage} | note)
        return
    frame = _frame(request, model, _chunk_kind(request))
    unfinished = choice | {"finish_reason": None}
    if request.is_chat:
        yield sse_event(frame | {"choices": [unfinished | {"delta": {"role": "assistant", "content": ""}}]})
    yield sse_event(frame | {"choices": [unfinished | _content(request, text)]})
    yield sse_event(frame | {"choices": [choice | stop | _content(request, "")]} | note)
    options = request.body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        yield sse_event(frame | {"choices": [], "usage": usage})
    yield DONE


def with_notes(
    json_object: bytes, request: GenerationRequest, receipt: str, quality: Mapping[str, Any] | None = None
) -> bytes:
    """A JSON object, or an event that holds one, with the receipt, the citations of the prompt and the scores of the
    reply as further fields; unchanged without them."""
    notes = {RECEIPT: receipt} if receipt else {}
    notes |= {CITATIONS: list(request.citations)} if request.citations else {}
    notes |= {QUALITY: quality} if quality else {}
    if not notes:
        return json_object
    end = json_object.rindex(b"}")
    return json_object[:end] + b"," + dumps(notes)[1:-1] + json_object[end:]


def _frame(request: GenerationRequest, model: str, kind: str) -> dict[str, Any]:
    """The fields that every JSON object of a reply begins with."""
    return {"id": request.reply_id, "object": kind, "created": request.created, "model": model}


def _chunk_kind(request: GenerationRequest) -> str:
    return "chat.completion.chunk" if request.is_chat else "text_completion"


def _content(request: GenerationRequest, text: str) -> dict[str, Any]:
    """A text as the content of a stream's chunk."""
    if not request.is_chat:
        return {"text": text}
    return {"delta": {"content": text} if text else {}}


def guard_response(
    body: bytes, guard: Guard, request: GenerationRequest, judge: Judges | None = None
) -> tuple[bytes, list[Message], str]:
    """Checks vLLM's whole response. Returns (body, its replies as messages, reason), with unsafe replies cut and ended
    by a refusal, and nothing of what the template puts before a reply; where there is neither, the same bytes. judge:
    judges whole replies, by their index.

    A text begins with request.begun_reply, which the body does not repeat."""
    response = json.loads(body)
    messages: list[Message] = []
    reason, is_changed = "", False
    for choice in response.get("choices", ()):
        container, key = (choice["message"], "content") if "message" in choice else (choice, "text")
        text = container.get(key) or ""
        growing = GrowingReply(request.concealment)
        shown = growing.append(text, last=True)
        judge_reply = partial(judge, choice.get("index", 0)) if judge else None
        reply = begin_reply(guard, request.begun_reply, judge_reply)
        reply.append(shown, last=True)
        calls = stored_calls(container.get("tool_calls") or [])
        _check_calls(guard, reply, calls)
        if shown == text[growing.begin :]:
            _hide_logprobs(choice, growing.begin or 0)
        else:
            choice["logprobs"] = None
        container |= _reasoning(guard, growing, judge_reply)
        if reply.verdict is not None:
            reason, calls = reply.verdict.reason, ""
            choice |= {"finish_reason": "stop", "logprobs": None}
            response["rayse_guard"] = {"where": "reply", "reason": reason}
            container |= {"tool_calls": []} if container.get("tool_calls") else {}
        messages.append(reply_message(reply.with_refusal() if reply.verdict else reply.text, calls))
        if shown != text or reply.verdict is not None:
            container[key], is_changed = messages[-1]["content"].removeprefix(request.begun_reply), True
    return (dumps(response) if is_changed else body), messages, reason


def _check_calls(guard: Guard, reply: GuardedReply, calls: str) -> None:
    """Ends a reply whose calls of tools must be declined. calls: as a message's `tool_calls`."""
    reply.verdict = reply.verdict or check_calls(guard, reply.text, calls)
    if calls:
        reply.judge_with("\n".join(call_texts(calls)))


def _reasoning(guard: Guard, reply: GrowingReply, judge: Judge | None) -> dict[str, str]:
    """The field of a message with the thought that its reply never closes, as vLLM's reasoning parsers name it; empty
    without one, and where the guard would not let it pass."""
    is_sent = reply.thought != "" and begin_reply(guard, reply.thought).verdict is None
    is_sent = is_sent and (judge is None or judge(reply.thought) is None)
    return {"reasoning": reply.thought} if is_sent else {}


def _hide_logprobs(choice: dict[str, Any], characters: int) -> None:
    """Takes the log-probabilities of the tokens of the first `characters` characters out of a choice."""
    entries = (choice.get("logprobs") or {}).get("content") or []
    while entries and len(entries[0]["token"]) <= characters:
        characters -= len(entries.pop(0)["token"])


@dataclass
class _Choice:
    """One reply of a stream. growing: its visible part; waiting: (event, text) each of the text that is pending there;
    sent: number of its characters in events that were sent; held: events that the guard holds back, each with the
    reply's length after it; calls: those of tools so far, by their index."""

    reply: GuardedReply
    growing: GrowingReply
    sent: int
    waiting: list[tuple[bytes, str]] = field(default_factory=list)
    held: list[tuple[int, bytes]] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def stored_calls(self) -> str:
        """Its calls, as a message's `tool_calls`."""
        return stored_calls([call for _, call in sorted(self.calls.items())])

    def add_calls(self, deltas: list[dict[str, Any]]) -> None:
        """Adds parts of calls, as a stream's chunk has them."""
        for delta in deltas:
            new = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            call = self.calls.setdefault(delta["index"], new)
            function, part = call["function"], delta.get("function") or {}
            call["id"] = delta.get("id") or call["id"]
            function["name"] = part.get("name") or function["name"]
            function["arguments"] += part.get("arguments") or ""

    def show(self, event: bytes, text: str, *, last: bool, rewrite: Callable[[str], bytes]) -> None:
        """Adds an event with its text: unchanged, or rewritten where only a part of its text is visible; an event
        without any visible text is dropped, unless it is the last."""
        received = self.growing.pending + text
        shown, pending = self.growing.append(text, last=last), self.growing.pending
        self.waiting.append((event, text))
        if shown == received:
            for each_event, each_text in self.waiting:
                self._hold(each_event, each_text, last=last and each_event is event)
        elif shown or last:
            self._hold(rewrite(shown), shown, last=last)
        if shown == received or pending != received:
            self.waiting = [(rewrite(pending), pending)] if pending else []

    def _hold(self, event: bytes, text: str, *, last: bool) -> None:
        self.reply.append(text, last=last)
        self.held.append((len(self.reply.text), event))

    def release(self) -> list[bytes]:
        """Takes the events out of `held` whose text is released."""
        count = bisect_right(self.held, self.reply.released, key=lambda held: held[0])  # their ends grow
        released, self.held = self.held[:count], self.held[count:]
        if released:
            self.sent = max(self.sent, released[-1][0])
        return [event for _, event in released]


class GuardedStream:
    """vLLM's stream of events, each passed on once the guard has checked its text.

    model: the name in the API. on_reply: called with all replies, as messages, once they are complete, returns their
    receipt. score: called with an only reply before that, returns its scores; it may take a while. reason: of the guard
    where it ended a reply; failed: the stream holds an error. judge: as guard_response takes it: `feed` may then take a
    while."""

    def __init__(
        self, request: GenerationRequest, guard: Guard, model: str,
        on_reply: Callable[[list[Message]], str] = lambda messages: "",
        score: Callable[[Message], dict[str, Any]] = lambda message: {}, judge: Judges | None = None,
    ):  # fmt: skip
        self._request, self._guard, self._model, self._on_reply = request, guard, model, on_reply
        self._judge = judge
        self._score = score
        self._incomplete = b""  # of an event
        self._choices: dict[int, _Choice] = {}
        self.reason = ""
        self.failed = False

    @property
    def cut(self) -> bool:
        """Whether the guard ended every reply, so that the rest of the stream can be dropped."""
        return sum(choice.reply.verdict is not None for choice in self._choices.values()) >= self._request.num_replies

    @property
    def shows_text(self) -> bool:
        """Whether any text was sent, and not only the role that a reply begins with."""
        return any(choice.sent > len(self._request.begun_reply) for choice in self._choices.values())

    @property
    def messages(self) -> list[Message]:
        """The replies as their reader has them: as they were sent, after the beginning that the request brought."""
        return [
            reply_message(choice.reply.with_refusal())
            if choice.reply.verdict
            else reply_message(choice.reply.text, choice.stored_calls)
            for _, choice in sorted(self._choices.items())
        ]

    def feed(self, chunk: bytes) -> bytes:
        """Takes more of vLLM's bytes; returns the bytes that may be sent now."""
        *events, self._incomplete = (self._incomplete + chunk).split(b"\n\n")
        return b"".join(self._feed_event(event + b"\n\n") for event in events)

    def _feed_event(self, event: bytes) -> bytes:
        data = event.removeprefix(b"data: ").strip()
        if not event.startswith(b"data: ") or data == b"[DONE]":
            return event
        chunk = json.loads(data)
        self.failed = self.failed or "error" in chunk
        return self._feed_choice(chunk, event) if chunk.get("choices") else event

    def _feed_choice(self, chunk: dict[str, Any], event: bytes) -> bytes:
        delta = chunk["choices"][0]  # vLLM writes one choice an event
        if delta["index"] not in self._choices:  # made once: the guard reads all of a begun reply
            self._choices[delta["index"]] = self._new_choice(delta["index"])
        choice = self._choices[delta["index"]]
        if choice.reply.verdict is not None:
            return b""
        is_last = delta.get("finish_reason") is not None
        text = (delta.get("delta", {}).get("content") if self._request.is_chat else delta.get("text")) or ""
        if calls := delta.get("delta", {}).pop("tool_calls", None):
            choice.add_calls(calls)
            event = sse_event(chunk)
            if not text and not is_last:
                return b""
        if not text and not is_last:
            choice.held.append((len(choice.reply.text), event))  # the role, before any text
        else:
            choice.show(event, text, last=is_last,
                        rewrite=lambda shown: self._with_text(chunk, shown, choice))  # fmt: skip
        sent = choice.sent
        events = choice.release()
        if is_last and choice.calls and choice.reply.verdict is None:
            _check_calls(self._guard, choice.reply, choice.stored_calls)
            if choice.reply.verdict is None:
                events.insert(-1, self._with_calls(chunk, choice))
            else:  # the refusal comes in their place, after their text
                events, choice.sent = [], sent
        if choice.reply.verdict is None:
            if events and is_last:
                quality = self._score(self.messages[0]) if self._has_one_reply else {}
                events[-1] = with_notes(events[-1], self._request, self._receipt(), quality)
            return b"".join(events)
        self.reason = choice.reply.verdict.reason
        return b"".join(events) + self._end(delta["index"], choice)

    def _receipt(self) -> str:
        """The receipt of a stream's only reply; several have one id, and none."""
        return self._on_reply(self.messages) if self._has_one_reply else ""

    @property
    def _has_one_reply(self) -> bool:
        return self._request.num_replies == 1 and not self.failed

    def _new_choice(self, index: int) -> _Choice:
        begun = self._request.begun_reply
        reply = begin_reply(self._guard, begun, partial(self._judge, index) if self._judge else None)
        return _Choice(reply, GrowingReply(self._request.concealment), len(begun))

    def _with_text(self, chunk: dict[str, Any], text: str, reply: _Choice) -> bytes:
        """An event with another text, and the thought that its reply never closed; without log-probabilities, since
        they are of hidden tokens too."""
        choice = chunk["choices"][0]
        delta = (
            (choice.get("delta") or {}) | {"content": text} | _reasoning(self._guard, reply.growing, reply.reply.judge)
        )
        content = {"delta": delta} if self._request.is_chat else {"text": text}
        return sse_event(chunk | {"choices": [choice | content | {"logprobs": None}]})

    def _with_calls(self, chunk: dict[str, Any], reply: _Choice) -> bytes:
        """An event with all calls of a reply."""
        calls = [{"index": index, **call} for index, call in sorted(reply.calls.items())]
        choice = chunk["choices"][0] | {"delta": {"tool_calls": calls}, "finish_reason": None, "logprobs": None}
        return sse_event({name: value for name, value in chunk.items() if name != "usage"} | {"choices": [choice]})

    def _end(self, index: int, choice: _Choice) -> bytes:
        """The events that end a reply with a refusal, in place of the events that are held."""
        reply = choice.reply
        rest = reply.text[choice.sent : reply.released]  # checked, but in one event with what may not be sent
        frame = _frame(self._request, self._model, _chunk_kind(self._request))
        fields: dict[str, Any] = {"index": index, "logprobs": None}
        refusal = fields | _content(self._request, rest + reply.refusal()) | {"finish_reason": None}
        stop = fields | _content(self._request, "") | {"finish_reason": "stop"}
        note = {"rayse_guard": {"where": "reply", "reason": self.reason}}
        last = with_notes(sse_event(frame | {"choices": [stop]} | note), self._request, self._receipt())
        return sse_event(frame | {"choices": [refusal]}) + last
