"""Fixtures of the stages' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.session import Session


@pytest.fixture(scope="package")
def session() -> Iterator[Session]:
    """A local Ray cluster for the tests of this folder that follow each other in a process."""
    with Session(on_message=str) as session:
        yield session
