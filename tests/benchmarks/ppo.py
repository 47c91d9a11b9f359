"""Seconds of one PPO iteration of the stage `ppo` (Ray actors, DeepSpeed, vLLM) against TRL, in the same run.

    python -m tests.benchmarks.ppo [--iterations 8] [--reply-tokens 64] [--epochs 1] [--minibatches 1] [--dtype float32]

All runs have two processes of one thread each, the same model, the same prompts, the same optimiser steps, and replies
of the same length. TRL's trainer is GRPO, which has no critic (trl_loop.py). The stage runs with its default critic,
which is what is compared with TRL, then with a second model as the critic, then without one (`advantage: group`). TRL
runs with its defaults, generating with transformers, and once more generating with vLLM as the stage does. The default
critic is measured first and last of the stage's runs, and TRL before and after all of them, since a machine's speed
drifts. The figures are medians over iterations, without the first of each run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tests.benchmarks import goals
from tests.benchmarks.trl_loop import Job, RankTimes, measure, with_vllm

if TYPE_CHECKING:
    from cluster.session import Session
    from pipelines.inference.reply import Sampling
    from pipelines.rollout.experience import Rollout
    from pipelines.stage import Work

WORLD, THREADS = 2, 1
REWARD = Path(__file__).with_name("digits_reward.py")
VARIANTS = {"critic": {}, "learnt_critic": {"critic_body": "learnt"}, "group": {"advantage": "group"}}
PROMPTS, REPLIES = 32, 2  # prompts of an iteration and replies to each: the stage's defaults


@dataclass
class StageTimes:
    """Measurements of the stage.

    ends: clock at the end of each iteration; phases: seconds of each phase, for each iteration; token counts are of all
    iterations; gap: largest difference of log-probabilities after a publishing, in nats."""

    ends: list[float] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)
    prompt_tokens: int = 0
    reply_tokens: int = 0
    gap: float = 0.0

    @property
    def iteration_s(self) -> list[float]:
        """Seconds of each iteration but the first."""
        return [end - begin for begin, end in pairwise(self.ends)]

    def followed_by(self, later: StageTimes) -> StageTimes:
        """Joins both as one run, without the first iteration of `later`."""
        shift = self.ends[-1] - later.ends[0]
        ends = self.ends + [end + shift for end in later.ends[1:]]
        return replace(self, ends=ends, phases=self.phases + later.phases[1:], gap=max(self.gap, later.gap))

    def figures(self) -> dict[str, float]:
        """Median seconds of an iteration, and mean seconds of each phase; the first iteration does not count."""
        iteration_s = self.iteration_s
        mean_s = sum(iteration_s) / len(iteration_s)
        phase_s = {name: sum(p[name] for p in self.phases[1:]) / len(iteration_s) for name in self.phases[0]}
        return {
            "ppo/iteration_s": median(iteration_s),
            **{f"ppo/{name}_s": value for name, value in phase_s.items()},
            "ppo/publish_fraction": phase_s["publish"] / mean_s,
            "publish/logprob_gap": self.gap,
        }


def run_stage(folder: Path, job: Job, dtype: str, **options: Any) -> StageTimes:
    """Runs the stage's training loop with replies of full length, and measures it."""
    from cluster.session import Session
    from pipelines.data.dialogues import conversations
    from pipelines.stages import ppo
    from pipelines.stages.ppo.journal import Journal, Steps
    from pipelines.stages.ppo.learners import Learners
    from pipelines.stages.ppo.task import Prompt, Task
    from tests.benchmarks import bench_model

    times = StageTimes()

    class FullLengthTask(Task):
        """A task whose replies end at max_new_tokens only."""

        @property
        def sampling(self) -> Sampling:
            return replace(super().sampling, stop_ids=())

        def prompts(self, iteration: int) -> list[Prompt]:
            prompts = super().prompts(iteration)
            times.prompt_tokens += sum(len(prompt.tokens) for prompt in prompts)
            return prompts

    class TimedJournal(Journal):
        """A journal that records the times of each iteration."""

        def add(
            self,
            point: Mapping[str, float],
            seconds: Mapping[str, float],
            *,
            rollouts: Sequence[Rollout],
            logprob_gap: float,
        ) -> None:
            super().add(point, seconds, rollouts=rollouts, logprob_gap=logprob_gap)
            times.ends.append(perf_counter())
            times.phases.append(dict(seconds))
            times.reply_tokens = self.reply_tokens
            times.gap = self.logprob_gap

    os.environ.setdefault("RAY_worker_niceness", "0")  # as TRL's processes: a busy machine slows both alike
    (folder / "data").mkdir(parents=True)
    conversations.write(folder / "data" / conversations.TRAIN, bench_model.questions(len(job.prompts)))
    with Session(on_message=str) as session:
        work = work_of(folder, job, session, dtype, options)
        task, journal = FullLengthTask.open(work), TimedJournal(kl_coefficient=job.kl_coefficient)
        with Learners(work, max_tokens=task.max_tokens) as learners:
            learners.publish()
            ppo.train(work, task, learners, journal, Steps(work.draft.folder("iterations")))
    return times


