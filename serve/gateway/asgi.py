"""What the gateway speaks of HTTP itself: reading a body within limits, answers, errors as OpenAI has them.

{"error": {"message": …, "type": "invalid_request_error", "param": …, "code": …}}
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SWALLOWED_BYTES = 64_000_000  # of a body that is too large: read, so that its sender hears the answer, and dropped
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
    507: "server_error",
}


class Refused(Exception):
    """A request that is answered with an error. headers: of the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Gone(Exception):
    """The client went away before it had asked anything."""


def headers_of(scope: Scope) -> dict[str, str]:
    """Headers by lower-case name; of one that comes twice, the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


async def read_body(scope: Scope, receive: Receive, *, most_bytes: int, most_s: float) -> bytes:
    """A request's body. Raises Refused (413, 408), or Gone."""
    try:
        async with asyncio.timeout(most_s):
            return await _read(scope, receive, most_bytes)
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {most_s:g} s", headers={"connection": "close"}) from None


async def _read(scope: Scope, receive: Receive, most_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size, more = 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise Gone
        piece, more = event.get("body", b""), event.get("more_body", False)
        size += len(piece)
        if size <= most_bytes:
            pieces.append(piece)
        elif size > SWALLOWED_BYTES:
            break
    if size > most_bytes:
        raise Refused(413, f"the body has more than {most_bytes:,} bytes, which is this server's limit",
                      code="request_too_large", headers={"connection": "close"})  # fmt: skip
    return b"".join(pieces)


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises Refused."""
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        why = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise Refused(400, f"the body is not JSON: {why}", code="invalid_json") from None
    if not isinstance(found, dict):
        raise Refused(400, "the body is JSON, but not an object", code="invalid_json")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


async def answer(
    send: Send,
    status: int,
    body: bytes,
    *,
    kind: str = "application/json",
    headers: Mapping[str, str] | None = None,
    head_only: bool = False,
) -> None:
    """A whole answer."""
    listed = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
    await send({"type": "http.response.start", "status": status, "headers": encoded(listed.items())})
    await send({"type": "http.response.body", "body": b"" if head_only else body})


async def answer_json(send: Send, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
    await answer(send, status, dumps(value), headers=headers)


def encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def event(value: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + dumps(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def is_reply(body: bytes, *, stream: bool) -> bool:
    """Whether the body of an answer of 200 holds a reply: a choice at least, no error, and the end of a stream.

    Raises ValueError where it is no JSON."""
    if stream and not body.endswith(DONE):
        return False
    parts = [line.removeprefix(b"data: ") for line in body.splitlines() if line.startswith(b"data: {")]
    found = [json.loads(part) for part in (parts if stream else [body])]
    return any(one.get("choices") for one in found) and not any("error" in one for one in found)


def open_here(request: urllib.request.Request | str, timeout_s: float) -> Any:
    """Asks a server on this machine, as urllib.request.urlopen does; never by way of a proxy, which `http_proxy` names
    for the world outside."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout_s)
