"""Tokens a second of the server, at 1, 8 and 32 requests at once, against bare vLLM's own OpenAI server, same run.

    python -m tests.benchmarks.serving [--rounds 2] [--reply-tokens 64]

The same model, engine arguments, threads and client; only one of the two is up at a time: bare vLLM, ours, bare vLLM
again. Replies are streamed, under a guard of the usual size, and the best round of each counts. Goal: a ratio of 0.8 or
more, and a first request that takes at most twice the tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import numpy as np

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.guard.judge import BUCKETS, Guard
from serve.gateway import guard as guards
from serve.hosting.app import engine_arguments, engine_environment
from serve.hosting.front import free_port
from serve.hosting.server import start
from serve.settings import Settings
from tests.benchmarks import bench_model, goals

LEVELS = {1: 8, 8: 40, 32: 96}  # requests at once, and in a round
READY_S = 600.0
Rates = dict[int, list[float]]
"""Tokens a second of each round, by how many requests are at work at once."""


# ---- servers ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bare(settings: Settings, log: Path) -> Iterator[str]:
    """vLLM's own server, as it comes, on loopback; yields its address."""
    port = free_port()
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(settings.model)]
    words += ["--served-model-name", settings.name, "--host", "127.0.0.1", "--port", str(port)]
    for name, value in engine_arguments(settings).items():
        option = f"--{name.replace('_', '-')}"
        if name not in ("allowed_origins", "disable_log_stats", "enforce_eager"):
            words += [option, str(value)]
    words += ["--enforce-eager", "--uvicorn-log-level", "warning"]
    with log.open("w") as out:
        variables = os.environ | engine_environment(settings)
        process = subprocess.Popen(words, stdout=out, stderr=out, env=variables, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            print(f"vLLM's server did not stop by itself; its log: {log}")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its engine too, which outlives a server that is killed
        process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises RuntimeError where it ends, or says nothing for READY_S."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=30):
                return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"vLLM's server did not come up: {log.read_text(errors='replace')[-2000:]}")


# ---- the client ------------------------------------------------------------------------------------------------------


class Client:
    """Asks for streamed replies of exactly so many tokens. It reads them without looking until the last is there."""

    def __init__(self, url: str, model: str, asked: Sequence[Conversation], reply_tokens: int):
        self._url, self._asked, self._tokens = f"{url}/v1/chat/completions", asked, reply_tokens
        self._body = {
            "model": model, "stream": True, "stream_options": {"include_usage": True}, "temperature": 1.0,
            "max_tokens": reply_tokens, "min_tokens": reply_tokens,
        }  # fmt: skip

    async def ask(self, session: aiohttp.ClientSession, number: int) -> None:
        """One reply. Raises RuntimeError where it is not as long as it was asked to be."""
        messages = self._asked[number % len(self._asked)].prompt
        async with session.post(self._url, json=self._body | {"messages": messages}) as answered:
            raw = await answered.read()
        events = [line for line in raw.splitlines() if line.startswith(b"data: {")]
        usage = json.loads(events[-1].removeprefix(b"data: ")).get("usage") if events else None
        if not usage or usage["completion_tokens"] != self._tokens or b'"rayse_guard"' in raw:
            raise RuntimeError(f"{self._url}: expected {self._tokens} tokens, got {answered.status} {raw[-500:]!r}")

    async def one_by_one(self, count: int) -> list[float]:
        """Seconds of each of so many requests, one after the other."""
        took = []
        async with aiohttp.ClientSession() as session:
            for number in range(count):
                begin = time.perf_counter()
                await self.ask(session, number)
                took.append(time.perf_counter() - begin)
        return took

    async def rate(self, at_once: int, count: int) -> float:
        """Tokens a second of so many requests, of which at_once are always at work."""
        numbers = iter(range(count))

        async def work(session: aiohttp.ClientSession) -> None:
            for number in numbers:
                await self.ask(session, number)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            begin = time.perf_counter()
            await asyncio.gather(*(work(session) for _ in range(at_once)))
            return count * self._tokens / (time.perf_counter() - begin)

    def rounds(self, rounds: int, rates: Rates) -> None:
        """Adds a rate of every level, so many times."""
        for _ in range(rounds):
            for level, count in LEVELS.items():
                rates[level].append(asyncio.run(self.rate(level, count)))


