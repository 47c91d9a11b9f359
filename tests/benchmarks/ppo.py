"""Seconds of one PPO iteration, the real path (Ray actors, DeepSpeed, vLLM, the stage's loop) against TRL, same run.

    python -m tests.benchmarks.ppo [--iterations 8] [--reply-tokens 64] [--epochs 1] [--minibatches 1] [--dtype float32]

All have two processes of one thread each, the same model, the same prompts, the same optimiser steps, and replies that
end at the same length. TRL's trainer is GRPO, which has no critic (trl_loop.py). Ours runs as the stage does by itself,
with a critic: this is what is measured against TRL. And twice more: with a critic that is a second model, and with none
(`advantage: group`). TRL runs as it is by default, generating with transformers, and once more generating with vLLM, as
ours does. What is compared runs first and last, TRL around it, since machines have moods; what counts is the median
iteration, the first of each run left out.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tests.benchmarks import goals
from tests.benchmarks.trl_loop import Job, RankTimes, measure, with_vllm

if TYPE_CHECKING:
    from pipelines.stage import Work

WORLD, THREADS = 2, 1
REWARD = Path(__file__).with_name("digits_reward.py")
KINDS = {"critic": {}, "learnt_critic": {"critic_body": "learnt"}, "group": {"advantage": "group"}}
PROMPTS, REPLIES = 32, 2  # of an iteration, and of a prompt: the stage's own defaults


@dataclass
class Seen:
    """What was seen of the real path. ends: clock at the end of each iteration; phases: seconds in each of them."""

    ends: list[float] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)
    prompt_tokens: int = 0
    reply_tokens: int = 0
    gap: float = 0.0

    @property
    def whole(self) -> list[float]:
        """Seconds of each iteration but the first."""
        return [end - begin for begin, end in pairwise(self.ends)]

    def followed_by(self, other: Seen) -> Seen:
        """Both as one run, without the other's first iteration."""
        shift = self.ends[-1] - other.ends[0]
        ends, phases = [end + shift for end in other.ends[1:]], other.phases[1:]
        return replace(self, ends=self.ends + ends, phases=self.phases + phases, gap=max(self.gap, other.gap))

    def figures(self) -> dict[str, float]:
        """Seconds of the median iteration, and of its phases as means over all but the first."""
        whole = self.whole
        mean_s = sum(whole) / len(whole)
        spent = {name: sum(phases[name] for phases in self.phases[1:]) / len(whole) for name in self.phases[0]}
        return {
            "ppo/iteration_s": median(whole),
            **{f"ppo/{name}_s": value for name, value in spent.items()},
            "ppo/publish_fraction": spent["publish"] / mean_s,
            "publish/logprob_gap": self.gap,
        }


def real(folder: Path, job: Job, dtype: str, **options: Any) -> Seen:
    """The stage's own loop, told not to stop a reply early, and watched."""
    from cluster.session import Session
    from pipelines.data.dialogues import conversations
    from pipelines.stages import ppo
    from pipelines.stages.ppo.journal import Journal, Steps
    from pipelines.stages.ppo.learners import Learners
    from pipelines.stages.ppo.task import Task
    from tests.benchmarks import bench_model

    seen = Seen()

    class Endless(Task):
        """A task whose replies end at max_new_tokens only."""

        @property
        def sampling(self) -> Any:
            return replace(super().sampling, stop_ids=())

        def prompts(self, iteration: int) -> Any:
            prompts = super().prompts(iteration)
            seen.prompt_tokens += sum(len(prompt.tokens) for prompt in prompts)
            return prompts

    class Watched(Journal):
        """A journal that keeps each iteration's times apart."""

        def add(self, point: Any, seconds: Any, *, rollouts: Any, logprob_gap: float) -> None:
            super().add(point, seconds, rollouts=rollouts, logprob_gap=logprob_gap)
            seen.ends.append(perf_counter())
            seen.phases.append(seconds)
            seen.reply_tokens, seen.gap = self.reply_tokens, self.logprob_gap

    os.environ.setdefault("RAY_worker_niceness", "0")  # a busy machine is to slow both sides alike
    (folder / "data").mkdir(parents=True)
    conversations.write(folder / "data" / conversations.TRAIN, bench_model.questions(len(job.prompts)))
    with Session(on_message=str) as session:
        work = work_of(folder, job, session, dtype, options)
        task, journal = Endless.open(work), Watched(kl_coefficient=job.kl_coefficient)
        with Learners(work, max_tokens=task.max_tokens) as learners:
            learners.publish()
            ppo.train(work, task, learners, journal, Steps(work.draft.folder("iterations")))
    return seen