def work_of(folder: Path, job: Job, session: Session, dtype: str, more_options: dict[str, Any]) -> Work:
    """Work of the stage: the job sets the options that decide the cost, the others are the stage's defaults."""
    from tests.stages.ppo_work import work

    options = {
        "iterations": job.iterations, "prompts_per_iteration": job.prompts_per_iteration,
        "replies_per_prompt": job.replies_per_prompt, "max_new_tokens": job.reply_tokens, "epochs": job.epochs,
        "minibatches": job.minibatches, "learning_rate": job.learning_rate, "kl_coefficient": job.kl_coefficient,
        "kl_target": None, "rewards": {"function": 1.0}, "function": f"{REWARD}:reward",
        "held_out_prompts": 0, **more_options,
    }  # fmt: skip
    cluster = {"workers": WORLD, "threads_per_worker": THREADS, "dtype": dtype, "save_every": 1000}  # never, like TRL
    inputs = {"model": Path(job.model), "conversations": folder / "data"}
    return work(folder / "draft", session, inputs, cluster, seed=job.seed, **options)


def trl_seconds(ranks: list[RankTimes], job: Job) -> tuple[list[float], list[float]]:
    """TRL's seconds of each iteration but the first, and of its generation; the slowest rank counts."""
    last_steps = range(job.steps - 1, len(ranks[0].ends), job.steps)
    ends = [max(rank.ends[step] for rank in ranks) for step in last_steps]
    generate_s = [max(iteration) for iteration in zip(*(rank.generate_s for rank in ranks), strict=True)]
    return [end - begin for begin, end in pairwise(ends)], generate_s[1:]


def trl_medians(runs: list[list[RankTimes]], job: Job) -> tuple[float, float]:
    """Median seconds of TRL's iterations over several runs, and of their generation."""
    seconds = [trl_seconds(ranks, job) for ranks in runs]
    iteration_s = [s for run, _ in seconds for s in run]
    generate_s = [s for _, run in seconds for s in run]
    return median(iteration_s), median(generate_s)


def format_seconds(seconds: list[float]) -> str:
    """`seconds of each iteration 1.08 1.10 …`"""
    return "seconds of each iteration " + " ".join(f"{s:.2f}" for s in seconds)


