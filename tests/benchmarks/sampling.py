"""Tokens a second of the Sampler that PPO and evaluation write replies with, against bare vLLM, same run.

    python -m tests.benchmarks.sampling [--rounds 3] [--reply-tokens 64]

Each lives in a fresh process of its own, with the same variables, threads, engine and sampling parameters; they take
turns, one waiting while the other writes, and the best round of each counts. Goal: a ratio of 0.9 or more.
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

from pipelines.inference import sampler
from tests.benchmarks import bench_model, goals

THREADS = 1
Write = Callable[[int], int]
"""Writes a reply to every prompt; the seed of a round → how many tokens were written."""


@dataclass(frozen=True)
class Job:
    """Every prompt gets a reply of exactly so many tokens."""

    model: str
    prompts: list[list[int]]
    reply_tokens: int

    @property
    def tokens(self) -> int:
        return len(self.prompts) * self.reply_tokens


def ours(job: Job) -> Write:
    from pipelines.inference.reply import Sampling

    writer = sampler.Sampler(Path(job.model), threads=THREADS)
    sampling = Sampling(temperature=1.0, max_new_tokens=job.reply_tokens)
    return lambda seed: sum(len(r.tokens) for r in writer.generate(job.prompts, sampling=sampling, seeds=seed))


def bare(job: Job) -> Write:
    """vLLM as its user would call it for the same replies: those of its arguments that the Sampler gives too."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=job.model,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=sampler.NUM_ROWS,
        max_num_batched_tokens=sampler.BATCH_TOKENS,
        kv_cache_memory_bytes=sampler.kv_bytes(Path(job.model), bench_model.LENGTH),
        logprobs_mode="processed_logprobs",
        skip_tokenizer_init=True,
    )
    params = SamplingParams(
        temperature=1.0, max_tokens=job.reply_tokens, ignore_eos=True, logprobs=0, flat_logprobs=True, detokenize=False
    )

    def write(seed: int) -> int:
        llm.reset_prefix_cache()
        asked = [{"prompt_token_ids": ids} for ids in job.prompts]
        found = llm.generate(asked, params, use_tqdm=False)  # pyright: ignore[reportArgumentType]
        return sum(len(one.outputs[0].token_ids) for one in found)

    return write


SIDES: dict[str, Callable[[Job], Write]] = {"ours": ours, "bare": bare}


class Side:
    """A process that writes replies whenever it is asked."""

    def __init__(self, name: str, job: Job, log: Path):
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.sampling", "--side", name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=os.environ | sampler.environment(THREADS), cwd=Path(__file__).parents[2],
            )  # fmt: skip
        self._say(json.dumps(asdict(job)))

    def round(self, seed: int) -> float:
        """Seconds of one round, by the process's own clock."""
        self._say(str(seed))
        return float(self._hear())

    def warm(self) -> None:
        """Waits until it has written once."""
        self.round(0)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("took "):
                return line.removeprefix("took ")
        raise RuntimeError(f"a side of the benchmark ended: {self._log.read_text()[-2000:]}")


def live(name: str) -> None:
    """The process: a job, then a seed a line, until standard input ends."""
    job = Job(**json.loads(sys.stdin.readline()))
    write = SIDES[name](job)
    for line in sys.stdin:
        begin = time.perf_counter()
        tokens = write(int(line))
        if tokens != job.tokens:
            raise RuntimeError(f"{name} wrote {tokens} tokens; expected {job.tokens}")
        print(f"took {time.perf_counter() - begin}", flush=True)


def main(rounds: int = 3, reply_tokens: int = 64, num_prompts: int = 64) -> dict[str, float]:
    """Measures both: sampler/tokens_per_s, sampler/tokens_per_s_bare, sampler/ratio_to_bare."""
    from pipelines.data.tokens.chat import Chat

    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as place:
        folder = Path(place)
        model = bench_model.write(folder / "model")
        chat = Chat.open(model)
        job = Job(str(model), [chat.prompt(one.prompt) for one in bench_model.questions(num_prompts)], reply_tokens)
        sides: dict[str, Side] = {}
        try:
            for name in SIDES:
                sides[name] = Side(name, job, folder / f"{name}.log")
                sides[name].warm()
            seconds = {name: [] for name in SIDES}
            for number in range(rounds):
                for name in list(SIDES) if number % 2 else list(SIDES)[::-1]:
                    seconds[name].append(sides[name].round(1 + number))
        finally:
            for side in sides.values():
                side.close()
    rates = {name: job.tokens / min(each) for name, each in seconds.items()}
    return {
        "sampler/tokens_per_s": rates["ours"],
        "sampler/tokens_per_s_bare": rates["bare"],
        "sampler/ratio_to_bare": rates["ours"] / rates["bare"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reply-tokens", type=int, default=64)
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        live(arguments.side)
    else:
        goals.print_figures(main(arguments.rounds, arguments.reply_tokens))
