"""Memory of a server under a steady load: whether it stays flat, as a slope in MB an hour.

    python -m tests.benchmarks.serving_soak [--minutes 60] [--each-s 0.5] [--peer vllm] [--json]

One replica with a guard and scores of replies, a streamed reply of 16 tokens begun every `--each-s` seconds, and
feedback to every tenth; a reply that is not whole, or whose feedback is not stored, counts as failed. Before, what is
of limited size is filled: the replies that a server remembers, texts and words that its guard has seen, and oneDNN's
compiled products, of which vLLM keeps 32 of each layer's shape, one for each number of rows. Replies of 1 to 64 tokens,
64 at once, take the engine through all of them. Anonymous memory of every process of the server is then read once in 15
seconds; the slope is a least-squares line over the second half. With `--peer vllm`, vLLM's own server gets the same
load afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
import psutil

from serve.gateway.feedback import MAX_RECENT_REPLIES
from serve.gateway.guard import MAX_REMEMBERED
from serve.hosting.server import start
from serve.settings import Settings
from tests.benchmarks import bench_model, goals
from tests.benchmarks.serving import bare, write_guard
from tests.runs import session_marks, session_pids

SAMPLE_S, REPLY_TOKENS, FEEDBACK_EVERY = 15, 16, 10
FILLING_REPLIES, FILLING_IN_FLIGHT = max(MAX_RECENT_REPLIES, MAX_REMEMBERED) + 500, 64


def memory() -> dict[str, int]:
    """Anonymous bytes of this process's children by kind: the first word of its command line, or the title of a Ray
    worker."""
    children = psutil.Process().children(recursive=True)
    pids = {*(child.pid for child in children), *session_pids(session_marks(os.getpid()))}
    sizes: dict[str, int] = defaultdict(int)
    for pid in pids:
        try:
            process = psutil.Process(pid)
            used = process.memory_info()
            kind = os.path.basename((process.cmdline() or ["?"])[0])
            sizes[kind.partition(".")[0]] += used.rss - used.shared  # Ray's titles end with the call that runs
        except psutil.Error:  # it has ended meanwhile
            continue
    return sizes


def slope_mb_an_hour(times_s: list[float], sizes: list[float]) -> float:
    """Slope of the least-squares line through the second half of the samples, in MB (10⁶ bytes) an hour."""
    half = len(times_s) // 2
    return float(np.polyfit(times_s[half:], sizes[half:], 1)[0]) * 3600 / 1e6


class Visitors:
    """Sends requests to a server, and counts what becomes of them. feedback: whether it takes feedback."""

    def __init__(self, url: str, model: str, *, feedback: bool):
        self._url, self._model, self._feedback = url, model, feedback
        self._conversations = bench_model.questions(64)
        self.outcomes: Counter[str] = Counter()

    async def fill(self) -> None:
        """Sends FILLING_REPLIES requests, so many at once, for replies of different lengths."""

        async def work() -> None:
            for number in numbers:
                await self._visit(session, number, 1 + number % FILLING_IN_FLIGHT)

        numbers: Iterator[int] = iter(range(FILLING_REPLIES))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(work() for _ in range(FILLING_IN_FLIGHT)))

    async def visit(self, seconds: float, each_s: float) -> None:
        """Begins a request every `each_s` seconds for so long, whatever has become of those before, and waits for the
        last."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            tasks: set[asyncio.Task[None]] = set()
            start_s, number = time.monotonic(), 0
            while (begin_s := number * each_s) < seconds:
                await asyncio.sleep(start_s + begin_s - time.monotonic())
                task = asyncio.create_task(self._visit(session, number, REPLY_TOKENS))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
            await asyncio.gather(*tasks)

    async def _visit(self, session: aiohttp.ClientSession, number: int, num_tokens: int) -> None:
        """One streamed reply, and to every tenth a thumb up."""
        body = {"model": self._model, "stream": True, "max_tokens": num_tokens, "min_tokens": num_tokens,
                "messages": self._conversations[number % len(self._conversations)].prompt}  # fmt: skip
        try:
            async with session.post(f"{self._url}/v1/chat/completions", json=body) as response:
                raw = await response.read()
            whole = response.status == 200 and raw.endswith(b"data: [DONE]\n\n") and b'"error":' not in raw
            if whole and self._feedback and number % FEEDBACK_EVERY == 0:
                first = next(line for line in raw.splitlines() if line.startswith(b"data: {"))
                feedback = {"reply_id": json.loads(first.removeprefix(b"data: "))["id"], "thumb": "up"}
                async with session.post(f"{self._url}/feedback", json=feedback) as response:
                    self.outcomes["feedback" if response.status == 200 else f"feedback {response.status}"] += 1
                    whole = response.status == 200
            if not whole:
                print(f"failed: {response.status} {raw[-300:]!r}", flush=True)
            self.outcomes["whole" if whole else "failed"] += 1
        except (aiohttp.ClientError, TimeoutError) as error:  # the latter is the time limit of a whole request
            print(f"failed: {error!r}", flush=True)
            self.outcomes["failed"] += 1


