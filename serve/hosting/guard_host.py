"""The guard model that a server hosts: a deployment with an engine of its own, in the same Ray Serve application.

    gateway ──GuardModel──► HandleTransport ──Ray──► GuardHost ──► vLLM's application

Models call it by its handle. It is no ingress, so that no front passes requests to it, and no model in `/v1/models`.
Where its replica ends, Ray Serve starts another; until then calls end as those of an endpoint that is not there.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serve.gateway import asgi
from serve.gateway.routes import COMPLETIONS
from serve.hosting import engine, serve_private
from serve.hosting.warm_up import post
from serve.settings import HostedGuard, Settings

POLL_S = 1.0


class GuardHost:
    """A guard model's engine; built once it has answered. settings: of the engine, as JSON."""

    async def __init__(self, settings: str):
        named = Settings.model_validate_json(settings)
        self._identity, self._settings = named.version or str(named.model), engine.local(named)
        self._server, self._app, _ = await engine.start(self._settings, calls_tools=False)
        body = {"prompt": "Hello", "max_tokens": 1}
        status, answer = await post(self._app, COMPLETIONS, asgi.dumps(body))
        if status != 200:
            raise RuntimeError(f"guard model {self._settings.name}: no answer, but status {status}: {answer[:500]!r}")

    async def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of vLLM's response to a request."""
        return await post(self._app, path, body)

    async def identity(self) -> str:
        """The artifact's fingerprint, or the folder, of the guard model. A call of a deployment that starts waits until
        a replica is built."""
        return self._identity

    async def check_health(self) -> None:
        """Raises where the engine is dead; Ray Serve then replaces the replica."""
        await self._server.check_health()


async def until_hosted(guard: HostedGuard, handle: Any) -> None:
    """Waits until this guard model is the one that is hosted. Where another version takes over, the earlier one answers
    until this one is ready; it may be of another family, and knows nothing of this one's questions."""
    wanted = guard.version or str(guard.folder)
    if await _identity(handle) == wanted:
        return
    while await _identity(handle) != wanted:
        await asyncio.sleep(POLL_S)
    await asyncio.sleep(POLL_S)  # until the earlier one takes no more calls


async def _identity(handle: Any) -> str:
    try:
        return await handle.identity.remote()
    except RayError:  # a replica that has just ended
        return ""


class HandleTransport(httpx.BaseTransport):
    """Sends requests of threads through a handle to GuardHost. Made in the event loop that calls the handle."""

    def __init__(self, handle: Any):
        self._handle, self._loop = handle, asyncio.get_running_loop()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The response; raises httpx.TransportError where none comes."""
        timeout_s = request.extensions["timeout"]["read"]
        call = serve_private.answer_in_time(self._handle.answer, request.url.path, request.content, timeout_s=timeout_s)
        try:
            status, body = asyncio.run_coroutine_threadsafe(call, self._loop).result()
        except serve_private.NotReached as error:
            raise httpx.ConnectTimeout(str(error)) from None
        except TimeoutError as error:
            raise httpx.ReadTimeout(str(error)) from None
        except (RayError, RayServeException) as error:
            raise httpx.RemoteProtocolError(type(error).__name__) from None
        return httpx.Response(status, content=body)
