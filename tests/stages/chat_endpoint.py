"""A server over HTTP that plays the other side of OpenAI's API, and fails as a test says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.http_servers import in_thread

TOKENS = {"prompt_tokens": 20, "completion_tokens": 5}


@dataclass
class ChatEndpoint:
    """A running server. reply: makes the text of the answer to a prompt.

    fault: what happens to the request with this number, from 0: "" (an answer), a status such as "429", "half" (the
    body ends in the middle), "slow" (no answer for a second), "html" (200, but no JSON), "length" (cut off).
    """

    url: str
    reply: Callable[[str], str]
    fault: Callable[[int], str] = lambda number: ""
    bodies: list[dict[str, Any]] = field(default_factory=list)  # of all requests
    answered: list[dict[str, Any]] = field(default_factory=list)  # of those that were answered in full
    keys: set[str] = field(default_factory=set)

    @property
    def options(self) -> dict[str, Any]:
        """The option `endpoint` of a stage."""
        return {"url": f"{self.url}/v1", "model": "big"}


@contextmanager
def serving(reply: Callable[[str], str]) -> Iterator[ChatEndpoint]:
    """Starts a server on a free port of the loopback."""
    endpoint = ChatEndpoint("", reply)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(endpoint.bodies)
                endpoint.bodies.append(body)
                endpoint.keys.add(self.headers.get("Authorization", ""))
            fault = endpoint.fault(number)
            if fault == "slow":
                time.sleep(1)
            if fault.isdigit():
                message = f"fault {fault} for {self.headers.get('Authorization')}"
                return self.send(int(fault), json.dumps({"error": {"message": message}}).encode())
            if fault == "html":
                return self.send(200, b"<html>busy</html>")
            text = endpoint.reply(body["messages"][-1]["content"] if "messages" in body else body["prompt"])
            choice = {"message": {"role": "assistant", "content": text}, "text": text,
                      "finish_reason": "length" if fault == "length" else "stop"}  # fmt: skip
            data = json.dumps({"choices": [choice], "usage": TOKENS}).encode()
            if fault == "half":
                return self.send(200, data, cut=True)
            with lock:
                endpoint.answered.append(body)
            return self.send(200, data)

        def send(self, status: int, data: bytes, *, cut: bool = False) -> None:
            self.close_connection = cut
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)

        def log_message(self, format: str, *args: object) -> None:
            """Prints nothing."""

    with in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as endpoint.url:
        yield endpoint