async def sample(seconds: float) -> tuple[list[float], list[dict[str, int]]]:
    """Reads the memory of the server once in SAMPLE_S."""
    times_s: list[float] = []
    sizes: list[dict[str, int]] = []
    began_s = time.monotonic()
    while time.monotonic() < began_s + seconds:
        sizes.append(await asyncio.to_thread(memory))
        times_s.append(time.monotonic() - began_s)
        await asyncio.sleep(SAMPLE_S)
    return times_s, sizes


async def soak(visitors: Visitors, seconds: float, each_s: float) -> dict[str, float]:
    """The figures of one server under load; prints those of its processes."""
    before = sum(memory().values())
    await visitors.fill()
    print(f"filled: {dict(visitors.outcomes)}", flush=True)
    visitors.outcomes.clear()
    (times_s, sizes), _ = await asyncio.gather(sample(seconds), visitors.visit(seconds, each_s))
    print(dict(visitors.outcomes), flush=True)
    for kind in sorted({kind for each in sizes for kind in each}):
        series = [each.get(kind, 0) for each in sizes]
        print(f"{kind:<42}{series[0] / 1e6:9.1f} {series[len(series) // 2] / 1e6:9.1f} {series[-1] / 1e6:9.1f} MB, "
              f"{slope_mb_an_hour(times_s, [float(size) for size in series]):+.1f} MB/h", flush=True)  # fmt: skip
    totals = [float(sum(each.values())) for each in sizes]
    return {
        "requests": visitors.outcomes["whole"] + visitors.outcomes["failed"],
        "failed": visitors.outcomes["failed"],
        "memory_ready_mb": before / 1e6,
        "memory_filled_mb": totals[0] / 1e6,
        "memory_half_mb": totals[len(totals) // 2] / 1e6,
        "memory_end_mb": totals[-1] / 1e6,
        "memory_mb_an_hour": slope_mb_an_hour(times_s, totals),
    }


def main(minutes: float = 60, each_s: float = 0.5, peer: str | None = None) -> dict[str, float]:
    """Measures soak/*: memory when ready, filled, at the half and at the end, the slope, and what became of the
    requests; with peer="vllm" those of vLLM's server too, soak/bare_*."""
    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as temporary:
        folder = Path(temporary)
        model, guard = bench_model.write(folder / "model"), write_guard(folder / "guard")
        settings = Settings(model=model, name="bench", port=0, logs=folder / "logs", guard_folder=guard,
                            feedback=folder / "feedback.sqlite", quality_sample=0.05)  # fmt: skip
        with start(settings) as server:
            measured = asyncio.run(soak(Visitors(server.url, "bench", feedback=True), 60 * minutes, each_s))
            figures = {f"soak/{name}": value for name, value in measured.items()}
        if peer is not None:
            with bare(settings, folder / "bare.log") as url:
                measured = asyncio.run(soak(Visitors(url, "bench", feedback=False), 60 * minutes, each_s))
                figures |= {f"soak/bare_{name}": value for name, value in measured.items()}
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--each-s", type=float, default=0.5)
    parser.add_argument("--peer", choices=["vllm"])
    goals.run(parser, main)