def work_of(folder: Path, job: Job, session: Any, dtype: str, more: dict[str, Any]) -> Work:
    """The stage's work; what decides the cost is said by the job, the rest by the stage's defaults."""
    from tests.stages.ppo_work import work

    options = {
        "iterations": job.iterations, "prompts_per_iteration": job.prompts_per_iteration,
        "replies_per_prompt": job.replies_per_prompt, "max_new_tokens": job.reply_tokens, "epochs": job.epochs,
        "minibatches": job.minibatches, "learning_rate": job.learning_rate, "kl_coefficient": job.kl_coefficient,
        "kl_target": None, "rewards": {"function": 1.0}, "function": f"{REWARD}:reward",
        "held_out_prompts": 0, **more,
    }  # fmt: skip
    cluster = {"workers": WORLD, "threads_per_worker": THREADS, "dtype": dtype, "save_every": 1000}  # as TRL: never
    inputs = {"model": Path(job.model), "conversations": folder / "data"}
    return work(folder / "draft", session, inputs, cluster, seed=job.seed, **options)


def whole_iterations(told: list[RankTimes], job: Job) -> tuple[list[float], list[float]]:
    """TRL's seconds of each iteration but the first, the slowest rank's; and those of them in which it generates."""
    ends = [max(rank.ends[number] for rank in told) for number in range(job.steps - 1, len(told[0].ends), job.steps)]
    writing = [max(each) for each in zip(*(rank.generate_s for rank in told), strict=True)]
    return [end - begin for begin, end in pairwise(ends)], writing[1:]


def medians(runs: list[list[RankTimes]], job: Job) -> tuple[float, float]:
    """Seconds of TRL's median iteration over several runs, and of its median generation."""
    pairs = [whole_iterations(run, job) for run in runs]
    return median([s for whole, _ in pairs for s in whole]), median([s for _, writing in pairs for s in writing])


def shown(seconds: list[float]) -> str:
    return "seconds of each iteration " + " ".join(f"{each:.2f}" for each in seconds)


def check_equal(job: Job, seen: Seen, told: list[RankTimes]) -> None:
    """Raises RuntimeError where the two did not read and write the same number of tokens."""
    wanted = job.iterations * job.replies * job.reply_tokens
    theirs = sum(rank.reply_tokens for rank in told)
    if not wanted == seen.reply_tokens == theirs:
        raise RuntimeError(f"reply tokens: ours {seen.reply_tokens}, TRL's {theirs}; expected {wanted} of both")
    read = sum(rank.prompt_tokens for rank in told)
    if abs(read - seen.prompt_tokens) > 0.05 * read:  # both ask all prompts in turn, in orders of their own
        raise RuntimeError(f"prompt tokens: ours {seen.prompt_tokens}, TRL's {read}; expected about the same")


def main(
    iterations: int = 8, reply_tokens: int = 64, epochs: int = 1, minibatches: int = 1, dtype: str = "float32"
) -> dict[str, float]:
    """Measures all: seconds of an iteration, its phases, and what an iteration of TRL takes of ours."""
    from tests.benchmarks import bench_model

    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as place:
        folder = Path(place)
        model = bench_model.write(folder / "model")
        prompts = [one.prompt for one in bench_model.questions(4 * PROMPTS)]
        job = Job(
            str(model), prompts, PROMPTS, REPLIES, reply_tokens, epochs, minibatches, iterations,
            extra={"bf16": dtype == "bfloat16"},
        )  # fmt: skip
        peers = {"trl": job, "trl_vllm": with_vllm(job)}
        runs = {name: [measure(peer, world=WORLD, threads=THREADS)] for name, peer in peers.items()}
        for name, (first,) in runs.items():
            print(f"{name}: {shown(whole_iterations(first, job)[0])}", flush=True)
        seen: dict[str, Seen] = {}
        for kind in (*KINDS, "critic"):
            own = real(Path(tempfile.mkdtemp(dir=folder)), job, dtype, **KINDS[kind])
            for (first,) in runs.values():
                check_equal(job, own, first)
            print(f"ours, {kind}: {shown(own.whole)}", flush=True)
            seen[kind] = seen[kind].followed_by(own) if kind in seen else own
        for name, peer in peers.items():
            runs[name].append(measure(peer, world=WORLD, threads=THREADS))
            print(f"{name} again: {shown(whole_iterations(runs[name][1], job)[0])}", flush=True)
    trl_iteration_s, trl_generate_s = medians(runs["trl"], job)
    vllm_iteration_s, vllm_generate_s = medians(runs["trl_vllm"], job)
    others = {kind: own.figures() for kind, own in seen.items() if kind != "critic"}
    figures = seen["critic"].figures()
    return {
        **figures,
        **{f"ppo/{kind}_iteration_s": own["ppo/iteration_s"] for kind, own in others.items()},
        **{f"ppo/{kind}_learn_s": own["ppo/learn_s"] for kind, own in others.items()},
        "ppo/trl_iteration_s": trl_iteration_s,
        "ppo/trl_generate_s": trl_generate_s,
        "ppo/trl_vllm_iteration_s": vllm_iteration_s,
        "ppo/trl_vllm_generate_s": vllm_generate_s,
        "ppo/ratio_to_trl": trl_iteration_s / figures["ppo/iteration_s"],
        "ppo/ratio_to_trl_vllm": vllm_iteration_s / figures["ppo/iteration_s"],
        **{f"ppo/ratio_to_trl_{kind}": trl_iteration_s / own["ppo/iteration_s"] for kind, own in others.items()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--reply-tokens", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--minibatches", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of both sides' products")
    goals.print_figures(main(**vars(parser.parse_args())))
