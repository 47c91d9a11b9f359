"""A server is ready once it has answered: real requests through its own application, one of each kind of sampling."""

from __future__ import annotations

import asyncio
from typing import Any

from serve.gateway import asgi
from serve.gateway.asgi import App
from serve.gateway.generation import CHAT
from serve.settings import GREETING, Settings

EIGHT = 8  # requests at once: a batch takes other paths through the engine than one request does
KINDS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1},
    {"temperature": 1.0, "seed": 1, "logprobs": True, "top_logprobs": 2},
    {"temperature": 0, "stream": True},
)


async def warm_up(app: App, settings: Settings) -> None:
    """Asks for a reply of each kind, and for eight at once. Raises RuntimeError where one is not answered."""
    for kind in KINDS:
        await _ask(app, settings, kind)
    await asyncio.gather(*(_ask(app, settings, {"temperature": 1.0, "top_p": 0.95}) for _ in range(EIGHT)))


async def _ask(app: App, settings: Settings, kind: dict[str, Any]) -> None:
    body = {"model": settings.name, "messages": [{"role": "user", "content": GREETING}], "max_tokens": 4, **kind}
    status, answered = await ask(app, CHAT, asgi.dumps(body), settings.key)
    if status != 200 or not asgi.is_reply(answered, stream=kind.get("stream", False)):
        raise RuntimeError(f"warm-up with {kind}: no reply, but status {status}: {answered[:500]!r}")


async def ask(app: App, path: str, body: bytes, key: str | None = None) -> tuple[int, bytes]:
    """A POST to an application in this process: status and body of its answer."""
    status, pieces = [0], []
    given = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> asgi.Event:
        event = next(given, None)
        if event is None:
            await asyncio.Event().wait()  # a client that stays
        return event or {"type": "http.disconnect"}

    async def send(event: asgi.Event) -> None:
        if event["type"] == "http.response.start":
            status[0] = event["status"]
        elif event["type"] == "http.response.body":
            pieces.append(event.get("body", b""))

    headers = {"host": "localhost", "content-type": "application/json"}
    headers |= {"authorization": f"Bearer {key}"} if key else {}
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": asgi.encoded(headers.items()),
        "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    return status[0], b"".join(pieces)
