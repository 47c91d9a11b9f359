"""The replicas of a deployment that ask each other, where one of them hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import ray.serve

from cluster.session import Session
from serve.hosting import serve_private


class Peer:
    """Answers with its name, but for the first replica that makes the file."""

    def __init__(self, file: str):
        try:
            Path(file).touch(exist_ok=False)
            self._hangs = True
        except FileExistsError:
            self._hangs = False

    async def name(self) -> str:
        if self._hangs:
            await asyncio.sleep(3600)
        return ray.serve.get_replica_context().replica_tag


@pytest.fixture
def peers(session: Session, tmp_path: Path) -> Iterator[Any]:
    deployment: Any = ray.serve.deployment(Peer)
    deployment = deployment.options(num_replicas=3, ray_actor_options={"num_cpus": 0})
    ray.serve.start(proxy_location="Disabled")
    try:
        yield ray.serve.run(deployment.bind(str(tmp_path / "first")), name="peers", route_prefix=None)
    finally:
        ray.serve.shutdown()


def test_the_answers_of_the_others_come_where_one_hangs(peers: Any) -> None:
    async def asked(timeout_s: float, limit: int) -> list[str]:
        names: list[str] = []
        async with aclosing(serve_private.answers(peers.broadcast("name"), timeout_s)) as answers:
            async for name in answers:
                names.append(name)
                if len(names) == limit:
                    break
        return names

    start = time.monotonic()
    first = asyncio.run(asked(600.0, 1))
    assert time.monotonic() - start < 300, "it does not wait for the others"
    both = asyncio.run(asked(600.0, 2))
    assert len(set(both)) == 2 and len(first) == 1 and set(first) <= set(both)
    with pytest.raises(TimeoutError, match="replicas have not answered within 2 s"):
        asyncio.run(asked(2.0, 3))
