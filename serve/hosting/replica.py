"""The replica: what Ray Serve runs. vLLM's server is made inside it, and our gateway stands around it.

This module imports nothing heavy, so that the process that deploys need not either: Ray Serve's LLM part and vLLM are
imported where they run.
"""

from __future__ import annotations

from typing import Any

import ray.serve

from serve.gateway.asgi import App
from serve.settings import Settings


@ray.serve.ingress()
class Replica:
    """A model that answers over HTTP, on a port of its own (direct streaming). It is made once it has answered.

    config: arguments of ray.serve.llm's LLMConfig. context: tokens of a prompt with its reply."""

    async def __init__(self, settings: str, config: dict[str, Any], context: int):
        from serve.hosting import llm_private

        self._settings, self._context = Settings.model_validate_json(settings), context
        self._server = await llm_private.start(config)

    async def __serve_build_asgi_app__(self) -> App:
        from serve.gateway.gateway import Gateway
        from serve.hosting import llm_private
        from serve.hosting.warm_up import warm_up

        app = await llm_private.application(self._server)
        gateway = Gateway(app, self._settings, context=self._context, healthy=self._server.check_health)
        await warm_up(gateway, self._settings)
        gateway.ready = True
        return gateway

    async def check_health(self) -> None:
        await self._server.check_health()
