"""What a running Ray Serve says of itself, by the one private name that tells more than `ray.serve.status()`."""

from __future__ import annotations

from typing import Any


def details() -> dict[str, Any] | None:
    """The address, proxies and applications of the Ray Serve of this cluster; None where none runs."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.get_serve_details()
