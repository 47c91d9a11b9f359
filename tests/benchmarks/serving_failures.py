"""Requests that fail while a server is disturbed: another version takes over, a replica is killed, clients are slow.

    python -m tests.benchmarks.serving_failures [--requests 2000] [--in-flight 8] [--json]

Two replicas and a steady load. A request is sent again where its connection broke, or the server said 502 to 504,
before the first token came (again). Where a stream breaks after that, the client sends the conversation with what it
has of the reply as the assistant's last message, and gets the rest (cut). Every other outcome than a whole reply counts
as failed. Goal: 0, and none again or cut but where a replica is killed. With 1,000 idle connections and 300 that have
sent half of their headers, and that are opened again as the server ends them, the median time of a reply is compared
with that of a round before and one after.
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
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median

import aiohttp

from serve.hosting.app import host
from serve.hosting.server import Server, start
from serve.settings import Replicas, Settings
from tests.benchmarks import bench_model, goals
from tests.benchmarks.serving import write_guard
from tests.runs import replicas

MAX_TRIES = 20
RETRY_S = 0.5
REPLY_TOKENS = 16
SLOW_CONNECTIONS, IDLE_CONNECTIONS = 300, 1000
HALF_HEADERS = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


class Load:
    """A steady load of streamed replies on a server; counts whole replies, failures and requests sent again."""

    def __init__(self, url: str, model: str, num_requests: int, in_flight: int):
        self._url, self._in_flight, self._numbers = f"{url}/v1/chat/completions", in_flight, iter(range(num_requests))
        self._body = {"model": model, "stream": True, "max_tokens": REPLY_TOKENS, "min_tokens": REPLY_TOKENS}
        self._conversations = bench_model.questions(64)
        self.outcomes: Counter[str] = Counter()
        self.times_s: list[float] = []

    async def run(self, after: int, disturb: Callable[[], object]) -> None:
        """Sends all requests; calls `disturb` in a thread once `after` of them have ended."""
        begun = False

        async def work(session: aiohttp.ClientSession) -> None:
            nonlocal begun
            for number in self._numbers:
                start_s = time.perf_counter()
                self.outcomes[await self._request(session, number)] += 1
                self.times_s.append(time.perf_counter() - start_s)
                if not begun and len(self.times_s) >= after:
                    begun = True
                    disturbances.append(asyncio.create_task(asyncio.to_thread(disturb)))

        disturbances: list[asyncio.Task[object]] = []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(work(session) for _ in range(self._in_flight)))
        await asyncio.gather(*disturbances)

    async def _request(self, session: aiohttp.ClientSession, number: int) -> str:
        prompt, reply = self._conversations[number % len(self._conversations)].prompt, ""
        for _ in range(MAX_TRIES):
            begun = [{"role": "assistant", "content": reply}] if reply else []
            raw = b""
            try:
                async with session.post(self._url, json=self._body | {"messages": [*prompt, *begun]}) as response:
                    if response.status in (502, 503, 504):
                        raise ConnectionError(response.status)
                    async for chunk in response.content.iter_any():
                        raw += chunk
                    if response.status == 200 and raw.endswith(b"data: [DONE]\n\n") and b'"error":' not in raw:
                        return "whole"
                    return self._failed(f"{response.status} {raw[-300:]!r}")
            except (aiohttp.ClientError, ConnectionError) as error:
                text = text_of(raw)
                self.outcomes["cut" if text else "again"] += 1
                print(f"{'cut' if text else 'again'}: {error!r} after {text!r}", flush=True)
                reply += text
                await asyncio.sleep(RETRY_S)
            except TimeoutError as error:  # of the whole request, which hung
                return self._failed(f"{error!r} after {raw[-300:]!r}")
        return self._failed(f"no reply in {MAX_TRIES} tries")

    def _failed(self, reason: str) -> str:
        print(f"failed: {reason}", flush=True)
        return "failed"

    @property
    def figures(self) -> dict[str, float]:
        return {"requests": self.outcomes["whole"] + self.outcomes["failed"],
                **{name: self.outcomes[name] for name in ("failed", "again", "cut")}}  # fmt: skip


def text_of(raw: bytes) -> str:
    """The text of a streamed reply, as far as it came."""
    chunks = [json.loads(event[6:]) for event in raw.split(b"\n\n")[:-1] if event.startswith(b"data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk.get("choices"))


def kill_a_replica(server: Server) -> None:
    """Kills the process of one replica (kill -9)."""
    os.kill(replicas(server.process.pid)[0], signal.SIGKILL)


@contextlib.contextmanager
def connections(server: Server) -> Iterator[None]:
    """Keeps connections open that send nothing, and ones that send the first half of their headers alone."""
    address, stop = ("127.0.0.1", int(server.url.rpartition(":")[2])), threading.Event()

    def connect(is_slow: bool) -> socket.socket:
        connection = socket.create_connection(address, timeout=30)
        if is_slow:
            connection.sendall(HALF_HEADERS)
        connection.setblocking(False)
        return connection

    def hold() -> None:
        try:
            while not stop.wait(0.5):
                for number, connection in enumerate(held):
                    if is_closed(connection):
                        connection.close()
                        held[number] = connect(number < SLOW_CONNECTIONS)
        except OSError as error:  # the server takes no connection: raised in the main thread
            errors.append(error)

    errors: list[OSError] = []
    held = [connect(number < SLOW_CONNECTIONS) for number in range(SLOW_CONNECTIONS + IDLE_CONNECTIONS)]
    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for connection in held:
            connection.close()
    for error in errors:
        raise error


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection that does not block (an answer before the end is read, too)."""
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def disturbed(settings: Settings, num_requests: int, in_flight: int) -> dict[str, float]:
    """kill -9 of one of two replicas, and slow and idle connections: one server for both."""
    figures: dict[str, float] = {}
    with start(settings) as server:
        medians_ms = []
        for is_disturbed in (False, True, False):
            load = Load(server.url, settings.name, num_requests // 5, in_flight)
            with connections(server) if is_disturbed else contextlib.nullcontext():
                asyncio.run(load.run(num_requests, lambda: None))
            medians_ms.append(1000 * median(load.times_s))
            if is_disturbed:
                figures |= {f"serve/slow_clients_{name}": value for name, value in load.figures.items()}
        print(f"a reply's median time before, with, after slow and idle connections: {medians_ms} ms", flush=True)
        load = Load(server.url, settings.name, num_requests, in_flight)
        asyncio.run(load.run(num_requests // 10, lambda: kill_a_replica(server)))
        figures |= {f"serve/killed_{name}": value for name, value in load.figures.items()}
    return figures | {
        "serve/slow_clients_reply_ms": medians_ms[1],
        "serve/slow_clients_reply_over_undisturbed": medians_ms[1] / mean((medians_ms[0], medians_ms[2])),
    }


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
    """Measures serve/{killed,slow_clients,switched}_{requests,failed,again,cut}, and what slow clients cost others."""
    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as temporary:
        folder = Path(temporary)
        model = bench_model.write(folder / "model")
        settings = Settings(model=model, name="bench", version="first", port=0, replicas=Replicas(min=2, max=2),
                            guard_folder=write_guard(folder / "guard"), logs=folder / "logs")  # fmt: skip
        return disturbed(settings, requests, in_flight) | switched(settings, requests, in_flight)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=8)
    goals.run(parser, main)
