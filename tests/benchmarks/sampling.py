"""Generation throughput of the Sampler that PPO and evaluation use, against bare vLLM, in the same run.

    python -m tests.benchmarks.sampling [--rounds 3] [--reply-tokens 64]

Each runs in a fresh process, with the same environment, threads, engine and sampling parameters. They take turns: one
waits while the other generates. The fastest round of each counts. Goal: a ratio of 0.9 or more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.inference import engine_size, sampler
from pipelines.inference.model_config import read_config
from tests.benchmarks import bench_model, goals

THREADS = 1
Generate = Callable[[int], int]
"""Generates a reply to every prompt with a seed, and returns the number of tokens of all replies."""


@dataclass(frozen=True)
class Job:
    """What both generate. reply_tokens: exact length of every reply."""

    model: str
    prompts: list[list[int]]
    reply_tokens: int

    @property
    def tokens(self) -> int:
        """Tokens of all replies of a round."""
        return len(self.prompts) * self.reply_tokens


def rayse_generator(job: Job) -> Generate:
    """Generation with the Sampler."""
    from pipelines.inference.reply import Sampling

    engine = sampler.Sampler(Path(job.model), threads=THREADS)
    sampling = Sampling(temperature=1.0, max_new_tokens=job.reply_tokens)
    return lambda seed: sum(len(r.tokens) for r in engine.generate(job.prompts, sampling=sampling, seeds=seed))


def vllm_generator(job: Job) -> Generate:
    """Generation with vLLM as its user would call it: only those arguments that the Sampler passes too."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=job.model,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=engine_size.CPU.num_rows,
        max_num_batched_tokens=engine_size.CPU.batch_tokens,
        kv_cache_memory_bytes=engine_size.kv_bytes(read_config(Path(job.model)), bench_model.LENGTH, "float32"),
        logprobs_mode="processed_logprobs",
        skip_tokenizer_init=True,
    )
    params = SamplingParams(
        temperature=1.0, max_tokens=job.reply_tokens, ignore_eos=True, logprobs=0, flat_logprobs=True, detokenize=False
    )

    def generate(seed: int) -> int:
        llm.reset_prefix_cache()
        prompts = [{"prompt_token_ids": ids} for ids in job.prompts]
        requests = llm.generate(prompts, params, use_tqdm=False)  # pyright: ignore[reportArgumentType]
        return sum(len(request.outputs[0].token_ids) for request in requests)

    return generate


GENERATORS: dict[str, Callable[[Job], Generate]] = {"rayse": rayse_generator, "bare": vllm_generator}


class GeneratorProcess:
    """A process that generates a round of replies on request."""

    def __init__(self, name: str, job: Job, log: Path):
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.sampling", "--generator", name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=os.environ | sampler.environment(THREADS), cwd=Path(__file__).parents[2],
            )  # fmt: skip
        self._send(json.dumps(asdict(job)))

    def round(self, seed: int) -> float:
        """Seconds of one round, as the process measured them."""
        self._send(str(seed))
        return self._receive_seconds()

    def warm_up(self) -> None:
        """Runs one round that is not counted, and waits for it."""
        self.round(0)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _send(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _receive_seconds(self) -> float:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("took "):
                return float(line.removeprefix("took "))
        raise RuntimeError(f"a generator of the benchmark ended: {self._log.read_text()[-2000:]}")


def serve_rounds(name: str) -> None:
    """Main function of a generator's process. Standard input: a job as JSON, then one seed on each line."""
    job = Job(**json.loads(sys.stdin.readline()))
    generate = GENERATORS[name](job)
    for line in sys.stdin:
        begin = time.perf_counter()
        tokens = generate(int(line))
        if tokens != job.tokens:
            raise RuntimeError(f"{name} generated {tokens} tokens; expected {job.tokens}")
        print(f"took {time.perf_counter() - begin}", flush=True)


def main(rounds: int = 3, reply_tokens: int = 64, num_prompts: int = 64) -> dict[str, float]:
    """Figures of both: sampler/tokens_per_s, sampler/tokens_per_s_bare, sampler/ratio_to_bare."""
    from pipelines.data.tokens.chat import Chat

    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as temporary:
        folder = Path(temporary)
        model = bench_model.write(folder / "model")
        chat = Chat.open(model)
        job = Job(str(model), [chat.prompt(c.prompt) for c in bench_model.questions(num_prompts)], reply_tokens)
        processes: dict[str, GeneratorProcess] = {}
        try:
            for name in GENERATORS:
                processes[name] = GeneratorProcess(name, job, folder / f"{name}.log")
                processes[name].warm_up()
            seconds: dict[str, list[float]] = {name: [] for name in GENERATORS}
            for number in range(rounds):
                for name in list(GENERATORS) if number % 2 else list(GENERATORS)[::-1]:
                    seconds[name].append(processes[name].round(1 + number))
        finally:
            for process in processes.values():
                process.close()
    rates = {name: job.tokens / min(round_s) for name, round_s in seconds.items()}
    return {
        "sampler/tokens_per_s": rates["rayse"],
        "sampler/tokens_per_s_bare": rates["bare"],
        "sampler/ratio_to_bare": rates["rayse"] / rates["bare"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reply-tokens", type=int, default=64)
    parser.add_argument("--generator", choices=list(GENERATORS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.generator:
        serve_rounds(arguments.generator)
    else:
        goals.print_figures(main(arguments.rounds, arguments.reply_tokens))
