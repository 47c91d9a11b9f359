"""Throughput of the server, at 1, 8 and 32 requests in flight, against bare vLLM's OpenAI server in the same run.

    python -m tests.benchmarks.serving [--rounds 2] [--reply-tokens 64] [--replicas 2] [--json]

Both have the same model, engine arguments, threads and client, and only one runs at a time: bare vLLM, ours under a
guard, ours without one, and so on in turn, since a shared machine is faster at one time than at another. Each is
started --rounds times, for a round of each level that does not count, in which the engine meets new shapes, and two
that do. Replies are streamed. The guard is trained as the stage does, with its encoder, but declines no reply, as these
are nonsense; requests are ordinary ones that it lets pass, each another, so that no verdict is remembered. Figures are
medians: of the rounds, and, for the time to a reply's first text, of all requests; those of the start and of the
guard's checks are the last start's. A guard holds a reply's text back until its first sentence is complete, so the
first text is compared without one. Goals: at least 0.95 of bare vLLM's tokens a second (0.9 through two replicas, of as
many bare servers), with the guard at least 0.9 of those without it, a first text after at most 1.2 times bare vLLM's
time, and a first request that takes at most 1.5 times as long as the tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import aiohttp

from cluster.resources import cores
from pipelines.data.dialogues import builtin_tasks
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.guard import encoder, training
from pipelines.stages.guard import GuardOptions
from serve.gateway.guard import GuardedReply, check_prompt, open_guard
from serve.hosting.engine import engine_arguments, engine_environment
from serve.hosting.front import free_port
from serve.hosting.server import start
from serve.settings import Replicas, Settings
from tests.benchmarks import bench_model, goals

LEVELS = {1: 8, 8: 40, 32: 96}  # requests in flight: requests of a round
ROUNDS_A_START = 2  # beside the first, which does not count
READY_TIMEOUT_S = 600.0
FIRST_TEXT = re.compile(rb'"content": ?"[^"]')  # the role comes before, with an empty text


@dataclass
class Measured:
    """What was measured of one server, by the number of requests in flight: tokens a second of each round, and seconds
    from each request to the first text of its reply."""

    rates: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    first_text_s: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def figures(self, suffix: str) -> dict[str, float]:
        """serve/tokens_per_s<suffix>_N, the median of the rounds, and the median serve/first_text<suffix>_N_ms."""
        return {f"serve/tokens_per_s{suffix}_{level}": median(rates) for level, rates in self.rates.items()} | {
            f"serve/first_text{suffix}_{level}_ms": 1000 * median(times) for level, times in self.first_text_s.items()
        }


# ---- servers ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bare(settings: Settings, log: Path) -> Iterator[str]:
    """Runs vLLM's OpenAI server on loopback; yields its URL."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(settings.model)]
    command += ["--served-model-name", settings.name, "--host", "127.0.0.1", "--port", str(port)]
    for name, value in engine_arguments(settings).items():
        option = f"--{name.replace('_', '-')}"
        if name not in ("allowed_origins", "disable_log_stats", "enforce_eager"):
            command += [option, str(value)]
    command += ["--enforce-eager", "--uvicorn-log-level", "warning"]
    with log.open("w") as out:
        environment = os.environ | engine_environment(settings)
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
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
    """Raises RuntimeError where the server ends, or is not ready within READY_TIMEOUT_S."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=30):
                return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"vLLM's server did not come up: {log.read_text(errors='replace')[-2000:]}")


# ---- the client ------------------------------------------------------------------------------------------------------


class Client:
    """Requests streamed replies of exactly reply_tokens tokens, and parses none before it is complete, but for the time
    of its first text."""

    def __init__(self, urls: Sequence[str], model: str, conversations: Sequence[Conversation], reply_tokens: int):
        self._urls, self._conversations, self._tokens = urls, conversations, reply_tokens
        self._numbers = itertools.count()
        self._body = {
            "model": model, "stream": True, "stream_options": {"include_usage": True}, "temperature": 1.0,
            "max_tokens": reply_tokens, "min_tokens": reply_tokens,
        }  # fmt: skip

    async def request(self, session: aiohttp.ClientSession, number: int) -> float:
        """Requests one reply; returns the seconds to its first text. Raises RuntimeError where it does not have the
        requested length."""
        messages = self._conversations[number % len(self._conversations)].prompt
        url = f"{self._urls[number % len(self._urls)]}/v1/chat/completions"
        start_s, first_text_s, raw = time.perf_counter(), 0.0, b""
        async with session.post(url, json=self._body | {"messages": messages}) as response:
            async for part in response.content.iter_any():
                raw += part
                if not first_text_s and FIRST_TEXT.search(raw):
                    first_text_s = time.perf_counter() - start_s
        events = [line for line in raw.splitlines() if line.startswith(b"data: {")]
        usage = json.loads(events[-1].removeprefix(b"data: ")).get("usage") if events else None
        if not first_text_s or not usage or usage["completion_tokens"] != self._tokens or b'"rayse_guard"' in raw:
            raise RuntimeError(f"{url}: expected {self._tokens} tokens, got {response.status} {raw[-500:]!r}")
        return first_text_s

    async def one_by_one(self, count: int) -> list[float]:
        """Seconds of each of `count` requests, one after the other."""
        times_s = []
        async with aiohttp.ClientSession() as session:
            for number in itertools.islice(self._numbers, count):
                start_s = time.perf_counter()
                await self.request(session, number)
                times_s.append(time.perf_counter() - start_s)
        return times_s

    async def run_round(self, in_flight: int, count: int, measured: Measured) -> None:
        """Sends `count` requests, of which in_flight run at a time."""
        numbers = itertools.islice(self._numbers, count)

        async def work(session: aiohttp.ClientSession) -> None:
            for number in numbers:
                measured.first_text_s[in_flight].append(await self.request(session, number))

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            start_s = time.perf_counter()
            await asyncio.gather(*(work(session) for _ in range(in_flight)))
            measured.rates[in_flight].append(count * self._tokens / (time.perf_counter() - start_s))

    def rounds(self, measured: Measured) -> None:
        """Runs the rounds of one start, each of every level."""
        for number in range(1 + ROUNDS_A_START):
            for level, count in LEVELS.items():
                asyncio.run(self.run_round(level, count, measured if number else Measured()))


# ---- the guard -------------------------------------------------------------------------------------------------------


def write_guard(folder: Path) -> Path:
    """Writes a guard as the stage makes it of the built-in conversations; it declines no reply by its words."""
    options = GuardOptions.model_validate({})
    train, held_out = builtin_tasks.make_conversations(rows=400, held_out_rows=100, seed=7)
    texts = training.training_texts(train, held_out, max_harmless=options.harmless_texts, seed=7)
    guard = training.train_guard(texts, beta=options.beta, encoder=encoder.TRAINED)
    replace(guard, reply_thresholds=dict.fromkeys(guard.thresholds, 1.0)).save(folder)
    return folder


def guard_ms(folder: Path, conversations: Sequence[Conversation], num_chunks: int) -> float:
    """Milliseconds that the guard takes for a request, on average: its prompt, and a reply that grows by num_chunks
    chunks. The first request, for which the encoder is read, doesn't count."""
    guard, text, times_s = open_guard(folder), bench_model.texts()[-1], []
    for number, conversation in enumerate(conversations[:65]):
        chunks = [text[2 * index : 2 * index + 2] for index in range(number, number + num_chunks)]
        start_s = time.perf_counter()
        check_prompt(guard, [conversation.prompt])
        reply = GuardedReply(guard)
        for index, chunk in enumerate(chunks):
            reply.append(chunk, last=index == num_chunks - 1)
        times_s.append(time.perf_counter() - start_s)
    return 1000 * mean(times_s[1:])


