"""Times of an engine's work by its parts, planned beside measured: rows that are scored, replies that are written.

    python -m tests.benchmarks engine_times                             every model; six minutes on two cores
    python -m tests.benchmarks.engine_times [MODEL …] [--threads N] [--save]

Random models of several sizes, each in a new process with an engine like an evaluator's. Every part runs once
uncounted, then until three runs or six seconds; the median counts. Planned by `engine_seconds` with the speed that the
process measures at its end, as evaluations do. --save writes the rows into baselines/engines/<machine>.json, with
which the constants of pipelines/inference/estimates.py are chosen on several machines: test_engine_times.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pipelines.inference.environment import environment
from pipelines.inference.estimates import Engine, EngineWork, Speed, engine_seconds
from pipelines.store.provenance import machine
from tests.benchmarks import baselines, bench_model

if TYPE_CHECKING:
    from pipelines.inference.sampler import Sampler

FOLDER = baselines.FOLDER / "engines"
SMOLLM2 = "SmolLM2-135M"
MODELS = {"2m": 16_384, "14m": 8192, "36m": 4096, SMOLLM2: 1024}  # tokens of the rows that one run scores
MAX_TOKENS, PROMPT_TOKENS, NUM_RUNS, ENOUGH_S = 512, 32, 3, 6.0
# Of the configs of Llamas what the formula reads, and what says how large they are.
CONFIG = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
          "head_dim", "vocab_size", "tie_word_embeddings")  # fmt: skip


@dataclass(frozen=True)
class Part:
    """number: of rows, or of replies at once, of so many tokens each. kind: `score` rows; `mixed` rows of 8 to 2 ×
    tokens; `greedy` or `drawn` replies of one length, to prompts of 32 tokens; `ended`, drawn, by chance after so many
    tokens on average."""

    kind: str
    number: int
    tokens: int


REPLIES = (("greedy", 1, 64), ("greedy", 8, 16), ("greedy", 64, 4), ("greedy", 64, 32), ("drawn", 1, 16),
           ("drawn", 16, 64), ("drawn", 64, 4), ("drawn", 64, 32), ("ended", 64, 16))  # fmt: skip


def parts(model: str) -> list[Part]:
    """What is measured of a model."""
    tokens = MODELS[model]
    scored = [Part("score", tokens // length, length) for length in (16, 64, 128, 256, 500)]
    return [*scored, Part("mixed", tokens // 64, 64), *(Part(*reply) for reply in REPLIES)]


def run_of(engine: Sampler, part: Part, vocabulary: int) -> Callable[[], EngineWork]:
    """A function that does a part's work and says what it was."""
    import numpy as np

    from pipelines.inference.reply import Sampling

    random = np.random.default_rng(part.number + part.tokens)

    def rows(lengths: Iterable[int]) -> list[list[int]]:
        return [random.integers(0, vocabulary, length).tolist() for length in lengths]

    def score() -> EngineWork:
        lengths = (
            random.integers(8, 2 * part.tokens, part.number) if part.kind == "mixed" else [part.tokens] * part.number
        )
        scored = rows(lengths)
        engine.logprobs(scored)
        return EngineWork.scoring(scored)

    # A random model draws all tokens about equally often.
    stop_ids = tuple(range(vocabulary // part.tokens)) if part.kind == "ended" else ()
    most = 4 * part.tokens if part.kind == "ended" else part.tokens
    sampling = Sampling(temperature=float(part.kind != "greedy"), max_new_tokens=most, stop_ids=stop_ids)

    def reply() -> EngineWork:
        prompts = rows([PROMPT_TOKENS] * part.number)
        replies = engine.generate(prompts, sampling=sampling, seeds=int(random.integers(2**31)))
        lengths = [len(each.tokens) for each in replies]
        return EngineWork.generating(prompts, lengths, temperature=sampling.temperature)

    return score if part.kind in ("score", "mixed") else reply


def measure_in_this_process(folder: Path, name: str, threads: int) -> dict[str, Any]:
    """The model's config, what the process does in a second, and a row a part."""
    import torch

    from pipelines.inference import engine_size, hardware, weights
    from pipelines.inference.model_config import read_config
    from pipelines.inference.sampler import Sampler

    config = read_config(folder)
    kv_cache_bytes = engine_size.kv_bytes(config, MAX_TOKENS, "float32", max_bytes=engine_size.MAX_EVALUATOR_KV_BYTES)
    engine = Sampler(folder, max_tokens=MAX_TOKENS, kv_cache_bytes=kv_cache_bytes, threads=threads)
    rows = []
    for part in parts(name):
        run = run_of(engine, part, config["vocab_size"])
        runs = [timed(run)]
        while len(runs) <= NUM_RUNS and sum(seconds for seconds, _ in runs[1:]) < ENOUGH_S:
            runs.append(timed(run))
        rows.append({**asdict(part), "runs": [{"seconds": seconds, **asdict(work)} for seconds, work in runs]})
    speed = hardware.measured_speed("cpu", torch.float32)
    return {
        "config": {key: config[key] for key in CONFIG if key in config},
        "parameters": weights.num_parameters(folder),
        "weight_bytes": engine_size.weight_bytes(folder, "float32"),
        "max_tokens": MAX_TOKENS,
        "threads": threads,
        "speed": asdict(speed),
        "rows": rows,
    }


def timed(run: Callable[[], EngineWork]) -> tuple[float, EngineWork]:
    start = time.perf_counter()
    work = run()
    return time.perf_counter() - start, work


def measure(name: str, threads: int) -> dict[str, Any]:
    """As measure_in_this_process, in a new one."""
    from tests.benchmarks import adapters

    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as temporary:
        folder = Path(temporary) / "model"
        if name == SMOLLM2:
            adapters.write_model(folder, "float32")
        else:
            bench_model.write(folder, size=name)
        out = Path(temporary) / "rows.json"
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.engine_times",
            name,
            "--engine",
            str(folder),
            "--out",
            str(out),
        ]
        env = os.environ | environment(threads)
        subprocess.run([*command, "--threads", str(threads)], env=env, cwd=Path(__file__).parents[2], check=True)
        return json.loads(out.read_text())


def compared(measured: Mapping[str, Any]) -> list[tuple[dict[str, Any], float, float]]:
    """Of each part of a model its row, seconds as they were (the median of the runs but the first), and as planned."""
    engine = Engine(
        measured["config"], measured["parameters"], measured["weight_bytes"], "float32", measured["max_tokens"], 0,
        on_cpu=True,
    )  # fmt: skip
    speed = Speed(**measured["speed"])
    result = []
    for row in measured["rows"]:
        counted = row["runs"][1:]
        works = [EngineWork(**{key: run[key] for key in run if key != "seconds"}) for run in counted]
        planned = [engine_seconds(engine, work, speed) for work in works]
        result.append((row, median(run["seconds"] for run in counted), median(planned)))
    return result


def main(names: Iterable[str] = tuple(MODELS), threads: int | None = None, *, save: bool = False) -> dict[str, float]:
    """Prints a line a part. Returns plan/time_error of each, by its name."""
    from cluster.resources import cores

    threads = threads or cores()
    measured, figures = {}, {}
    for name in names:
        measured[name] = measure(name, threads)
        print(name, threads, "threads:", measured[name]["speed"], flush=True)
        for row, seconds, planned in compared(measured[name]):
            label = f"engine {name}, {row['kind']} {row['number']} x {row['tokens']}"
            errors = f"{planned:8.3f} planned {seconds:8.3f} s {planned / seconds - 1:+7.1%}"
            print(f"{label:44s} {errors}   first {row['runs'][0]['seconds']:.3f}", flush=True)
            figures[f"plan/time_error: {label}"] = planned / seconds - 1
    if save:
        keep(measured)
    return figures


def keep(models: Mapping[str, Any]) -> None:
    """Writes the rows of models into this machine's file, beside those of others that it has."""
    file = baselines.path_for(machine(), FOLDER)
    before = json.loads(file.read_text(encoding="utf-8"))["models"] if file.is_file() else {}
    FOLDER.mkdir(exist_ok=True)
    document = {"machine": machine(), "date": datetime.now(UTC).date().isoformat(), "models": {**before, **models}}
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"saved in {file}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", default=list(MODELS), help=f"which of {', '.join(MODELS)}")
    parser.add_argument("--threads", type=int, help="of an engine; default: all cores")
    parser.add_argument("--save", action="store_true", help="write the rows into this machine's file")
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        made = measure_in_this_process(arguments.engine, arguments.names[0], arguments.threads)
        arguments.out.write_text(json.dumps(made))
    else:
        main(arguments.names, arguments.threads, save=arguments.save)
