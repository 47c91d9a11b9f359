"""Private names of Ray Serve: its start, what one that runs says of itself, its replicas' actors, the version of a
deployment, answers of replicas as they come, and whether a replica has got a call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

POLL_S = 0.1  # how often `ray.serve.run` looks whether an application runs; 1 s by default


def start(host: str, port: int) -> None:
    """Starts Ray Serve without waiting for its proxies: they come up beside the replicas, and `ray.serve.run` waits
    until they serve."""
    import ray.serve
    from ray.serve._private import api, client

    client.CLIENT_POLLING_INTERVAL_S = POLL_S
    create = api._create_controller_and_proxy_refs
    api._create_controller_and_proxy_refs = lambda *args, **kwargs: (create(*args, **kwargs)[0], [])
    try:
        ray.serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": "WARNING"})
    finally:
        api._create_controller_and_proxy_refs = create


def details() -> dict[str, Any] | None:
    """The address, proxies and applications of the Ray Serve of this cluster; None where none runs."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.get_serve_details()


def replica_actors(app: str, state: str) -> list[Any]:
    """The actors of an application's replicas in a state, such as STARTING or RUNNING; without those that ended."""
    import ray
    from ray.serve._private.constants import SERVE_NAMESPACE

    application = (details() or {}).get("applications", {}).get(app, {})
    actors: list[Any] = []
    for deployment in application.get("deployments", {}).values():
        for replica in deployment["replicas"]:
            if replica["state"] == state:
                with contextlib.suppress(ValueError):
                    actors.append(ray.get_actor(replica["actor_name"], namespace=SERVE_NAMESPACE))
    return actors


def set_version(deployment: Any, version: str) -> None:
    """Sets the version of a deployment's code and arguments: replicas of the same version go on when it is deployed
    again. Ray Serve makes one up for each call otherwise, and starts all replicas anew."""
    deployment._version = version


async def answers(call: Any, timeout_s: float) -> AsyncGenerator[Any, None]:
    """What each replica of a broadcast call returns, as it comes; of one that fails, nothing. (The call's
    `results_async` returns nothing at all where one replica hangs.) Raises RayServeException where there is no replica,
    TimeoutError, after all that came, where one has not answered in that time."""
    ends = asyncio.get_running_loop().time() + timeout_s
    results = await asyncio.wait_for(call._fetch_replica_results_async(), timeout_s)
    waiting = {asyncio.ensure_future(result.get_async()) for result in results}
    try:
        while waiting and (left_s := ends - asyncio.get_running_loop().time()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and task.exception() is None:
                    yield task.result()
        if waiting:
            raise TimeoutError(f"{len(waiting)} replicas have not answered within {timeout_s:g} s")
    finally:
        for task in waiting:
            task.cancel()


class NotReached(Exception):
    """No replica has taken a call in time."""


async def answer_in_time(method: Any, *arguments: Any, timeout_s: float) -> Any:
    """What a handle's method returns. Raises NotReached where no replica has taken the call in that time, as while one
    is being replaced, and TimeoutError where the one that has taken it does not answer."""
    response, taken = method.remote(*arguments), False
    try:
        async with asyncio.timeout(timeout_s):
            reference = await response._to_object_ref()
            taken = True
            return await reference
    except TimeoutError:
        response.cancel()
        if taken:
            raise
        raise NotReached(f"no replica within {timeout_s:g} s") from None