def check_equal_work(job: Job, stage: StageTimes, ranks: list[RankTimes]) -> None:
    """Raises RuntimeError where stage and TRL did not process the same number of tokens."""
    expected = job.iterations * job.replies * job.reply_tokens
    trl_tokens = sum(rank.reply_tokens for rank in ranks)
    if not expected == stage.reply_tokens == trl_tokens:
        counts = f"the stage {stage.reply_tokens}, TRL {trl_tokens}"
        raise RuntimeError(f"reply tokens: {counts}; expected {expected} of both")
    trl_tokens = sum(rank.prompt_tokens for rank in ranks)
    if abs(trl_tokens - stage.prompt_tokens) > 0.05 * trl_tokens:  # both go through all prompts, in different orders
        raise RuntimeError(f"prompt tokens: the stage {stage.prompt_tokens}, TRL {trl_tokens}; expected about the same")


def main(
    iterations: int = 8, reply_tokens: int = 64, epochs: int = 1, minibatches: int = 1, dtype: str = "float32"
) -> dict[str, float]:
    """Figures: seconds of an iteration and its phases, of the variants and of TRL, and ratios of TRL to the stage."""
    from tests.benchmarks import bench_model

    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as temporary:
        folder = Path(temporary)
        model = bench_model.write(folder / "model")
        prompts = [conversation.prompt for conversation in bench_model.questions(4 * PROMPTS)]
        job = Job(
            str(model), prompts, PROMPTS, REPLIES, reply_tokens, epochs, minibatches, iterations,
            extra={"bf16": dtype == "bfloat16"},
        )  # fmt: skip
        trl_jobs = {"trl": job, "trl_vllm": with_vllm(job)}
        trl_runs = {name: [measure(trl_job, world=WORLD, threads=THREADS)] for name, trl_job in trl_jobs.items()}
        for name, (ranks,) in trl_runs.items():
            print(f"{name}: {format_seconds(trl_seconds(ranks, job)[0])}", flush=True)
        times: dict[str, StageTimes] = {}
        for variant in (*VARIANTS, "critic"):
            run = run_stage(Path(tempfile.mkdtemp(dir=folder)), job, dtype, **VARIANTS[variant])
            for (ranks,) in trl_runs.values():
                check_equal_work(job, run, ranks)
            print(f"stage, {variant}: {format_seconds(run.iteration_s)}", flush=True)
            times[variant] = times[variant].followed_by(run) if variant in times else run
        for name, trl_job in trl_jobs.items():
            trl_runs[name].append(measure(trl_job, world=WORLD, threads=THREADS))
            print(f"{name} again: {format_seconds(trl_seconds(trl_runs[name][1], job)[0])}", flush=True)
    return all_figures(times, trl_runs, job)


def all_figures(times: dict[str, StageTimes], trl_runs: dict[str, list[list[RankTimes]]], job: Job) -> dict[str, float]:
    """Figures of the default critic, then of the other variants, then of TRL, then the ratios."""
    trl_iteration_s, trl_generate_s = trl_medians(trl_runs["trl"], job)
    vllm_iteration_s, vllm_generate_s = trl_medians(trl_runs["trl_vllm"], job)
    figures = times["critic"].figures()
    variants = {name: run.figures() for name, run in times.items() if name != "critic"}
    return {
        **figures,
        **{f"ppo/{name}_iteration_s": values["ppo/iteration_s"] for name, values in variants.items()},
        **{f"ppo/{name}_learn_s": values["ppo/learn_s"] for name, values in variants.items()},
        "ppo/trl_iteration_s": trl_iteration_s,
        "ppo/trl_generate_s": trl_generate_s,
        "ppo/trl_vllm_iteration_s": vllm_iteration_s,
        "ppo/trl_vllm_generate_s": vllm_generate_s,
        "ppo/ratio_to_trl": trl_iteration_s / figures["ppo/iteration_s"],
        "ppo/ratio_to_trl_vllm": vllm_iteration_s / figures["ppo/iteration_s"],
        **{f"ppo/ratio_to_trl_{name}": trl_iteration_s / run["ppo/iteration_s"] for name, run in variants.items()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--reply-tokens", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--minibatches", type=int, default=1)
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="Data type of both sides' matrix products"
    )
    goals.print_figures(main(**vars(parser.parse_args())))
