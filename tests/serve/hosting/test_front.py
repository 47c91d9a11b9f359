"""The front's edits of HAProxy's configuration, on Ray's template: each takes effect, or HAProxy is not started."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from serve.hosting import front
from serve.settings import Limits, Settings
from tests.runs import wait_until
from tests.serve.conftest import Served

# The lines of Ray 2.60's template that are edited, among others.
CONFIGURATION = """global
    maxconn 4096
defaults
    mode http
    timeout client 3600s
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8123
    default_backend default_backend
backend default_backend
    http-request return status 404
listen stats
  bind *:8404
"""


def run_script(folder: Path, configuration: str, host: str = "127.0.0.1") -> tuple[int, str, str]:
    """Runs the script with a program in HAProxy's place that prints its arguments: (exit code, output, file)."""
    settings = Settings(model=folder, host=host, port=8123, limits=Limits(header_s=7, body_s=1.5))
    script = front.write_script(folder, settings)
    script.write_text(re.sub(r'exec ".*"( "\$@")', r"exec /bin/echo\1", script.read_text()))
    file = folder / "haproxy.cfg"
    file.write_text(configuration)
    done = subprocess.run([script, "-db", "-f", file], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, file.read_text()


@pytest.mark.parametrize(("host", "bind"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "*"), ("::1", "::1")])
def test_every_port_but_the_users_becomes_a_private_socket(tmp_path: Path, host: str, bind: str) -> None:
    code, output, edited = run_script(tmp_path, CONFIGURATION, host)
    assert code == 0 and output.startswith("-db -f"), output
    binds = [line.strip() for line in edited.splitlines() if line.strip().startswith("bind ")]
    assert binds == [f"bind unix@{tmp_path}/metrics.sock mode 600", f"bind {bind}:8123",
                     f"bind unix@{tmp_path}/stats.sock mode 600"]  # fmt: skip
    assert "defaults\n    timeout http-request 7s\n" in edited
    assert f"    bind {bind}:8123\n    http-request wait-for-body time 1500ms if METH_POST\n" in edited
    assert "backend default_backend\n    http-request return status 503" in edited
    assert '"{\\"status\\":\\"starting\\"}"' in edited


@pytest.mark.parametrize(
    ("before", "after"),
    [("bind :9101", "bind *:9101 v4v6"), ("bind *:8404", "bind 0.0.0.0:8404"), ("127.0.0.1:8123", "0.0.0.0:8123"),
     ("defaults", "defaults all"), ("backend default_backend\n    http", "backend rest\n    http"),
     ("listen stats", "frontend more\n  bind *:1 ssl\nlisten stats")],
)  # fmt: skip
def test_a_template_that_has_changed_is_an_error_and_haproxy_is_not_started(
    tmp_path: Path, before: str, after: str
) -> None:
    assert before in CONFIGURATION
    code, output, _ = run_script(tmp_path, CONFIGURATION.replace(before, after))
    assert code == 1 and "HAProxy is not started" in output, output


def test_rays_template_has_the_lines() -> None:
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE as TEMPLATE

    lines = [line.strip() for line in TEMPLATE.splitlines()]
    assert [line for line in lines if line.startswith("bind ")] == [
        "bind :{{ config.metrics_port }}",
        "bind {{ config.frontend_host }}:{{ config.frontend_port }}",
        "bind {{ config.grpc_frontend_host }}:{{ config.grpc_frontend_port }} proto h2",  # not used: no gRPC services
        "bind *:{{ config.stats_port }}",
    ]
    assert "defaults" in lines and "backend default_backend" in lines
    assert {"option redispatch 1", "retry-on {{ config.retry_on }}", "retries {{ config.retries }}"} <= set(lines)


def send_headers_slowly(port: int) -> bytes:
    """Opens a connection and sends a byte of a header every 0.2 s; returns what comes back within a minute."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        connection.settimeout(0.2)
        for _ in range(300):
            try:
                return connection.recv(4096)
            except TimeoutError:
                connection.sendall(b"x")
    return b""


def test_haproxy_ends_slow_clients_and_says_that_it_starts(tmp_path: Path) -> None:
    port = front.free_port()
    settings = Settings(model=tmp_path, port=port, limits=Limits(header_s=1, body_s=1))
    with haproxy(front.write_script(tmp_path, settings), port, CONFIGURATION):
        assert send_headers_slowly(port).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ") and b"application/json" in head
        assert json.loads(body)["error"]["type"] == "timeout_error"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            health = client.get("/health")
            assert (health.status_code, health.json()) == (503, {"status": "starting"})
            assert client.get("/other").status_code == 404


@contextmanager
def haproxy(script: Path, port: int, configuration: str) -> Iterator[None]:
    """Runs HAProxy by the script, on this port."""
    file = script.with_name("haproxy.cfg")
    file.write_text(configuration.replace("8123", str(port)).replace("    mode", "    timeout connect 5s\n    mode"))
    process = subprocess.Popen([script, "-db", "-f", file], stderr=subprocess.PIPE)
    try:
        wait_until(lambda: is_listening(port), within_s=60)
        yield
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def replica(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A server that reads each request as far as it comes in one piece, answers and closes: its port, and the
    requests."""
    requests: list[bytes] = []

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                if not (request := connection.recv(4096)):  # at the end
                    return
                requests.append(request)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], requests
        socket.create_connection(listener.getsockname()).close()
        thread.join()


def test_a_request_whose_replica_ends_before_its_answer_goes_to_another_once(tmp_path: Path) -> None:
    port = front.free_port()
    variables = front.environment(tmp_path, Settings(model=tmp_path, port=port))
    retrying = f"""    option redispatch 1
    retry-on {variables["RAY_SERVE_HAPROXY_RETRY_ON"]}
    retries {variables["RAY_SERVE_HAPROXY_RETRIES"]}
"""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    for answer_of_second, status in ((answer, 200), (b"", 502)):
        with replica(b"") as (first_port, first), replica(answer_of_second) as (second_port, second):
            servers = f"    server a 127.0.0.1:{first_port}\n    server b 127.0.0.1:{second_port}\n"
            pair = f"backend pair\n{retrying}{servers}listen stats"
            configuration = CONFIGURATION.replace("    default_backend default_backend", "    default_backend pair")
            with haproxy(Path(variables["RAY_SERVE_HAPROXY_BINARY_PATH"]), port,
                         configuration.replace("listen stats", pair)):  # fmt: skip
                assert send_in_two_pieces(port, head, b"body") == status
        assert first == second and len(first) == 1 and first[0].endswith(b"\r\n\r\nbody")


def send_in_two_pieces(port: int, head: bytes, body: bytes) -> int:
    """Sends a request, whose body follows its head a moment later; returns the response's status."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head)
        time.sleep(0.1)
        connection.sendall(body)
        return int(connection.recv(4096).split()[1])


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_ends_a_client_that_sends_its_headers_slowly(served: Served) -> None:
    """However often a byte comes: the time limit (2 s here) is for all headers together."""
    assert send_headers_slowly(int(served.server.url.rpartition(":")[2])).startswith(b"HTTP/1.1 408 ")
    assert served.client.get("/health").status_code == 200
