"""Private names of Ray Serve: what a running one says of itself, beyond its status, and a deployment's version."""

from __future__ import annotations

from typing import Any


def details() -> dict[str, Any] | None:
    """The address, proxies and applications of the Ray Serve of this cluster; None where none runs."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.get_serve_details()


def set_version(deployment: Any, version: str) -> None:
    """Sets the version of a deployment's code and arguments: replicas of the same version go on when it is deployed
    again. Ray Serve makes one up for each call otherwise, and starts all replicas anew."""
    deployment._version = version
