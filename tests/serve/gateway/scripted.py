"""The real gateway around an application that stands in for vLLM: it streams texts that a test chose."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry

from serve.gateway import asgi
from serve.gateway.gateway import Gateway
from serve.gateway.metrics import Metrics
from serve.settings import Settings

PIECE = 7  # characters of a chunk
ENGLISH = """Photosynthesis turns **light into food**. In short:

1. *Leaves* take in water and carbon dioxide.
2. Chlorophyll absorbs light, which splits the water.
3. The plant builds glucose, and sets oxygen free.

| Input | Output |
|---|---:|
| 6 CO₂ + 6 H₂O | C₆H₁₂O₆ |
| light | 6 O₂ |

```python
def energy(photons: int, nanometres: float) -> float:
    return photons * 6.626e-34 * 2.998e8 / (nanometres * 1e-9)
```

More in [this article](https://example.org/photosynthesis)."""
CHINESE = """静夜思是**李白**的一首五言诗：

> 床前明月光，疑是地上霜。
> 举头望明月，低头思故乡。

- 前两句写*月光*
- 后两句写思乡"""
REPLIES = {"How do plants make food?": ENGLISH, "《静夜思》写的是什么？": CHINESE}
CITATIONS = [{"source": "https://example.org/leaf", "passage": "Chlorophyll absorbs light.", "score": 0.83},
             {"source": "notes/plants.md", "heading": "Plants > <i>Sugar</i>", "passage": "<b>Glucose</b> is a sugar.",
              "score": 0.61}]  # fmt: skip


class Script:
    """Replies to the last user message by a table. delays: seconds before each chunk of some replies; fields: of the
    last chunk of some, beside vLLM's."""

    def __init__(self, replies: dict[str, str], delays: dict[str, float], fields: dict[str, dict[str, Any]]):
        self._replies, self._delays, self._fields = replies, delays, fields

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        body = asgi.parse_object(await asgi.read_body(receive, max_bytes=10_000_000, timeout_s=10))
        prompt = body["messages"][-1]["content"]
        reply_id = "chatcmpl-" + asgi.headers_of(scope)["x-request-id"]
        frame = {"id": reply_id, "object": "chat.completion.chunk", "created": int(time.time()), "model": "scripted"}
        headers = asgi.encode_headers([("content-type", "text/event-stream; charset=utf-8")])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        text = self._replies.get(prompt, f"You wrote: {prompt}")
        for start in range(0, len(text), PIECE):
            await asyncio.sleep(self._delays.get(prompt, 0))
            choice = {"index": 0, "delta": {"content": text[start : start + PIECE]}, "finish_reason": None}
            chunk = asgi.sse_event(frame | {"choices": [choice]})
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        last = frame | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]} | self._fields.get(prompt, {})
        await send({"type": "http.response.body", "body": asgi.sse_event(last) + asgi.DONE})


@contextmanager
def serve(
    model: Path,
    replies: dict[str, str],
    *,
    delays: dict[str, float] | None = None,
    fields: dict[str, dict[str, Any]] | None = None,
    **options: Any,
) -> Iterator[str]:
    """Serves on a free port of loopback; yields the URL. options: of Settings."""

    async def check_engine() -> None: ...

    settings = Settings(model=model, **{"name": "scripted", **options})
    gateway = Gateway(Script(replies, delays or {}, fields or {}), settings, context_tokens=100_000,
                      check_engine=check_engine, metrics=Metrics(CollectorRegistry()))  # fmt: skip
    gateway.ready = True
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # clients that come before the thread has started wait
        server = uvicorn.Server(uvicorn.Config(gateway, log_level="error", lifespan="off"))  # pyright: ignore[reportArgumentType]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)
