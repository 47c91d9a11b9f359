"""HTTP as ASGI messages: reading a body within limits, sending responses, and errors in OpenAI's form.

{"error": {"message": …, "type": "invalid_request_error", "param": …, "code": …}}
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, MutableMapping
from http.client import HTTPResponse
from typing import Any, TypeVar

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_DRAINED_BYTES = 64_000_000  # of a body over the limit: read and dropped, so that its sender gets to read the error
ERROR_TYPES = {
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


class ApiError(Exception):
    """A request that gets an error response.

    status: of HTTP. param: the request's field that is wrong. code: OpenAI's or ours, for programs. headers: further
    headers of the response."""

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
        """The error as the JSON object of OpenAI's API."""
        error_type = ERROR_TYPES.get(self.status, "server_error")
        return {"error": {"message": str(self), "type": error_type, "param": self.param, "code": self.code}}


class ClientDisconnected(Exception):
    """The client closed its connection before its request was complete."""


# ---- requests --------------------------------------------------------------------------------------------------------


def headers_of(scope: Scope) -> dict[str, str]:
    """Headers of a request by lower-case name; the last value of a repeated one."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


async def close_other(scope: Scope, receive: Receive, send: Send) -> None:
    """Closes a WebSocket, which no route takes, and acknowledges the start and end of the server (ASGI's lifespan)."""
    event = await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1002})
    elif event["type"] in ("lifespan.startup", "lifespan.shutdown"):
        await send({"type": f"{event['type']}.complete"})


def without_prefix(scope: Scope) -> Scope:
    """A scope whose path begins after the prefix under which the application is mounted (ASGI's root_path)."""
    prefix = scope.get("root_path", "")
    if not prefix or not scope["path"].startswith(prefix):
        return scope
    path = scope["path"][len(prefix) :] or "/"
    return {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}


async def read_body(receive: Receive, *, max_bytes: int, timeout_s: float) -> bytes:
    """Reads a request's body. Raises ApiError (413 too large, 408 too slow) or ClientDisconnected."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(receive, max_bytes)
    except TimeoutError:
        raise ApiError(
            408, f"the body did not arrive within {timeout_s:g} s", headers={"connection": "close"}
        ) from None


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What work returns. Ends it, and raises ClientDisconnected, where the client of a request whose body was read
    leaves before."""

    async def client_leaves() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(client_leaves())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})


async def _read(receive: Receive, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk, more = event.get("body", b""), event.get("more_body", False)
        size += len(chunk)
        if size <= max_bytes:
            chunks.append(chunk)
        elif size > MAX_DRAINED_BYTES:
            break
    if size > max_bytes:
        raise ApiError(413, f"the body has more than {max_bytes:,} bytes, which is this server's limit",
                       code="request_too_large", headers={"connection": "close"})  # fmt: skip
    return b"".join(chunks)


def parse_object(body: bytes) -> dict[str, Any]:
    """Parses a JSON object. Raises ApiError (400) for anything else, NaN and infinities included."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except ValueError as error:  # UnicodeDecodeError is a ValueError
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise ApiError(400, "the body is not JSON: nested too deeply", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body is JSON, but not an object", code="invalid_json")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


# ---- responses -------------------------------------------------------------------------------------------------------


async def respond(
    send: Send,
    status: int,
    body: bytes,
    *,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
    head_only: bool = False,
) -> None:
    """Sends a whole response. head_only: the headers without the body, as HEAD wants them."""
    all_headers = {"content-type": content_type, "content-length": str(len(body)), **(headers or {})}
    await send({"type": "http.response.start", "status": status, "headers": encode_headers(all_headers.items())})
    await send({"type": "http.response.body", "body": b"" if head_only else body})


async def respond_json(send: Send, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
    """Sends a value as a JSON response."""
    await respond(send, status, dumps(value), headers=headers)


def encode_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI takes them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def dumps(value: Any) -> bytes:
    """A value as compact JSON in UTF-8; half of a surrogate pair becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def sse_event(value: Any) -> bytes:
    """A value as a server-sent event."""
    return b"data: " + dumps(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


# ---- for clients on this machine -------------------------------------------------------------------------------------


def is_complete_reply(body: bytes, *, stream: bool) -> bool:
    """Whether the body of a response with status 200 holds a complete reply: at least one choice, no error, and the
    final [DONE] of a stream. Raises ValueError where it is no JSON."""
    if stream and not body.endswith(DONE):
        return False
    events = [line.removeprefix(b"data: ") for line in body.splitlines() if line.startswith(b"data: {")]
    chunks = [json.loads(event) for event in (events if stream else [body])]
    return any(chunk.get("choices") for chunk in chunks) and not any("error" in chunk for chunk in chunks)


def open_local(request: urllib.request.Request | str, timeout_s: float) -> HTTPResponse:
    """Opens a URL of this machine, as urllib.request.urlopen does, but never through the proxy that `http_proxy`
    names."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout_s)
