"""What Ray Serve deploys: the application of one model, or of several behind a router.

    one model       client ──► front ──► Replica
    several         client ──► front ──► Routers ──Ray──► a Model for each
    a guard model   Replica or Model ──Ray──► GuardHost

`build` makes the same from the arguments of a Serve config (`rayse serve --emit`), for `serve deploy` and KubeRay.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.resources import cores
from pipelines.inference.model_config import context_length
from serve.hosting.adapters import engine_sizes
from serve.hosting.engine import engine_environment, local
from serve.hosting.serve_private import set_version
from serve.settings import Settings

if TYPE_CHECKING:
    import ray.serve

CLUSTER_THREADS = 4  # of a replica on a CPU of a cluster, where nothing else is set: Ray reserves as many CPUs
SHUTDOWN_POLL_S = 0.2
GUARD_DEPLOYMENT = "guard-model"  # a model's name ends with a digest
ONLY_DEPLOYMENT = "Replica"  # of a model that is the only one of its server
GUARD_PROMPT_TOKENS = 2048  # of a guard model's own prompt with its answer, at most
UNALIASED = {"alias": "", "artifact": ""}  # an engine is the same, whatever names it
MAX_ONGOING = 10_000  # the gateway has a limit, with an error that clients understand


def application(settings: Settings, runtime_env: dict[str, Any] | None = None) -> ray.serve.Application:
    """The Ray Serve application of a server. Needs a connection to Ray, and on this machine the front's variables.

    runtime_env: of the replicas, beside their environment variables: the packages that were sent to a cluster."""
    import ray.serve

    from serve.hosting.guard_host import GuardHost
    from serve.hosting.replica import Model, Replica
    from serve.hosting.router import Router

    served = engines(settings)
    engine = served.get(GUARD_DEPLOYMENT)
    guard = [_bind(engine, GuardHost, runtime_env, GUARD_DEPLOYMENT, ())] if engine else []
    if len(settings.models) == 1:
        return _bind(served[deployment_name(settings)], Replica, runtime_env, ONLY_DEPLOYMENT, (), *guard)
    bound = {
        deployment_name(model): _bind(served[deployment_name(model)], Model, runtime_env, deployment_name(model),
                                      _adapters(model, settings), *(guard if model.guard else []))
        for model in settings.engines
    }  # fmt: skip
    handles = [bound[deployment_name(model)] for model in settings.models]
    router: Any = ray.serve.deployment(
        Router,
        num_replicas=settings.num_routers,
        max_ongoing_requests=MAX_ONGOING,
        max_surge_percent=100,  # as that of the models
        ray_actor_options={"num_cpus": 0, "runtime_env": runtime_env or {}},  # Ray Serve spreads them over nodes
        **_shutdown(settings),
    )
    return router.bind(settings.model_dump_json(), handles)


def build(arguments: dict[str, Any]) -> ray.serve.Application:
    """The application of a Serve config's `args`: the fields of Settings. Ray Serve calls it on the cluster.

    Models are fetched from their store, where the config names one by its version alone. Raises UserError."""
    settings = Settings.model_validate(arguments)
    if settings.keys:  # the server's own requests need a key too: one that nobody knows
        settings = settings.model_copy(update={"key": secrets.token_urlsafe(24)})
    first, *others = [local(model) for model in settings.models]
    return application(first.model_copy(update={"others": tuple(others)}).check())


def deployment_name(settings: Settings) -> str:
    """Name of a model's deployment: its name in the API as far as Ray Serve's names allow, and a digest of it.

    The same for every version, so that Ray Serve replaces one by the other without a gap; a canary has another, and an
    adapter that of its base."""
    name = settings.adapter_of or settings.name
    plain = "".join(character if character.isalnum() and character.isascii() else "-" for character in name)
    digest = hashlib.sha256(f"{name} {'canary' if settings.canary else ''}".encode()).hexdigest()[:8]
    return f"{plain}-{digest}"


def guard_engine(settings: Settings) -> Settings | None:
    """The settings of the engine of the guard model that a server hosts; None without one."""
    guard = settings.guard_model
    if guard is None or not any(model.guard for model in settings.models):
        return None
    contexts = [model.max_tokens or context_length(model.model) for model in settings.models]
    gpus = min(1, max(model.gpus for model in settings.models)) if guard.gpus is None else guard.gpus
    return Settings(
        model=guard.folder, name=guard.model, version=guard.version, gpus=gpus, threads=guard.threads,
        kv_cache_bytes=guard.kv_cache_bytes,
        max_tokens=guard.max_tokens or min(context_length(guard.folder), 2 * max(contexts) + GUARD_PROMPT_TOKENS),
        store=settings.store if guard.version else None,
        **{name: getattr(settings, name) for name in ("address", "limits", "logs", "cache")},
    )  # fmt: skip


def hosted(settings: Settings) -> list[Settings]:
    """The settings of all engines of a server: its models', then its guard model's."""
    guard = guard_engine(settings)
    return [*settings.engines, *([guard] if guard else [])]


def engines(settings: Settings) -> dict[str, Settings]:
    """The settings of each engine of a server, by its deployment's name; where they differ, it starts anew."""
    served = {
        deployment_name(model): _with_threads(model, settings).model_copy(
            update={"others": (), "canary_stopped": False, **UNALIASED, **engine_sizes(_adapters(model, settings))}
        )
        for model in settings.engines
    }
    guard = guard_engine(settings)
    return served | ({GUARD_DEPLOYMENT: _with_threads(guard, settings)} if guard else {})


