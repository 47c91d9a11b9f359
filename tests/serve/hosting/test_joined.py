"""A server on a cluster whose Ray Serve has other applications: what is refused before anything is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from serve.hosting.joined import check_room
from serve.settings import Settings

RUNNING = {
    "http_options": {"host": "0.0.0.0", "port": 8000},
    "applications": {"search": {"route_prefix": "/"}, "ranking": {"route_prefix": None}},
}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "--route /: is the prefix of the application search; pass another, such as /rayse"),
        ({"route": "/chat"}, None),
        ({"route": "/chat", "app": "ranking"}, "--app ranking: the cluster has an application of this name"),
        ({"route": "/chat", "port": 8001}, "listens on 0.0.0.0:8000 for all of its applications"),
        ({"route": "/chat", "host": "127.0.0.1"}, "expected --host 0.0.0.0 --port 8000"),
    ],
)  # fmt: skip
def test_names_routes_and_addresses_of_others_are_refused(options: dict[str, Any], problem: str | None) -> None:
    settings = Settings(model=Path("."), **{"host": "0.0.0.0", "key": "k", **options})
    if problem is None:
        return check_room(settings, RUNNING)
    with pytest.raises(UserError) as error:
        check_room(settings, RUNNING)
    assert problem in str(error.value)
    return None
