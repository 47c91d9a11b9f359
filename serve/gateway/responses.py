"""OpenAI's Responses API over that of chats: one request and one reply, of which the server keeps no state.

    {input, instructions, …} ──to_chat──► {messages, …} ──► as a chat: template, limits, guard, receipt, vLLM
    {output: [message | function_call …], …}   ◄──Responder── {choices, usage}, or the events of its stream

A response that is streamed has OpenAI's events: created, in_progress, output_item.added, content_part.added,
output_text.delta …, and their ends; the last one has the whole response. Nothing is stored, so that a client sends the
conversation with each request.
"""

from __future__ import annotations

import json
import re
from typing import Any

from serve.gateway import asgi
from serve.gateway.asgi import ApiError, Event, Send
from serve.gateway.fields import ResponsesFields
from serve.gateway.reading import shortened
from serve.gateway.request import GenerationRequest

PASSED = ("model", "temperature", "top_p", "stream", "parallel_tool_calls", "user", "metadata", "service_tier",
          "safety_identifier", "prompt_cache_key")  # fmt: skip
ITEM_FIELDS = {  # of an item of the input, by its type
    "message": ("type", "role", "content", "id", "status"),
    "function_call": ("type", "call_id", "name", "arguments", "id", "status"),
    "function_call_output": ("type", "call_id", "output", "id", "status"),
    "reasoning": ("type", "summary", "content", "encrypted_content", "id", "status"),
}
IGNORED = "reasoning"  # items that clients send back as they got them, and no prompt holds: as a chat's reasoning
EXTRA_FIELDS = ("rayse_receipt", "rayse_citations", "rayse_guard", "rayse_quality")  # of a reply, kept in the response


def to_chat(fields: ResponsesFields) -> dict[str, Any]:
    """The body of a chat request that means the same. Raises ApiError for items that are no messages."""
    system = [{"role": "system", "content": fields.instructions}] if fields.instructions else []
    body = {name: value for name in PASSED if (value := getattr(fields, name)) is not None}
    body["messages"] = [*system, *(message for _, message in _messages(fields))]
    if fields.tools is not None:
        body["tools"] = [_chat_tool(tool) for tool in _tools(fields)]
    if fields.tool_choice is not None:
        body["tool_choice"] = choice = fields.tool_choice
        if not isinstance(choice, str):
            body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    if fields.max_output_tokens is not None:
        body["max_completion_tokens"] = fields.max_output_tokens
    if fields.text is not None and fields.text.format is not None:
        form = fields.text.format.model_dump(exclude_none=True, by_alias=True)
        kind = form.pop("type")
        body["response_format"] = {"type": kind} | ({"json_schema": form} if kind == "json_schema" else {})
    if fields.stream:
        body["stream_options"] = {"include_usage": True}
    return body


def _tools(fields: ResponsesFields) -> list[dict[str, Any]]:
    """The tools as the client sent them, but for null."""
    return [tool if isinstance(tool, dict) else tool.model_dump(exclude_none=True) for tool in fields.tools or ()]


def _chat_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool in a chat's form; one of another type as it is, which a chat ignores or refuses."""
    if tool.get("type") != "function":
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _messages(fields: ResponsesFields) -> list[tuple[int, dict[str, Any]]]:
    """The messages of the input, each with the number of its item: calls join the assistant's message before them."""
    if isinstance(fields.input, str):
        return [(0, {"role": "user", "content": fields.input})]
    messages: list[tuple[int, dict[str, Any]]] = []
    for number, item in enumerate(fields.input):
        message = _message({name: value for name, value in item.items() if value is not None}, number)
        if not message:
            continue
        last = messages[-1][1] if messages else {}
        if "tool_calls" in message and last.get("role") == "assistant":
            last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]
        else:
            messages.append((number, message))
    return messages