def _adapters(model: Settings, settings: Settings) -> list[Settings]:
    """The adapters that a model's engine serves, those of a canary's none."""
    return [other for other in settings.models if other.adapter_of == model.name and not model.canary]


def _bind(
    engine: Settings, cls: type, runtime_env: dict[str, Any] | None, name: str, adapters: Sequence[Settings],
    *guard: ray.serve.Application,
) -> ray.serve.Application:  # fmt: skip
    """One engine's part of the application, which asks this guard model. Its replicas start anew where its settings
    differ; where those of its adapters do, the replicas that run load them."""
    sizes = {"adapter_slots": engine.adapter_slots, "adapter_rank": engine.adapter_rank}
    secret: Any = {"key": True, "keys": True, "guard_endpoint": {"key"}}  # Ray's dashboard shows this config
    served = [adapter.model_copy(update=sizes).model_dump(mode="json", exclude=secret) for adapter in adapters]
    deployment = _deployment(engine, cls, runtime_env, name, {"adapters": served} if served else None)
    arguments = engine.model_dump_json()
    set_version(deployment, hashlib.sha256(arguments.encode()).hexdigest()[:16])
    return deployment.bind(arguments, *guard)


def _deployment(
    settings: Settings, cls: type, runtime_env: dict[str, Any] | None, name: str, user_config: dict[str, Any] | None
) -> ray.serve.Deployment:
    """The deployment of one model. user_config: of Model.reconfigure."""
    import ray.serve

    num_cpus = _num_cpus(settings)
    bundle = {"CPU": 1.0, "GPU": 1.0} if settings.gpus else {"CPU": float(num_cpus)}
    environment = {"env_vars": engine_environment(settings)}
    deployment: Any = ray.serve.deployment(
        cls,
        name=name,
        user_config=user_config,
        max_constructor_retry_count=1,  # what fails at its start fails again
        max_ongoing_requests=MAX_ONGOING,
        max_surge_percent=100,  # another version starts beside the old one, which then drains
        health_check_timeout_s=30,
        placement_group_bundles=[bundle] * max(1, settings.gpus),
        placement_group_strategy="PACK",
        ray_actor_options={"num_cpus": bundle["CPU"], "runtime_env": {**(runtime_env or {}), **environment}},
        **_shutdown(settings),
        **_scale(settings),
    )
    return deployment


def _shutdown(settings: Settings) -> dict[str, Any]:
    return {
        "graceful_shutdown_timeout_s": settings.limits.longest_drain_s,
        "graceful_shutdown_wait_loop_s": SHUTDOWN_POLL_S,
    }


def _scale(settings: Settings) -> dict[str, Any]:
    """Ray Serve's options of the number of replicas."""
    replicas = settings.replicas
    if replicas.min == replicas.max:
        return {"num_replicas": replicas.min}
    return {
        "autoscaling_config": {
            "min_replicas": replicas.min,
            "initial_replicas": max(1, replicas.min),  # a server is ready once it has answered
            "max_replicas": replicas.max,
            "target_ongoing_requests": replicas.target_requests,
            "downscale_delay_s": replicas.idle_s,
        }
    }


def _num_cpus(settings: Settings) -> int:
    """CPUs that Ray reserves for a replica; 1 on a Ray of this server's, whose logical CPUs are labels."""
    return 1 if settings.address is None or settings.gpus else settings.threads or CLUSTER_THREADS


def _with_threads(model: Settings, settings: Settings) -> Settings:
    """A model's settings with the threads of its engine; on one machine all replicas share its cores."""
    if model.threads or model.address is not None:
        return model.model_copy(update={"threads": model.threads or CLUSTER_THREADS})
    num_replicas = sum(each.replicas.max for each in hosted(settings))
    return model.model_copy(update={"threads": max(1, cores() // num_replicas)})