# ---- the guard -------------------------------------------------------------------------------------------------------


def write_guard(folder: Path) -> Path:
    """A guard as large as the stage makes it, which finds nothing: what it costs does not depend on its weights."""
    Guard(np.zeros(BUCKETS, np.float32), -9.0, {"en": 0.5, "zh": 0.5}).save(folder)
    return folder


def guard_ms(folder: Path, questions: Sequence[Conversation], num_pieces: int) -> float:
    """Milliseconds of a request: its question, and a reply of so many tokens as it grows."""
    judge, text, took = guards.judge(folder), bench_model.texts()[-1], []
    for number, one in enumerate(questions):
        pieces = [text[2 * place : 2 * place + 2] for place in range(number, number + num_pieces)]
        begin = time.perf_counter()
        guards.declined(judge, one.prompt[-1]["content"])
        watch = guards.Watch(judge)
        for place, piece in enumerate(pieces):
            watch.push(piece, last=place == num_pieces - 1)
        took.append(time.perf_counter() - begin)
    return 1000 * median(took)


def metric(url: str, name: str) -> float:
    """A metric of the server, summed over its labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answered:
        lines = answered.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


# ---- both ------------------------------------------------------------------------------------------------------------


def ours(settings: Settings, asked: Sequence[Conversation], tokens: int, rounds: int, rates: Rates) -> dict[str, float]:
    """The server's own figures; its rates go into `rates`."""
    with start(settings) as server:
        client = Client(server.url, settings.name, asked, tokens)
        took = asyncio.run(client.one_by_one(10))
        client.rounds(rounds, rates)
        question_s = metric(server.url, "rayse_guard_seconds_sum") / metric(server.url, "rayse_guard_seconds_count")
        return {
            "serve/ready_s": server.ready_s,
            "serve/first_request_s": took[0],
            "serve/first_over_tenth": took[0] / took[9],
            "serve/guard_question_ms": 1000 * question_s,
        }


def main(rounds: int = 2, reply_tokens: int = 64) -> dict[str, float]:
    """Measures both: serve/tokens_per_s_N, serve/tokens_per_s_bare_N, serve/ratio_to_bare_N, and what explains them."""
    asked = bench_model.questions(64)
    found: Mapping[str, Rates] = {"ours": defaultdict(list), "bare": defaultdict(list)}
    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as place:
        folder = Path(place)
        model, guard = bench_model.write(folder / "model"), write_guard(folder / "guard")
        settings = Settings(model=model, name="bench", port=0, guard_folder=guard, logs=folder / "logs")
        figures: dict[str, Any] = {"serve/guard_ms": guard_ms(guard, asked, reply_tokens)}
        for turn in ("bare", "ours", "bare"):
            if turn == "ours":
                figures |= ours(settings, asked, reply_tokens, 2 * rounds, found["ours"])
            else:
                with bare(settings, folder / "bare.log") as url:
                    client = Client(url, settings.name, asked, reply_tokens)
                    asyncio.run(client.one_by_one(10))  # as many as ours has had
                    client.rounds(rounds, found["bare"])
            rates = {level: [round(each) for each in own] for level, own in found[turn].items()}
            print(f"{turn}: tokens/s of each round, by requests at once: {rates}", flush=True)
    best = {side: {level: max(each) for level, each in rates.items()} for side, rates in found.items()}
    for level in LEVELS:
        figures[f"serve/tokens_per_s_{level}"] = best["ours"][level]
        figures[f"serve/tokens_per_s_bare_{level}"] = best["bare"][level]
        figures[f"serve/ratio_to_bare_{level}"] = best["ours"][level] / best["bare"][level]
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--reply-tokens", type=int, default=64)
    goals.print_figures(main(**vars(parser.parse_args())))
