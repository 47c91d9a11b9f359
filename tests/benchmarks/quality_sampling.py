"""Cost of scoring replies: processor time and throughput with 5% of them scored against none, on one server, in turns.

    python -m tests.benchmarks.quality_sampling [--model FOLDER] [--fraction 0.05] [--rounds 6] [--json]

The server has the model twice, once without and once with scores (serve/gateway/quality.py); short rounds of both
alternate, so that what else the machine does meets both. A round ends when its last score is known. Default model: 125
million random weights, since a reply of a tiny model costs less than its score.

On a busy machine the throughput of two rounds differs by more than 3%, so the goal is of the processor time that
server, engine and scores take for a request: without scores at least 0.97 of that with them. On a server whose cores
are all busy that is the ratio of the throughputs.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from serve.gateway.guard import open_guard
from serve.gateway.quality import scores
from serve.hosting.server import start
from serve.settings import Settings
from serve.verbs.top import Sample, parse, total
from tests.benchmarks import bench_model, goals
from tests.benchmarks.serving import Client, Measured, metric_text, write_guard

IN_FLIGHT, REPLY_TOKENS = 16, 64


def score_ms(guard: Path) -> float:
    """CPU milliseconds of the scores of a reply of usual length, median."""
    opened, text, times_s = open_guard(guard), bench_model.texts()[-1], list[float]()
    for conversation in bench_model.questions(12):
        start_s = time.process_time()
        scores(conversation.prompt[-1]["content"], text[:300], opened)
        times_s.append(time.process_time() - start_s)
    return 1000 * median(times_s)


def scored(url: str) -> tuple[Sample, float]:
    """The server's metrics, and how many replies have scores."""
    sample = parse(metric_text(url))
    return sample, total(sample, "rayse_quality_count", measure="fluency")


def round_of(client: Client, url: str, requests: int) -> tuple[float, float, float]:
    """(tokens a second, CPU seconds of all processes of both models, replies scored) of so many requests, until the
    last is scored."""
    before, scored_before = scored(url)
    start_s, measured = time.perf_counter(), Measured()
    asyncio.run(client.run_round(IN_FLIGHT, requests, measured))
    (rate,) = measured.rates[IN_FLIGHT]
    waiting, (after, scored_after) = True, scored(url)
    while waiting:  # until no further score comes
        time.sleep(0.5)
        again = scored(url)
        waiting, (after, scored_after) = again[1] != scored_after, again
    tokens = requests * REPLY_TOKENS
    elapsed_s = max(tokens / rate, time.perf_counter() - start_s - 0.5)
    cpu_s = total(after, "rayse_cpu_seconds_total") - total(before, "rayse_cpu_seconds_total")
    return tokens / elapsed_s, cpu_s, scored_after - scored_before


def main(model: Path | None = None, fraction: float = 0.05, rounds: int = 6, requests: int = 32) -> dict[str, float]:
    """Measures; returns the throughput with scores ÷ that without (medians of the rounds), the CPU time of a request
    without ÷ that with, both 1 where scores cost nothing, and the figures that explain them."""
    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as temporary:
        folder = Path(temporary)
        guard = write_guard(folder / "guard")
        model = model or bench_model.write(folder / "model", size="125m")
        with_scores = Settings(model=model, name="scored", version="2", guard_folder=guard, quality_sample=fraction)
        settings = Settings(model=model, name="plain", version="1", port=0, guard_folder=guard, logs=folder / "logs",
                            quality_sample=0, others=(with_scores,))  # fmt: skip
        conversations = bench_model.questions(64)
        rates: dict[str, list[float]] = {"plain": [], "scored": []}
        cpu_s: dict[str, list[float]] = {"plain": [], "scored": []}
        num_scored = 0.0
        figures = {"quality/score_cpu_ms": score_ms(guard)}
        with start(settings) as server:
            clients = {name: Client([server.url], name, conversations, REPLY_TOKENS) for name in rates}
            for client in clients.values():
                asyncio.run(client.one_by_one(4))
            for number in range(rounds):
                for name in ("plain", "scored") if number % 2 else ("scored", "plain"):
                    rate, seconds, new = round_of(clients[name], server.url, requests)
                    rates[name].append(rate)
                    cpu_s[name].append(seconds / requests)
                    num_scored += new
                    print(f"{name}: {rate:.0f} tokens/s, {seconds / requests:.3f} CPU s a request, {new:.0f} scored",
                          flush=True)  # fmt: skip
    return figures | {
        "quality/scored_fraction": num_scored / (rounds * requests),
        "quality/request_cpu_s": sum(cpu_s["plain"]) / rounds,
        "quality/request_scored_cpu_s": sum(cpu_s["scored"]) / rounds,
        "quality/ratio_throughput": median(rates["scored"]) / median(rates["plain"]),
        "quality/ratio_cpu": sum(cpu_s["plain"]) / sum(cpu_s["scored"]),
    }


def run(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.quality_sampling", description=__doc__)
    parser.add_argument("--model", type=Path, help="Hugging Face folder of a chat model")
    parser.add_argument("--fraction", type=float, default=0.05, help="fraction of the replies that is scored")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of each")
    parser.add_argument("--requests", type=int, default=32, help="requests of a round")
    goals.run(parser, main, arguments)


if __name__ == "__main__":
    import sys

    run(sys.argv[1:])