def metric_text(url: str) -> str:
    """The metrics of the server, in Prometheus' format."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        return response.read().decode()


def metric(url: str, name: str) -> float:
    """A metric of the server, summed over its labels."""
    lines = metric_text(url).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


# ---- both ------------------------------------------------------------------------------------------------------------


def ours(
    settings: Settings, conversations: Sequence[Conversation], reply_tokens: int, measured: Measured
) -> dict[str, float]:
    """Runs our server; adds to `measured`, and returns its other figures."""
    with start(settings) as server:
        client = Client([server.url], settings.name, conversations, reply_tokens)
        times_s = asyncio.run(client.one_by_one(10))
        client.rounds(measured)
        prompt_s = metric(server.url, "rayse_guard_seconds_sum") / metric(server.url, "rayse_guard_seconds_count")
        return {
            "serve/ready_s": server.ready_s,
            "serve/first_request_s": times_s[0],
            "serve/first_over_tenth": times_s[0] / times_s[9],
            "serve/guard_prompt_ms": 1000 * prompt_s,
        }


def vllms(settings: Settings, conversations: Sequence[Conversation], reply_tokens: int, measured: Measured) -> None:
    """Runs as many of vLLM's servers as ours has replicas, to which requests go in turn; adds to `measured`."""
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="rayse-bench-") as logs:
        count = settings.replicas.max
        urls = [stack.enter_context(bare(settings, Path(logs) / f"bare-{number}.log")) for number in range(count)]
        client = Client(urls, settings.name, conversations, reply_tokens)
        asyncio.run(client.one_by_one(10))  # as many as ours gets
        client.rounds(measured)


