"""Warm-up: a replica counts as ready once its application has answered requests of each kind of sampling."""

from __future__ import annotations

import asyncio
from typing import Any

from serve.gateway import asgi
from serve.gateway.asgi import App
from serve.gateway.routes import CHAT
from serve.settings import PROBE_PROMPT, Settings

NUM_CONCURRENT = 8  # requests at once: a batch takes other paths through the engine than a single request
SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1},
    {"temperature": 1.0, "seed": 1, "logprobs": True, "top_logprobs": 2},
    {"temperature": 0, "stream": True},
)


async def warm_up(app: App, settings: Settings) -> None:
    """Requests a reply with each kind of sampling, then several at once. Raises RuntimeError where one fails."""
    for sampling in SAMPLING:
        await _request_reply(app, settings, sampling)
    concurrent = {"temperature": 1.0, "top_p": 0.95}
    await asyncio.gather(*(_request_reply(app, settings, concurrent) for _ in range(NUM_CONCURRENT)))


async def _request_reply(app: App, settings: Settings, sampling: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": PROBE_PROMPT}]
    body = {"model": settings.name, "messages": messages, "max_tokens": 4, **sampling}
    status, response = await post(app, CHAT, asgi.dumps(body), settings.key)
    if status != 200 or not asgi.is_complete_reply(response, stream=sampling.get("stream", False)):
        raise RuntimeError(f"warm-up with {sampling}: no reply, but status {status}: {response[:500]!r}")


async def post(app: App, path: str, body: bytes, key: str | None = None, method: str = "POST") -> tuple[int, bytes]:
    """Sends a request to an application in this process; returns the response's status and body."""
    status, chunks = 0, []
    unsent_body = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> asgi.Event:
        if unsent_body:
            return unsent_body.pop()
        await asyncio.Event().wait()  # for ever: a client that stays connected
        return {"type": "http.disconnect"}

    async def send(event: asgi.Event) -> None:
        nonlocal status
        if event["type"] == "http.response.start":
            status = event["status"]
        elif event["type"] == "http.response.body":
            chunks.append(event.get("body", b""))

    headers = {"host": "localhost", "content-type": "application/json"}
    headers |= {"authorization": f"Bearer {key}"} if key else {}
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": asgi.encode_headers(headers.items()),
        "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    return status, b"".join(chunks)
