"""The replica that Ray Serve runs: Ray's LLM server with vLLM inside, and our gateway around its HTTP application.

Imports nothing heavy at its top, so that the process that deploys stays light: Ray Serve's LLM part and vLLM are
imported where they run.
"""

from __future__ import annotations

from typing import Any

import ray.serve

from serve.gateway.asgi import App
from serve.settings import Settings


@ray.serve.ingress()
class Replica:
    """A model that answers over HTTP on a separate port (direct streaming); built once warm-up requests succeeded.

    settings: Settings as JSON. llm_config: arguments of ray.serve.llm's LLMConfig. context_tokens: maximum of a prompt
    with its reply."""

    async def __init__(self, settings: str, llm_config: dict[str, Any], context_tokens: int):
        from serve.hosting import llm_private

        self._settings, self._context_tokens = Settings.model_validate_json(settings), context_tokens
        self._server = await llm_private.start(llm_config)

    async def __serve_build_asgi_app__(self) -> App:
        from serve.gateway.gateway import Gateway
        from serve.hosting import llm_private
        from serve.hosting.warm_up import warm_up

        app = await llm_private.application(self._server)
        gateway = Gateway(
            app, self._settings, context_tokens=self._context_tokens, check_engine=self._server.check_health
        )
        await warm_up(gateway, self._settings)
        gateway.ready = True
        return gateway

    async def check_health(self) -> None:
        """Raises where the engine is dead; Ray Serve then replaces the replica."""
        await self._server.check_health()