def _message(item: dict[str, Any], number: int) -> dict[str, Any]:
    """An item of the input as a message of a chat: a message, with or without its type, a call, or a call's result.
    Empty for an item that is ignored."""
    path, kind = f"input[{number}]", item.get("type", "message")
    if not isinstance(kind, str) or kind not in ITEM_FIELDS:
        raise ApiError(400, f"{path}.type: expected {', '.join(ITEM_FIELDS)}, got {shortened(kind)}; this server "
                       f"stores no items that one could refer to", param=f"{path}.type",
                       code="unsupported_parameter")  # fmt: skip
    unknown = [name for name in item if name not in ITEM_FIELDS[kind]]
    if unknown:
        raise ApiError(400, f"{path}.{unknown[0]}: not supported here; leave it out", param=f"{path}.{unknown[0]}",
                       code="unsupported_parameter")  # fmt: skip
    if kind == IGNORED:
        return {}
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        return {"role": "assistant", "content": "",
                "tool_calls": [{"id": item.get("call_id"), "type": "function", "function": function}]}  # fmt: skip
    if kind == "function_call_output":
        return {"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")}
    return {name: item[name] for name in ("role", "content") if name in item}


def renamed(error: ApiError, fields: ResponsesFields) -> ApiError:
    """An error about the chat request, in the names of the client's."""
    num_before = 1 if fields.instructions else 0
    numbers = [number for number, _ in _messages(fields)]

    def item(match: re.Match[str]) -> str:
        number = int(match[1]) - num_before
        if number < 0:
            return "instructions"
        return "input" if isinstance(fields.input, str) else f"input[{numbers[number]}]"

    def text(value: str) -> str:
        value = re.sub(r"messages\[(\d+)\]", item, value)
        value = re.sub(r"\bmessages\b(?=:|$)", "input", value)
        value = re.sub(r"(tools\[\d+\]|tool_choice)\.function\b", r"\1", value)
        return re.sub(r"max_completion_tokens|\bmax_tokens\b", "max_output_tokens", value)

    return ApiError(error.status, text(str(error)), param=text(error.param) if error.param else None, code=error.code,
                    headers=error.headers)  # fmt: skip


def check_truncation(fields: ResponsesFields, request: GenerationRequest) -> None:
    """Raises ApiError where turns were cut off, and the client would rather have an error. (Without the field they are
    cut: a chat goes on.)"""
    if fields.truncation == "disabled" and request.turns_cut:
        raise ApiError(400, f"input: its {request.turns_cut} oldest turns do not fit into what this server gives a "
                       f'model; expected fewer or shorter ones, or truncation: "auto", which leaves them out',
                       param="input", code="context_length_exceeded")  # fmt: skip


def num_ignored(fields: ResponsesFields) -> int:
    """The number of items of the input that no prompt holds."""
    return 0 if isinstance(fields.input, str) else sum(item.get("type") == IGNORED for item in fields.input)


