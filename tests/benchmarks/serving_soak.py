"""Memory of a server under a steady load: whether it stays flat, as a slope in MB an hour.

    python -m tests.benchmarks.serving_soak [--minutes 60] [--each-s 0.5] [--json]

One replica with a guard and scores of replies, a streamed reply of 16 tokens begun every `--each-s` seconds, and
feedback to every tenth; a reply that is not whole, or whose feedback is not stored, counts as failed. Anonymous memory
of every process of the server is read once in 15 seconds; the slope is a least-squares line over the second half, when
caches have filled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import aiohttp
import numpy as np
import psutil

from serve.hosting.server import Server, start
from serve.settings import Settings
from tests.benchmarks import bench_model, goals
from tests.benchmarks.serving import write_guard
from tests.runs import session_marks, session_pids

SAMPLE_S, REPLY_TOKENS, FEEDBACK_EVERY = 15, 16, 10


def memory(server: Server) -> dict[str, int]:
    """Anonymous bytes by kind of process: the first word of its command line, or the title of a Ray worker."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    pids = {server.process.pid, *(child.pid for child in children), *session_pids(session_marks(server.process.pid))}
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
    """Begins a request every `each_s` seconds, whatever has become of those before."""

    def __init__(self, server: Server, model: str, each_s: float):
        self._url, self._model, self._each_s = server.url, model, each_s
        self._conversations = bench_model.questions(64)
        self.outcomes: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Sends requests for so long, and waits for the last."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            tasks: set[asyncio.Task[None]] = set()
            end_s, number = time.monotonic() + seconds, 0
            while time.monotonic() < end_s:
                task = asyncio.create_task(self._visit(session, number))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
                await asyncio.sleep(self._each_s)
            await asyncio.gather(*tasks)

    async def _visit(self, session: aiohttp.ClientSession, number: int) -> None:
        """One streamed reply, and to every tenth a thumb up."""
        prompt = self._conversations[number % len(self._conversations)].prompt
        body = {"model": self._model, "stream": True, "max_tokens": REPLY_TOKENS, "messages": prompt}
        try:
            async with session.post(f"{self._url}/v1/chat/completions", json=body) as response:
                raw = await response.read()
            whole = response.status == 200 and raw.endswith(b"data: [DONE]\n\n") and b'"error":' not in raw
            if whole and number % FEEDBACK_EVERY == 0:
                first = next(line for line in raw.splitlines() if line.startswith(b"data: {"))
                feedback = {"reply_id": json.loads(first.removeprefix(b"data: "))["id"], "thumb": "up"}
                async with session.post(f"{self._url}/feedback", json=feedback) as response:
                    self.outcomes["feedback" if response.status == 200 else f"feedback {response.status}"] += 1
                    whole = response.status == 200
            self.outcomes["whole" if whole else "failed"] += 1
        except (aiohttp.ClientError, TimeoutError):  # the latter is the time limit of a whole request
            self.outcomes["failed"] += 1


async def sample(server: Server, seconds: float) -> tuple[list[float], list[dict[str, int]]]:
    """Reads the memory of the server once in SAMPLE_S."""
    times_s: list[float] = []
    sizes: list[dict[str, int]] = []
    began_s = time.monotonic()
    while time.monotonic() < began_s + seconds:
        sizes.append(await asyncio.to_thread(memory, server))
        times_s.append(time.monotonic() - began_s)
        await asyncio.sleep(SAMPLE_S)
    return times_s, sizes


def main(minutes: float = 60, each_s: float = 0.5) -> dict[str, float]:
    """Measures soak/*: the slope, memory at the half and at the end, and what became of the requests."""
    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as temporary:
        folder = Path(temporary)
        model, guard = bench_model.write(folder / "model"), write_guard(folder / "guard")
        settings = Settings(model=model, name="bench", port=0, logs=folder / "logs", guard_folder=guard,
                            feedback=folder / "feedback.sqlite", quality_sample=0.05)  # fmt: skip
        with start(settings) as server:
            visitors = Visitors(server, settings.name, each_s)

            async def both() -> tuple[list[float], list[dict[str, int]]]:
                samples, _ = await asyncio.gather(sample(server, 60 * minutes), visitors.run(60 * minutes))
                return samples

            times_s, sizes = asyncio.run(both())
    print(dict(visitors.outcomes), flush=True)
    for kind in sorted({kind for each in sizes for kind in each}):
        series = [each.get(kind, 0) for each in sizes]
        print(f"{kind:<42}{series[0] / 1e6:9.1f} {series[len(series) // 2] / 1e6:9.1f} {series[-1] / 1e6:9.1f} MB, "
              f"{slope_mb_an_hour(times_s, [float(size) for size in series]):+.1f} MB/h", flush=True)  # fmt: skip
    totals = [float(sum(each.values())) for each in sizes]
    return {
        "soak/requests": visitors.outcomes["whole"] + visitors.outcomes["failed"],
        "soak/failed": visitors.outcomes["failed"],
        "soak/memory_half_mb": totals[len(totals) // 2] / 1e6,
        "soak/memory_end_mb": totals[-1] / 1e6,
        "soak/memory_mb_an_hour": slope_mb_an_hour(times_s, totals),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--each-s", type=float, default=0.5)
    goals.run(parser, main)