def main(rounds: int = 2, reply_tokens: int = 64, replicas: int = 1) -> dict[str, float]:
    """Measures both: serve/tokens_per_s_N and serve/first_text_N_ms, of bare vLLM serve/tokens_per_s_bare_N …, of ours
    without a guard serve/tokens_per_s_unguarded_N …, their ratios, and figures that explain them. N: requests in
    flight. rounds: starts of each. replicas: of ours, and as many bare servers; with several, names begin with
    serve_R_replicas/."""
    measured = {side: Measured() for side in ("bare", "ours", "unguarded")}
    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as temporary:
        folder = Path(temporary)
        model, guard = bench_model.write(folder / "model"), write_guard(folder / "guard")
        passes = open_guard(guard).check
        conversations = [each for each in bench_model.ordinary_questions() if passes(each.prompt[0]["content"]).allowed]
        settings = Settings(model=model, name="bench", port=0, guard_folder=guard, logs=folder / "logs",
                            threads=max(1, cores() // replicas),
                            replicas=Replicas(min=replicas, max=replicas))  # fmt: skip
        figures: dict[str, Any] = {"serve/guard_ms": guard_ms(guard, conversations, reply_tokens)}
        for turn in ("bare", "ours", "unguarded") * rounds:
            if turn == "bare":
                vllms(settings, conversations, reply_tokens, measured[turn])
            elif turn == "ours":
                figures |= ours(settings, conversations, reply_tokens, measured[turn])
            else:
                unguarded = settings.model_copy(update={"guard": False})
                ours(unguarded, conversations, reply_tokens, measured[turn])
            rounded = {level: [round(rate) for rate in rates] for level, rates in measured[turn].rates.items()}
            print(f"{turn}: tokens/s of each round, by requests in flight: {rounded}", flush=True)
    for side, suffix in (("ours", ""), ("unguarded", "_unguarded"), ("bare", "_bare")):
        figures |= measured[side].figures(suffix)
    for level in LEVELS:
        tokens_per_s = figures[f"serve/tokens_per_s_{level}"]
        figures[f"serve/ratio_to_bare_{level}"] = tokens_per_s / figures[f"serve/tokens_per_s_bare_{level}"]
        figures[f"serve/ratio_to_unguarded_{level}"] = tokens_per_s / figures[f"serve/tokens_per_s_unguarded_{level}"]
        first_text_ms = figures[f"serve/first_text_unguarded_{level}_ms"]
        figures[f"serve/first_text_over_bare_{level}"] = first_text_ms / figures[f"serve/first_text_bare_{level}_ms"]
    if replicas > 1:
        return {name.replace("serve/", f"serve_{replicas}_replicas/"): value for name, value in figures.items()}
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--reply-tokens", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=1)
    goals.run(parser, main)