class Responder:
    """Takes the ASGI events of a chat's response, and sends those of a response. An error passes unchanged.

    Items of the input that were ignored are counted in a header."""

    def __init__(self, send: Send, request: GenerationRequest, fields: ResponsesFields):
        self._send, self._request, self._fields = send, request, fields
        self._start: Event = {}
        self._body = b""  # of a response that is no stream, or an incomplete event of one
        self._number = 0  # of the next event
        self._text, self._has_ended, self._message_is_open = "", False, False
        self._calls: list[dict[str, Any]] = []  # of the reply, as the items of the response
        self._end: dict[str, Any] = {}  # what the stream's chunks say of its end: finish_reason, usage, receipt, …

    async def __call__(self, event: Event) -> None:
        """Takes an event of the chat's response."""
        if event["type"] == "http.response.start":
            if number := num_ignored(self._fields):
                event = {**event, "headers": [*event["headers"], (b"x-rayse-items-ignored", str(number).encode())]}
            self._start = event
            if event["status"] != 200 or self._request.streams:
                await self._send(event)
                await self._begin_stream(event["status"])
            return
        if self._start["status"] != 200:
            return await self._send(event)
        self._body += event.get("body", b"")
        is_last = not event.get("more_body", False)
        if self._request.streams:
            *chunks, self._body = self._body.split(b"\n\n")
            events = b"".join([self._translate(chunk) for chunk in chunks] + ([self._finish()] if is_last else []))
            await self._send({"type": "http.response.body", "body": events, "more_body": not is_last})
        elif is_last:
            await self._send_whole()

    async def _send_whole(self) -> None:
        chat = json.loads(self._body)
        choice = chat["choices"][0]
        text, reasoning = choice["message"].get("content") or "", choice["message"].get("reasoning") or ""
        end = {name: chat[name] for name in EXTRA_FIELDS if name in chat}
        end |= {"finish_reason": choice.get("finish_reason"), "usage": chat.get("usage"), "reasoning": reasoning}
        calls = choice["message"].get("tool_calls") or []
        self._calls = [self._call(call, number) for number, call in enumerate(calls)]
        body = asgi.dumps(self._response(text, end))
        headers = [(name, value) for name, value in self._start["headers"] if name.lower() != b"content-length"]
        await self._send({**self._start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self._send({"type": "http.response.body", "body": body})

    # ---- a stream ---------------------------------------------------------------------------------------------------

    async def _begin_stream(self, status: int) -> None:
        if status != 200:
            return
        events = (
            self._event("response.created", response=self._response("", None)),
            self._event("response.in_progress", response=self._response("", None)),
        )
        await self._send({"type": "http.response.body", "body": b"".join(events), "more_body": True})

    def _open_message(self) -> bytes:
        """The events that begin the message, before its first text, once."""
        if self._message_is_open:
            return b""
        self._message_is_open = True
        place = {"output_index": 0, "item_id": self._message_id, "content_index": 0}
        return self._event(
            "response.output_item.added", output_index=0, item=self._item("", "in_progress")
        ) + self._event("response.content_part.added", **place, part=_part(""))

    def _translate(self, chunk: bytes) -> bytes:
        data = chunk.removeprefix(b"data: ").strip()
        if data == b"[DONE]":
            return self._finish()
        if not chunk.startswith(b"data: "):
            return b""
        value = json.loads(data)
        if "error" in value:
            return self._fail(value["error"]["message"])
        self._end |= {name: value[name] for name in (*EXTRA_FIELDS, "usage") if value.get(name)}
        events = b""
        for choice in value.get("choices", ()):
            text = choice["delta"].get("content") or ""
            self._end |= {"reasoning": choice["delta"]["reasoning"]} if choice["delta"].get("reasoning") else {}
            self._end |= {"finish_reason": choice["finish_reason"]} if choice.get("finish_reason") else {}
            calls = choice["delta"].get("tool_calls") or []  # each is whole
            self._calls += [self._call(call, call["index"]) for call in calls]
            if text:
                self._text += text
                events += self._open_message()
                events += self._event("response.output_text.delta", item_id=self._message_id, output_index=0,
                                      content_index=0, delta=text, logprobs=[])  # fmt: skip
        return events

    def _finish(self) -> bytes:
        """The events that end the stream, once."""
        if self._has_ended:
            return b""
        if not self._end.get("finish_reason"):
            return self._fail("the reply ended before it was complete")
        self._has_ended = True
        response = self._response(self._text, self._end)
        events = self._close_message(response["output"][0]) if self._text or not self._calls else b""
        events += b"".join(
            self._call_events(index, item)
            for index, item in enumerate(response["output"])
            if item["type"] == "function_call"
        )
        return events + self._event(f"response.{response['status']}", response=response)

    def _fail(self, message: str) -> bytes:
        """The event that ends a stream with an error, once; it has the text that was sent."""
        if self._has_ended:
            return b""
        self._has_ended = True
        return self._event("response.failed", response=self._response(self._text, self._end, error=message))

    def _close_message(self, item: dict[str, Any]) -> bytes:
        """The events that end the message."""
        place = {"output_index": 0, "item_id": self._message_id, "content_index": 0}
        return b"".join((
            self._open_message(),
            self._event("response.output_text.done", **place, text=self._text, logprobs=[]),
            self._event("response.content_part.done", **place, part=_part(self._text)),
            self._event("response.output_item.done", output_index=0, item=item),
        ))  # fmt: skip

    def _call_events(self, index: int, item: dict[str, Any]) -> bytes:
        """The events of a call, which is whole: its text was checked before."""
        place, text = {"output_index": index, "item_id": item["id"]}, item["arguments"]
        begun = item | {"arguments": "", "status": "in_progress"}
        return b"".join((
            self._event("response.output_item.added", output_index=index, item=begun),
            self._event("response.function_call_arguments.delta", **place, delta=text),
            self._event("response.function_call_arguments.done", **place, name=item["name"], arguments=text),
            self._event("response.output_item.done", output_index=index, item=item),
        ))  # fmt: skip

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return f"event: {kind}\n".encode() + asgi.sse_event({"type": kind, "sequence_number": number, **fields})

    # ---- the response -----------------------------------------------------------------------------------------------

    @property
    def _message_id(self) -> str:
        return self._request.reply_id.replace("resp_", "msg_")

    def _item(self, text: str, status: str) -> dict[str, Any]:
        content = [_part(text)] if status != "in_progress" else []
        return {"id": self._message_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _call(self, call: dict[str, Any], number: int) -> dict[str, Any]:
        """A call of the chat's reply as an item of the response."""
        return {
            "id": f"{self._request.reply_id.replace('resp_', 'fc_')}_{number}", "type": "function_call",
            "status": "completed", "call_id": call["id"], "name": call["function"]["name"],
            "arguments": call["function"]["arguments"],
        }  # fmt: skip

    def _output(self, text: str, end: dict[str, Any], status: str) -> list[dict[str, Any]]:
        """The items of a response: its message, calls and thought. status: completed or incomplete."""
        message = [self._item(text, status)] if text or not self._calls else []
        *whole, last = self._calls or [{}]
        output = [*message, *whole, *([last | {"status": status}] if last else [])]
        if end.get("reasoning"):
            thought = {"type": "reasoning_text", "text": end["reasoning"]}
            output.append({"id": self._message_id.replace("msg_", "rs_"), "type": "reasoning", "summary": [],
                           "content": [thought]})  # fmt: skip
        return output

    def _response(self, text: str, end: dict[str, Any] | None, *, error: str = "") -> dict[str, Any]:
        """The response object. end: what is known once the reply is complete; None while it is not. error: what failed
        in the middle of it."""
        fields, output, usage = self._fields, [], None
        reason = "" if error else _incomplete_reason(end or {})
        status = "failed" if error else "in_progress" if end is None else "incomplete" if reason else "completed"
        if end is not None:
            output = self._output(text, end, "completed" if status == "completed" else "incomplete")
            usage = _usage(end.get("usage"))
        form = fields.text.format if fields.text else None
        choice = fields.tool_choice or "auto"
        choice = choice if isinstance(choice, str) else choice.model_dump()
        defaults = {"strict": None, "parameters": None}
        tools = [(defaults if tool.get("type") == "function" else {}) | tool for tool in _tools(fields)]
        return {
            "id": self._request.reply_id, "object": "response", "created_at": self._request.created, "status": status,
            "error": {"code": "server_error", "message": error} if error else None,
            "incomplete_details": {"reason": reason} if reason else None,
            "instructions": fields.instructions, "max_output_tokens": fields.max_output_tokens,
            "model": self._request.body["model"], "output": output,
            "parallel_tool_calls": fields.parallel_tool_calls is not False,
            "previous_response_id": None, "store": False, "temperature": fields.temperature, "top_p": fields.top_p,
            "text": {"format": form.model_dump(exclude_none=True, by_alias=True) if form else {"type": "text"}},
            "tool_choice": choice, "tools": tools, "truncation": fields.truncation or "auto", "usage": usage,
            "metadata": fields.metadata or {},
            **({} if fields.user is None else {"user": fields.user}),
            **{name: end[name] for name in EXTRA_FIELDS if end and name in end},
        }  # fmt: skip


def _incomplete_reason(end: dict[str, Any]) -> str:
    """Why a reply ended before its time, in the words of the Responses API; empty where it did not. A prompt that the
    guard declines has a whole reply: the refusal."""
    if end.get("rayse_guard", {}).get("where") == "reply":
        return "content_filter"
    return "max_output_tokens" if end.get("finish_reason") == "length" else ""


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: dict[str, Any] | None) -> dict[str, Any] | None:
    """vLLM's usage in the names of the Responses API; None where a reply was cut, and nobody counted."""
    if not usage:
        return None
    return {
        "input_tokens": usage["prompt_tokens"], "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"], "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }  # fmt: skip
