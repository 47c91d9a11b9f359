"""A server on a running Ray cluster: one more application of its Ray Serve, which is started where none runs.

Other applications stay as they are: a name or a route prefix that is in use is refused before anything is deployed.
The address is Ray Serve's, one for all applications; where it runs already, --host and --port must be those.
"""

from __future__ import annotations

import contextlib
from typing import Any

from pipelines.errors import UserError
from serve.hosting import serve_private
from serve.hosting.readiness import wait_until_steady
from serve.settings import Settings


def enter(settings: Settings) -> None:
    """Starts Ray Serve where none runs, with a proxy on every node that has a replica. Raises UserError where the one
    that runs has another address, or an application of this name or route."""
    import ray.serve

    running = serve_private.details()
    if running is None or not running.get("controller_info"):
        http = {"host": settings.host, "port": settings.port}
        ray.serve.start("EveryNode", http_options=http, logging_config={"log_level": "WARNING"})
        return
    check_room(settings, running)


def check_room(settings: Settings, running: dict[str, Any]) -> None:
    """Raises UserError where the Ray Serve of these details has no room for the server."""
    http = running["http_options"]
    if (http["host"], http["port"]) != (settings.host, settings.port):
        raise UserError(
            f"--host {settings.host} --port {settings.port}: the Ray Serve of this cluster listens on "
            f"{http['host']}:{http['port']} for all of its applications; expected --host {http['host']} --port "
            f"{http['port']}"
        )
    applications = running.get("applications", {})
    if settings.app in applications:
        raise UserError(f"--app {settings.app}: the cluster has an application of this name; pass another name, or end "
                        f"that one")  # fmt: skip
    for name, application in applications.items():
        if application.get("route_prefix") == settings.route:
            raise UserError(f"--route {settings.route}: is the prefix of the application {name}; pass another, such as "
                            f"/{settings.app}")  # fmt: skip


def sent_packages() -> dict[str, Any]:
    """The part of the connection's runtime environment with our packages, for the replicas: Ray Serve's controller
    starts them, and it may have been started without."""
    import ray

    sent = ray.get_runtime_context().runtime_env or {}
    return {"py_modules": sent["py_modules"]} if sent.get("py_modules") else {}


def wait_until_steady_there(settings: Settings, logs: str) -> str:
    """Waits until replies come through a proxy, asked for on its node; returns the server's URL."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    proxies = (serve_private.details() or {})["proxies"]
    node, proxy = sorted(proxies.items(), key=lambda item: item[1]["status"] != "HEALTHY")[0]
    host = settings.host if settings.loopback else proxy["node_ip"]
    prefix = settings.route.rstrip("/")
    url = f"http://[{host}]:{settings.port}{prefix}" if ":" in host else f"http://{host}:{settings.port}{prefix}"
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    probe = ray.remote(num_cpus=0, max_retries=0)(wait_until_steady).options(scheduling_strategy=strategy)
    ray.get(probe.remote(url, settings.key, logs))
    return url


def end_key_counter(settings: Settings) -> None:
    """Ends the actor that counts the use of keys, where there is one."""
    import ray

    with contextlib.suppress(ValueError):  # there is none
        ray.kill(ray.get_actor(f"{settings.app}-keys", namespace="serve"))
