"""A server of OpenAI's API whose first stream breaks off, as when its replica is killed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.http_servers import in_thread

WORDS = ["One,", "two,", "three,", "four,", "five,", "six,", "seven,", "eight."]
TEXT = " ".join(WORDS)
TOKENS_OF_WORD = 2
# What follows the last word, or the event with finish_reason, of a stream that breaks off.
FAULTS = {
    "in a chunk": b"40\r\ndata",
    "between events": b"0\r\n\r\n",
    "in an event": b'12\r\ndata: {"choices": \r\n0\r\n\r\n',
    "not JSON": b"9\r\ndata: {\n\n\r\n",
    "not a chunk": b"c\r\ndata: null\n\n\r\n",
    "silence": b"",
}
OPENAI_FIELDS = {"model", "messages", "stream", "stream_options", "include_usage", "max_tokens", "temperature"}
LOST = ("in a chunk", "between events", "in an event")


class Breaking(ThreadingHTTPServer):
    """Its model writes TEXT, one word an event, and goes on after what it is given. The first stream breaks off after
    so many words, or where it has finished, as `fault` says ("" for not at all). counts: whether it is one of vLLM's,
    which say how many tokens a reply has so far where they are asked to; else it refuses a field that OpenAI's API does
    not have, and each word is a token. refusal: of the second request. pause_s: before the fault, for a browser, which
    drops what it has not read when a connection breaks."""

    def __init__(self, num_words: int, fault: str, *, counts: bool = True, refusal: str = "", pause_s: float = 0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.num_words, self.fault, self.counts, self.refusal = num_words, fault, counts, refusal
        self.pause_s = pause_s
        self.requests: list[dict[str, Any]] = []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # a browser reads no chunks of 1.0
    server: Breaking  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        card = {"id": "counting", "object": "model", "owned_by": "vllm" if self.server.counts else "openai"}
        self._respond(200, "application/json", json.dumps({"data": [card]}).encode())

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(request)
        is_first = len(self.server.requests) == 1
        if self.server.refusal and not is_first:
            return self._refuse(self.server.refusal)
        unknown = {*request, *(request.get("stream_options") or {})} - OPENAI_FIELDS
        if unknown and not self.server.counts:
            return self._refuse(f"unknown parameter: {', '.join(unknown)}")
        self._respond(200, "text/event-stream", None)
        fault = self.server.fault if is_first else ""
        for number, event in enumerate(self._events(request)):
            if fault and number == self.server.num_words:
                break
            self._send(json.dumps(event).encode())
        if fault:
            self.server.ended.wait(60 if fault == "silence" else self.server.pause_s)
            self.wfile.write(FAULTS[fault])
        else:
            self._send(b"[DONE]")
            self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, message: str) -> None:
        self._respond(400, "application/json", json.dumps({"error": {"message": message}}).encode())

    def _events(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        options, last = request.get("stream_options") or {}, request["messages"][-1]
        counted = self.server.counts and options.get("include_usage") and options.get("continuous_usage_stats")
        size = TOKENS_OF_WORD if self.server.counts else 1
        begun = len(last["content"].split()) if last["role"] == "assistant" else 0
        num_words = min(len(WORDS) - begun, (request.get("max_tokens") or 1000) // size)
        for number in range(begun, begun + num_words):
            text = (" " if number else "") + WORDS[number]
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            usage = {"usage": {"completion_tokens": size * (number + 1 - begun)}} if counted else {}
            yield {"id": "chatcmpl-1", "choices": [choice], **usage}
        reason = "stop" if begun + num_words == len(WORDS) else "length"
        yield {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}

    def _send(self, data: bytes) -> None:
        event = b"data: " + data + b"\n\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.flush()

    def _respond(self, status: int, content_type: str, body: bytes | None) -> None:
        """Begins a response: of a body, or of a stream."""
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("connection", "close")
        if body is None:
            self.send_header("transfer-encoding", "chunked")
        else:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *arguments: object) -> None:
        """Logs no requests."""


@contextmanager
def serve(num_words: int, fault: str, **options: Any) -> Iterator[Breaking]:
    """Serves on a free port of loopback. options: of Breaking."""
    server = Breaking(num_words, fault, **options)
    with in_thread(server):
        try:
            yield server
        finally:
            server.ended.set()
