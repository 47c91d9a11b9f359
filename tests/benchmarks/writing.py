"""Tokens a second that a model of the store writes for `augment`, in one engine and in two, each of one thread.

    python -m tests.benchmarks writing        two minutes on two cores

Four batches of requests to a random model of 36 million parameters. Both write the same answers, or it is an error.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

from cluster.session import Session
from pipelines.evaluator import Evaluator
from pipelines.inference.reply import Sampling
from pipelines.writers.requests import ChatAnswer
from pipelines.writers.writer import Requests, Writer
from tests.benchmarks import bench_model
from tests.stages.single import work_of

NUM_REQUESTS, REPLY_TOKENS, NUM_RUNS = 256, 48, 3


def main() -> dict[str, float]:
    """The speeds, and how many times as fast two engines are."""
    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as folder, Session(cpus=4, on_message=str) as session:
        model = bench_model.write(Path(folder) / "model", size="36m")
        one, two = (run(session, Path(folder), model, engines) for engines in (1, 2))
    if one[1] != two[1]:
        raise RuntimeError("two engines do not write what one does; expected the same answers")
    return {
        "writing/tokens_per_s_one_engine": round(one[0], 1),
        "writing/tokens_per_s_two_engines": round(two[0], 1),
        "writing/two_engines_ratio": round(two[0] / one[0], 2),
    }


def run(session: Session, folder: Path, model: Path, engines: int) -> tuple[float, list[ChatAnswer]]:
    """Tokens a second, the median of the runs but the first, and the answers. The start of the engines is not timed."""
    prompts = [[{"role": "user", "content": f"What is {number} times {number}?"}] for number in range(NUM_REQUESTS)]
    evaluator, speeds, answers = Evaluator(session), list[float](), list[ChatAnswer]()
    try:
        for _ in range(1 + NUM_RUNS):
            cluster = {"engines": engines, "threads": 1, "gpus": 0}
            work = work_of("augment", folder, model=model, evaluator=evaluator, cluster=cluster)
            writer = Writer.open(Requests(work, "augment", NUM_REQUESTS), None, context=bench_model.LENGTH)
            begin = time.perf_counter()
            answers = writer.answers(prompts, Sampling(0.8, max_new_tokens=REPLY_TOKENS))
            speeds.append(sum(answer.reply_tokens for answer in answers) / (time.perf_counter() - begin))
    finally:
        evaluator.close()
    return median(speeds[1:]), answers


if __name__ == "__main__":
    print(main())
