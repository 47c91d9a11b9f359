"""Requests that fail while a server is disturbed: another version takes over, a replica is killed, clients are slow.

    python -m tests.benchmarks.serving_failures [--requests 2000] [--in-flight 8] [--json]

Two replicas and a steady load. A request is sent again where its connection broke, or the server said 502 to 504,
before the first token came; every other outcome than a whole reply counts as failed. Goal: 0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp
import psutil

from serve.hosting.app import host
from serve.hosting.server import Server, start
from serve.settings import Replicas, Settings
from tests.benchmarks import bench_model, goals
from tests.runs import session_marks, session_pids

MAX_TRIES = 20
RETRY_S = 0.5
REPLY_TOKENS = 16
SLOW_CONNECTIONS, IDLE_CONNECTIONS = 50, 200


class Load:
    """A steady load of streamed replies on a server; counts whole replies, failures and requests sent again."""

    def __init__(self, url: str, model: str, num_requests: int, in_flight: int):
        self._url, self._in_flight, self._numbers = f"{url}/v1/chat/completions", in_flight, iter(range(num_requests))
        self._body = {"model": model, "stream": True, "max_tokens": REPLY_TOKENS, "min_tokens": REPLY_TOKENS}
        self._conversations = bench_model.questions(64)
        self.outcomes: Counter[str] = Counter()

    async def run(self, after: int, disturb: Callable[[], object]) -> None:
        """Sends all requests; calls `disturb` in a thread once `after` of them have ended."""
        begun = False

        async def work(session: aiohttp.ClientSession) -> None:
            nonlocal begun
            for number in self._numbers:
                self.outcomes[await self._request(session, number)] += 1
                if not begun and self.outcomes.total() >= after:
                    begun = True
                    disturbances.append(asyncio.create_task(asyncio.to_thread(disturb)))

        disturbances: list[asyncio.Task[object]] = []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(work(session) for _ in range(self._in_flight)))
        await asyncio.gather(*disturbances)

    async def _request(self, session: aiohttp.ClientSession, number: int) -> str:
        messages = self._conversations[number % len(self._conversations)].prompt
        for _ in range(MAX_TRIES):
            text = b""
            try:
                async with session.post(self._url, json=self._body | {"messages": messages}) as response:
                    if response.status in (502, 503, 504):
                        raise ConnectionError(response.status)
                    async for chunk in response.content.iter_any():
                        text += chunk
                    if response.status == 200 and text.endswith(b"data: [DONE]\n\n") and b'"error"' not in text:
                        return "whole"
                    return "failed"
            except (aiohttp.ClientError, ConnectionError):
                if text:  # its reader has seen a part
                    return "failed"
                self.outcomes["again"] += 1
                await asyncio.sleep(RETRY_S)
        return "failed"

    @property
    def figures(self) -> dict[str, float]:
        return {"requests": self.outcomes["whole"] + self.outcomes["failed"], "failed": self.outcomes["failed"],
                "again": self.outcomes["again"]}  # fmt: skip


def kill_a_replica(server: Server) -> None:
    """Kills the process of one replica (kill -9)."""
    pids = session_pids(session_marks(server.process.pid))
    replicas = [pid for pid in pids if psutil.pid_exists(pid) and "Replica" in " ".join(psutil.Process(pid).cmdline())]
    os.kill(replicas[0], signal.SIGKILL)


def hold_connections(server: Server, num_slow: int, num_idle: int) -> list[socket.socket]:
    """Opens connections that send nothing, and ones that have sent the beginning of their headers."""
    port = int(server.url.rpartition(":")[2])
    connections = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(num_slow + num_idle)]
    for connection in connections[:num_slow]:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    return connections


def disturbed(settings: Settings, num_requests: int, in_flight: int) -> dict[str, float]:
    """kill -9 of one of two replicas, and slow and idle connections: one server for both."""
    figures: dict[str, float] = {}
    with start(settings) as server:
        load = Load(server.url, settings.name, num_requests, in_flight)
        asyncio.run(load.run(num_requests // 10, lambda: kill_a_replica(server)))
        figures |= {f"serve/killed_{name}": value for name, value in load.figures.items()}
        load = Load(server.url, settings.name, num_requests // 10, in_flight)
        with contextlib.ExitStack() as stack:
            for connection in hold_connections(server, SLOW_CONNECTIONS, IDLE_CONNECTIONS):
                stack.enter_context(connection)
            asyncio.run(load.run(num_requests, lambda: None))
        figures |= {f"serve/slow_clients_{name}": value for name, value in load.figures.items()}
    return figures


def switched(settings: Settings, num_requests: int, in_flight: int) -> dict[str, float]:
    """Another version takes over under load."""
    ready, stop, switch, moved = (threading.Event() for _ in range(4))
    urls: list[str] = []
    following = [settings.model_copy(update={"version": "second"})]

    def report_ready(url: str, ready_s: float) -> None:
        urls.append(url)
        ready.set()

    def follow() -> Settings | None:
        if switch.is_set() and following:
            return following.pop()
        if not following:
            moved.set()
        return None

    figures: dict[str, float] = {}

    def send() -> None:
        ready.wait()
        load = Load(urls[0], settings.name, num_requests, in_flight)
        asyncio.run(load.run(num_requests // 10, switch.set))
        moved.wait()
        stop.set()
        figures.update({f"serve/switched_{name}": value for name, value in load.figures.items()})

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    host(settings, stop=stop, on_ready=report_ready, follow=follow)  # in the main thread, as Ray's daemons need it
    thread.join()
    return figures


def main(requests: int = 2000, in_flight: int = 8) -> dict[str, float]:
    """Measures serve/{killed,slow_clients,switched}_{requests,failed,again}."""
    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as temporary:
        folder = Path(temporary)
        model = bench_model.write(folder / "model")
        settings = Settings(model=model, name="bench", version="first", port=0, replicas=Replicas(min=2, max=2),
                            logs=folder / "logs")  # fmt: skip
        return disturbed(settings, requests, in_flight) | switched(settings, requests, in_flight)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    arguments = vars(parser.parse_args())
    as_json = arguments.pop("json")
    measured = main(**arguments)
    print(json.dumps(measured)) if as_json else goals.print_figures(measured)
