"""The published description of the API is valid, and no request that it allows is an error of the server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serve.gateway.gateway import METHODS
from serve.gateway.openapi import document
from tests.serve.conftest import KEY, Served
from tests.serve.gateway.test_gateway import Engine, gateway, send_request
from tests.tiny_models import Tiny


def test_every_route_of_programs_is_described() -> None:
    described = document(needs_key=True)
    documented = {path: {method.upper() for method in item if method != "parameters"}
                  for path, item in described["paths"].items()}  # fmt: skip
    assert documented.pop("/v1/models/{model}") == {"GET"}
    others = {"/": {"GET"}, "/page": {"GET"}, "/metrics": {"GET"}, "/openapi.json": {"GET"}}  # a page, text, this
    others |= {"/v1/embeddings": {"POST"}}  # always 404, with the reason
    assert documented | others == {route: {*methods} - {"HEAD"} for route, methods in METHODS.items()}
    properties = described["components"]["schemas"]["ChatFields"]["properties"]
    assert properties["temperature"]["anyOf"][0] == {"maximum": 2, "minimum": 0, "type": "number"}
    assert described["security"] and "security" not in document(needs_key=False)


def test_paths_are_below_the_route(tiny: Tiny) -> None:
    app = gateway(tiny, Engine(), route="/chat")
    assert send_request(app, "GET", "/openapi.json").json()["servers"] == [{"url": "/chat"}]
    assert "servers" not in document(needs_key=False), "the default is the root"


@pytest.mark.slow
def test_no_request_that_it_allows_is_an_error_of_the_server(served: Served, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{served.server.url}/openapi.json",
        "--header", f"Authorization: Bearer {KEY}", "--max-examples", "40", "--seed", "7",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        "--request-timeout", "120", "--generation-database", "none", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert served.chat().status_code == 200  # the engine lives
