"""The replicas that Ray Serve runs: Ray's LLM server with vLLM inside, and our gateway around its HTTP application.

    Replica    answers over HTTP on a separate port, to which the front passes requests (direct streaming)
    Model      answers the calls of a router (router.py), one of several models behind one address

Imports nothing heavy at its top, so that the process that deploys stays light: Ray Serve's LLM part and vLLM are
imported where they run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import ray
import ray.serve
from ray.serve.exceptions import RayServeException

from serve.gateway import metrics
from serve.gateway.asgi import ApiError, App, Event, Scope
from serve.gateway.feedback import Reply
from serve.gateway.keys import open_access
from serve.hosting.warm_up import post, warm_up
from serve.settings import NamedKey, Settings

PEERS_TIMEOUT_S = 10.0


class Model:
    """A model with its gateway; built once warm-up requests succeeded. settings: Settings as JSON."""

    behind_router = True

    async def __init__(self, settings: str):
        from serve.gateway.gateway import Gateway
        from serve.hosting import engine, llm_private

        self._settings = engine.local(Settings.model_validate_json(settings))
        if self._settings.address is None:
            llm_private.listen_on_loopback()
        config = engine.llm_config(self._settings)
        self._server = await llm_private.start(config)
        self._app = await llm_private.application(self._server)
        shared = self._settings.replicas.max > 1
        self._peers: Any = None
        counts_with_others = bool(self._settings.keys) and (shared or self.behind_router)
        self._counter: Any = key_counter(self._settings) if counts_with_others else None
        self._gateway = Gateway(
            self._app, self._settings, context_tokens=config["engine_kwargs"]["max_model_len"],
            check_engine=self._server.check_health, admit=self._admit if self._counter else None,
            collect_metrics=self._collect_metrics if shared else None, find_reply=self._find_reply if shared else None,
        )  # fmt: skip
        await warm_up(self._gateway, self._settings)
        self._gateway.ready = True

    async def check_health(self) -> None:
        """Raises where the engine is dead; Ray Serve then replaces the replica."""
        await self._server.check_health()

    async def metrics(self) -> tuple[str, str]:
        """This replica's name, and its metrics in Prometheus' text format."""
        _, body = await post(self._app, "/metrics", b"", method="GET")
        return ray.serve.get_replica_context().replica_tag, body.decode()

    async def respond(self, scope: Scope, body: bytes) -> AsyncIterator[Event]:
        """The events of the response to a request that a router passes on, in ASGI's form."""
        async with contextlib.aclosing(events_of(self._gateway, scope, body)) as events:
            async for event in events:
                yield event

    async def _admit(self, key: NamedKey) -> None:
        refused = await self._counter.refusal.remote(key.model_dump())
        if refused is not None:
            status, message, code, headers = refused
            raise ApiError(status, message, code=code, headers=headers)

    async def recent_reply(self, reply_id: str) -> Reply | None:
        """A reply that this replica remembers, by its id."""
        return self._gateway.recent_reply(reply_id)

    async def _find_reply(self, reply_id: str) -> Reply | None:
        replies = await self._broadcast("recent_reply", reply_id)
        return next((reply for reply in replies if reply is not None), None)

    async def _collect_metrics(self) -> str:
        """The metrics of all replicas of this deployment, each sample with the label `replica`."""
        return metrics.merge(dict(sorted(await self._broadcast("metrics"))), "replica")

    async def _broadcast(self, method: str, *arguments: str) -> list[Any]:
        """What a method of every replica of this deployment returns, but of those that have just ended. Raises ApiError
        where Ray Serve knows of none."""
        if self._peers is None:
            context = ray.serve.get_replica_context()
            self._peers = ray.serve.get_deployment_handle(context.deployment, context.app_name)
        try:
            call = self._peers.broadcast(method, *arguments)
            results = await call.results_async(timeout_s=PEERS_TIMEOUT_S, return_exceptions=True)
        except (RayServeException, TimeoutError) as error:
            raise ApiError(503, "a replica is being replaced; try again shortly", code="replica_replaced",
                           headers={"retry-after": "1"}) from error  # fmt: skip
        return [result for result in results if not isinstance(result, BaseException)]


async def events_of(app: App, scope: Scope, body: bytes) -> AsyncGenerator[Event, None]:
    """The events of an application's response, as they come; whoever reads no further ends the application's work."""
    events: asyncio.Queue[Event | None] = asyncio.Queue(maxsize=64)
    unsent_body: list[Event] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Event:
        if not unsent_body:
            await asyncio.Event().wait()  # a router that no longer waits cancels the call
        return unsent_body.pop()

    async def work() -> None:
        try:
            await app(scope, receive, events.put)
        finally:
            if is_read:  # else a full queue stays full
                await events.put(None)

    is_read = True
    task = asyncio.ensure_future(work())
    try:
        while (event := await events.get()) is not None:
            yield event
        await task
    finally:
        is_read = False
        task.cancel()


@ray.serve.ingress()
class Replica(Model):
    """A model that answers over HTTP on a separate port (direct streaming)."""

    behind_router = False

    async def __serve_build_asgi_app__(self) -> App:
        return self._gateway


class KeyCounter:
    """The use of named keys over all replicas of a server, counted in one actor. settings: Settings as JSON."""

    def __init__(self, settings: str):
        self._access = open_access(Settings.model_validate_json(settings))

    def refusal(self, key: dict[str, Any]) -> tuple[int, str, str | None, dict[str, str]] | None:
        """Counts a request. Status, message, code and headers of the error where it is refused; None where it is
        admitted."""
        try:
            self._access.admit(NamedKey.model_validate(key))
        except ApiError as error:
            return error.status, str(error), error.code, error.headers
        return None


def key_counter(settings: Settings) -> Any:
    """The actor that counts the use of this server's keys; the first replica starts it. Ends with the application."""
    name = f"{settings.app}-keys"
    return (
        ray.remote(KeyCounter)
        .options(name=name, namespace="serve", get_if_exists=True, lifetime="detached", num_cpus=0, max_restarts=-1)
        .remote(settings.model_dump_json())
    )
