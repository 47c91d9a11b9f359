"""The replicas that Ray Serve runs: Ray's LLM server with vLLM inside, and our gateway around its HTTP application.

    Replica    answers over HTTP on a separate port, to which the front passes requests (direct streaming)
    Model      answers the calls of a router (router.py), one of several models behind one address

Imports nothing heavy at its top, so that the process that deploys stays light: Ray Serve's LLM part and vLLM are
imported where they run.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
import ray.serve
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from ray.serve.exceptions import RayServeException

from serve.gateway import metrics
from serve.gateway.asgi import ApiError, App, Event, Scope
from serve.gateway.feedback import Reply
from serve.gateway.keys import open_access
from serve.hosting import engine, serve_private
from serve.hosting.adapters import FOLDER as ADAPTER_FOLDER
from serve.hosting.adapters import engine_name, renamed
from serve.hosting.guard_host import HandleTransport, until_hosted
from serve.hosting.outcomes import Key, Outcomes, counting
from serve.hosting.warm_up import post, warm_up
from serve.settings import NamedKey, Settings

if TYPE_CHECKING:
    from serve.gateway.gateway import Gateway

PEERS_TIMEOUT_S = 5.0  # less than the 10 s that Prometheus waits
UNLOAD_POLL_S = 0.2
SWITCH_INTERVAL_S = 0.0001  # Python's 5 ms let a request's preparation and scores delay the loop that sends tokens


@dataclass
class Adapter:
    """A LoRA adapter that is served. registry: of its metrics; num_requests: those that run."""

    settings: Settings
    gateway: Gateway
    registry: CollectorRegistry
    num_requests: int = 0


class Model:
    """A model with its gateway, and its adapters each with one; built once warm-up requests succeeded. settings:
    Settings as JSON; guard: the handle of the guard model that the server hosts."""

    behind_router = True

    async def __init__(self, settings: str, guard: Any = None):
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        named = Settings.model_validate_json(settings)
        self._settings = engine.local(named)
        self._server, self._app, self._context_tokens = await engine.start(self._settings)
        self._guard_transport: HandleTransport | None = None
        if guard is not None and named.guard_model is not None:
            await until_hosted(named.guard_model, guard)  # warm-up requests need it
            self._guard_transport = HandleTransport(guard)
        self._shared = self._settings.replicas.max > 1
        self._peers: Any = None
        counts_with_others = bool(self._settings.keys) and (self._shared or self.behind_router)
        self._counter: Any = key_counter(self._settings) if counts_with_others else None
        self._adapters: dict[str, Adapter] = {}
        self._leaving: list[asyncio.Task[None]] = []
        self._gateway = await self._open_gateway(self._app, self._settings)

    async def _open_gateway(self, app: App, settings: Settings, registry: CollectorRegistry = REGISTRY) -> Gateway:
        """A gateway that has answered warm-up requests."""
        import torch

        from serve.gateway.gateway import Gateway
        from serve.gateway.guard import open_guard

        if settings.guard:
            torch.set_num_threads(1)  # of the guard's checks, which have threads of their own beside the engine
            await asyncio.to_thread(open_guard, settings.guard_folder)  # reads the encoder, which takes seconds, once
        shown = settings.adapter_of and settings.name
        gateway = Gateway(
            app, settings, context_tokens=min(self._context_tokens, settings.max_tokens or self._context_tokens),
            check_engine=self._server.check_health, metrics=metrics.Metrics(registry),
            admit=self._admit if self._counter else None,
            collect_metrics=partial(self._collect_metrics, shown) if self._shared or shown else None,
            find_reply=self._find_reply if self._shared else None, guard_transport=self._guard_transport,
        )  # fmt: skip
        await warm_up(gateway, settings)
        gateway.ready = True
        return gateway

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Makes the adapters of the config those that are served, at a replica's start and while it runs: a new one
        takes requests once it has answered, an earlier one ends with its last reply. Raises ValueError where one does
        not fit the engine."""
        await asyncio.gather(*self._leaving)  # their slots are not free before
        earlier, self._leaving = dict(self._adapters), []
        shared = {
            name: getattr(self._settings, name) for name in ("key", "keys", "guard_endpoint")
        }  # not in the config
        configured = [Settings.model_validate(each).model_copy(update=shared) for each in config["adapters"]]
        adapters = [engine.local(each) for each in configured]
        for settings in adapters:
            if settings.name in earlier and earlier[settings.name].settings == settings:
                del earlier[settings.name]
            else:
                self._adapters[settings.name] = await self._load(settings)
        names, versions = {each.name for each in adapters}, {engine_name(each) for each in adapters}
        self._adapters = {name: adapter for name, adapter in self._adapters.items() if name in names}
        ending = [adapter for adapter in earlier.values() if engine_name(adapter.settings) not in versions]
        self._leaving = [asyncio.create_task(self._unload(adapter)) for adapter in ending]

    async def _load(self, settings: Settings) -> Adapter:
        from serve.hosting import llm_private

        await llm_private.load_adapter(self._server, engine_name(settings), str(settings.model / ADAPTER_FOLDER))
        registry = CollectorRegistry()
        gateway = await self._open_gateway(renamed(self._app, settings), settings, registry)
        return Adapter(settings, gateway, registry)

    async def _unload(self, adapter: Adapter) -> None:
        """Frees the slot of an adapter once its requests have ended."""
        from serve.hosting import llm_private

        while adapter.num_requests:
            await asyncio.sleep(UNLOAD_POLL_S)
        await llm_private.remove_adapter(self._server, engine_name(adapter.settings))

    async def check_health(self) -> None:
        """Raises where the engine is dead; Ray Serve then replaces the replica."""
        await self._server.check_health()

    async def metrics(self, adapter: str = "") -> tuple[str, str]:
        """This replica's name, and its metrics, or those of one adapter, in Prometheus' text format."""
        if adapter:
            body = generate_latest(self._adapters[adapter].registry)
        else:
            _, body = await post(self._app, "/metrics", b"", method="GET")
        return ray.serve.get_replica_context().replica_tag, body.decode()

    async def respond(self, scope: Scope, body: bytes, name: str) -> AsyncIterator[Event]:
        """The events of the response to a request that a router passes on, in ASGI's form. name: of the model, this one
        or one of its adapters."""
        adapter = self._adapters.get(name)
        gateway = adapter.gateway if adapter else self._gateway
        if adapter:
            adapter.num_requests += 1
        try:
            async with contextlib.aclosing(events_of(gateway, scope, body)) as events:
                async for event in events:
                    yield event
        finally:
            if adapter:
                adapter.num_requests -= 1

    async def _admit(self, key: NamedKey, requests: int) -> None:
        refused = await self._counter.refusal.remote(key.model_dump(), requests)
        if refused is not None:
            status, message, code, headers = refused
            raise ApiError(status, message, code=code, headers=headers)

    async def recent_reply(self, reply_id: str) -> Reply | None:
        """A reply that this replica remembers, by its id."""
        gateways = [self._gateway, *(adapter.gateway for adapter in self._adapters.values())]
        return next(filter(None, (gateway.recent_reply(reply_id) for gateway in gateways)), None)

    async def _find_reply(self, reply_id: str) -> Reply | None:
        async with contextlib.aclosing(self._broadcast("recent_reply", reply_id)) as replies:
            async for reply in replies:
                if reply is not None:
                    return reply
        return None

    async def _collect_metrics(self, adapter: str = "") -> str:
        """The metrics of the model or of one adapter; where there are several replicas, those of all of them, each
        sample with the label `replica`."""
        if not self._shared:
            return (await self.metrics(adapter))[1]
        texts: dict[str, str] = {}
        try:
            async for replica, text in self._broadcast("metrics", adapter):
                texts[replica] = text
        except ApiError:
            if not texts:
                raise
        return metrics.merge(dict(sorted(texts.items())), "replica")

    async def _broadcast(self, method: str, *arguments: str) -> AsyncGenerator[Any, None]:
        """What a method of every replica of this deployment returns, as it comes, but of those that have just ended.
        Raises ApiError where Ray Serve knows of none, and after all others where one does not answer."""
        if self._peers is None:
            context = ray.serve.get_replica_context()
            self._peers = ray.serve.get_deployment_handle(context.deployment, context.app_name)
        try:
            call = self._peers.broadcast(method, *arguments)
            async with contextlib.aclosing(serve_private.answers(call, PEERS_TIMEOUT_S)) as answers:
                async for answer in answers:
                    yield answer
        except (RayServeException, TimeoutError) as error:
            raise ApiError(503, "a replica is being replaced; try again shortly", code="replica_replaced",
                           headers={"retry-after": "1"}) from error  # fmt: skip


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
        self._outcomes = Outcomes()
        return counting(self._gateway, self._outcomes)

    async def outcomes(self) -> tuple[str, dict[Key, Outcomes]]:
        """This replica's name, and what became of its requests so far, as a router has it."""
        key = self._settings.name, self._settings.version, bool(self._settings.canary)
        return ray.serve.get_replica_context().replica_tag, {key: self._outcomes}


class KeyCounter:
    """The use of named keys over all replicas of a server, counted in one actor. settings: Settings as JSON."""

    def __init__(self, settings: str):
        self._access = open_access(Settings.model_validate_json(settings))

    def refusal(self, key: dict[str, Any], requests: int) -> tuple[int, str, str | None, dict[str, str]] | None:
        """Counts requests. Status, message, code and headers of the error where they are refused; None where they are
        admitted."""
        try:
            self._access.admit(NamedKey.model_validate(key), requests)
        except ApiError as error:
            return error.status, str(error), error.code, error.headers
        return None


def key_counter(settings: Settings) -> Any:
    """The actor that counts the use of this server's keys; the first replica starts it. Ends with the application."""
    name = f"{settings.app}-keys"
    apart = "DEFAULT"  # by itself it would be in the placement group of that replica, and end with it
    return (
        ray.remote(KeyCounter)
        .options(name=name, namespace="serve", get_if_exists=True, lifetime="detached", num_cpus=0, max_restarts=-1,
                 max_task_retries=-1, scheduling_strategy=apart)
        .remote(settings.model_dump_json())
    )  # fmt: skip
