"""Fixtures of stores of objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.store.artifacts import Store
from tests.object_server import Disturbance, Machines, ObjectServer, disturbed, serving


@pytest.fixture(scope="session")
def server() -> Iterator[ObjectServer]:
    with serving() as server:
        yield server


@pytest.fixture
def proxy(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disturbance]:
    with disturbed(server) as proxy:
        for name, value in {**server.environment, "AWS_ENDPOINT_URL": proxy.url}.items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def machines(proxy: Disturbance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """Machines that share a store of objects, which they reach through the proxy."""
    return Machines(f"s3://bucket/{tmp_path.name}", tmp_path, monkeypatch)


@pytest.fixture
def store(machines: Machines) -> Store:
    """The store as the first machine has it."""
    return machines.store("one")
