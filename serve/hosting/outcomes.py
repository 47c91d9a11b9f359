"""What became of the requests of a model, as the events of its responses show it: failures, and times of whole replies.

events ──Passing──► Outcomes.count, in each router ──total──► facts ──► canary.py
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

from serve.gateway import asgi
from serve.gateway.asgi import App, Event, Receive, Scope, Send
from serve.gateway.routes import GENERATION

UNCOUNTED = (401, 403, 429)  # refused before the model had a part in it
LEFT = 499  # the client did, before a response began
# No text of a reply can look like these: JSON writes its line breaks and quotes with a backslash.
EVENT = re.compile(rb"^data: ?\{", re.MULTILINE)
ERROR_EVENT = re.compile(rb"^(?:data: ?\{\"error\"|event: ?(?:error|response\.failed)$)", re.MULTILINE)
# Codes of errors with status 503 that are of what the server needs beside the model, and of all its models alike.
BESIDE = re.compile(rb'"code": ?"(?:guard|database)_unavailable"')
NUM_TOKENS = re.compile(rb'"(?:completion|output)_tokens": ?(\d+)')


class Passing:
    """One response on its way to the client. status: of HTTP, 0 before it begins. tokens: of the reply, as its usage
    says, or else the events of its stream. Times are seconds from the request on."""

    def __init__(self) -> None:
        self._start, self.status, self.tokens = time.monotonic(), 0, 0
        self.first_bytes_s = self.last_bytes_s = 0.0
        self._is_complete = self._has_error = self._has_usage = self._is_beside = False

    def note(self, event: Event) -> None:
        """Notes one event of the response, before it is sent on."""
        self.last_bytes_s = time.monotonic() - self._start
        if event["type"] == "http.response.start":
            self.status, self.first_bytes_s = event["status"], self.last_bytes_s
            return
        body = event.get("body", b"")
        self._is_complete = not event.get("more_body", False)
        self._is_beside = self._is_beside or (self.status == 503 and BESIDE.search(body) is not None)
        self._has_error = self._has_error or ERROR_EVENT.search(body) is not None
        if counts := NUM_TOKENS.findall(body):
            self.tokens, self._has_usage = int(counts[-1]), True
        elif not self._has_usage:
            self.tokens += len(EVENT.findall(body))

    def leave(self) -> None:
        """Notes that the client left: what it has got so far is no failure."""
        self.status, self._is_complete = self.status or LEFT, True

    @property
    def counts(self) -> bool:
        """Whether it says anything of the model: not where it was refused, where something beside the model failed, or
        where the client left before it began."""
        return self.status not in (*UNCOUNTED, LEFT) and not self._is_beside

    @property
    def failed(self) -> bool:
        """Whether it has an error of the server, or of its stream, or breaks off."""
        return self.status == 0 or self.status >= 500 or self._has_error or not self._is_complete


Key = tuple[str, str, bool]  # of a model: name, version, whether it is the canary


@dataclass
class Outcomes:
    """What became of the requests of one version: their number, failed ones, and its replies with the sums of their
    tokens and times."""

    requests: int = 0
    failed: int = 0
    replies: int = 0
    tokens: int = 0
    first_bytes_s: float = 0.0
    reply_s: float = 0.0

    def count(self, response: Passing) -> None:
        """Counts a request by its response. Times are those of replies: what fails, or is refused, may be quick."""
        if not response.counts:
            return
        self.requests += 1
        self.failed += response.failed
        if response.status == 200 and not response.failed:
            self.replies += 1
            self.tokens += response.tokens
            self.first_bytes_s += response.first_bytes_s
            self.reply_s += response.last_bytes_s

    def facts(self) -> dict[str, float]:
        """requests, error_rate (status 500 and above, none, or a reply that ends in an error), replies (the others of
        status 200), and of these first_bytes_s and reply_s on average, and token_s (seconds for each token)."""
        replies = max(1, self.replies)
        return {"requests": self.requests, "error_rate": self.failed / max(1, self.requests),
                "replies": self.replies, "first_bytes_s": self.first_bytes_s / replies,
                "reply_s": self.reply_s / replies, "token_s": self.reply_s / max(1, self.tokens)}  # fmt: skip


def counting(app: App, outcomes: Outcomes) -> App:
    """The application of a replica that stands behind no router, its requests for replies being counted."""

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        is_http = scope["type"] == "http" and scope["method"] == "POST"
        if not is_http or asgi.without_prefix(scope)["path"] not in GENERATION:
            return await app(scope, receive, send)
        response = Passing()

        async def receive_and_note() -> Event:
            event = await receive()
            if event["type"] == "http.disconnect":
                response.leave()
            return event

        async def send_and_note(event: Event) -> None:
            response.note(event)
            await send(event)

        try:
            await app(scope, receive_and_note, send_and_note)
        except asyncio.CancelledError:
            response.leave()
            raise
        finally:
            outcomes.count(response)

    return counted


def total(counted: Iterable[Outcomes]) -> Outcomes:
    """The outcomes that several routers counted, as if one had."""
    sums = Outcomes()
    for each in counted:
        for name, value in vars(each).items():
            setattr(sums, name, getattr(sums, name) + value)
    return sums
