"""The gang of learners as one: work is split over the ranks and merged again, each call timed and with a deadline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import ClusterError
from cluster.gang import Gang
from cluster.resources import Resources
from cluster.session import log_location
from pipelines.inference.environment import environment
from pipelines.inference.estimates import Comparison
from pipelines.inference.probe import PushResult
from pipelines.inference.reply import Reply, Sampling
from pipelines.rollout.experience import Annotation, Experience, Rollout, Step, rank_range
from pipelines.rollout.footprint import Rollouts
from pipelines.stage import Work
from pipelines.stages.ppo.options import PpoCluster, PpoOptions
from pipelines.training import gpus_per_worker, lora_arguments

if TYPE_CHECKING:
    from pipelines.rollout.learner import Learner, RankUpdate  # noqa: F401 (Learner runs in the members)


PHASES: tuple[str, ...] = ("generate", "learn", "publish")


@dataclass(frozen=True)
class Update:
    """Figures of an update, all ranks together."""

    means: dict[str, float]  # over the tokens of all steps, by figure
    gradient_norms: dict[str, float]  # by model, means over steps
    logprob_gap: float  # the largest between a sampler and the policy when the replies were generated, nats


class PhaseClock:
    """Seconds of the phases of an iteration."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds = dict.fromkeys(PHASES, 0.0)

    def add(self, phase: str, seconds: float) -> None:
        self._seconds[phase] += seconds

    def leave_out(self, seconds: float) -> None:
        """Counts seconds that have just passed to no phase."""
        self._start += seconds

    def restart(self) -> dict[str, float]:
        """Seconds of each phase since the last restart, and the rest as "other"."""
        now = time.perf_counter()
        seconds = self._seconds | {"other": now - self._start - sum(self._seconds.values())}
        self._start, self._seconds = now, dict.fromkeys(PHASES, 0.0)
        return seconds


class Learners:
    """Learners (pipelines/rollout/learner.py), one in each member of a gang. Raises MemberLost when one is lost."""

    def __init__(self, work: Work, *, max_tokens: int):
        cluster: PpoCluster = work.cluster
        self.clock = PhaseClock()
        self._seed = work.seed
        self._deadline_s = cluster.answer_s
        model = work.inputs["model"].local()
        threads = cluster.threads_per_worker
        try:
            self._gang = Gang(
                "pipelines.rollout.learner:Learner",
                cluster.workers,
                resources=Resources(cluster.workers, cluster.cpus_per_worker, gpus_per_worker(work), threads=threads),
                name=work.name,
                env=environment(threads, work.cache),
                start_s=cluster.start_s,
                model=model,
                **critic_and_reward_model(work),
                plan=learner_plan(work, max_tokens),
            )
        except ValueError as error:  # vLLM's refusal of a model that it does not know, or that does not fit
            raise ClusterError(
                f"{work.name}: the actors cannot start with {model}: {error}; expected a model that vLLM runs, and "
                f"room for one row in kv_cache_bytes (cluster section). Logs: {log_location()}"
            ) from error
        self.size = self._gang.size

    def __enter__(self) -> Learners:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gang.close()

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, iteration: int) -> list[Rollout]:
        """A reply to each prompt. All that is drawn is a function of the run's seed and the iteration."""
        seed = int(np.random.SeedSequence([self._seed, iteration]).generate_state(1, np.uint32)[0])
        replies: list[Reply] = self._split("generate", prompts, phase="generate", sampling=sampling, seed=seed)
        return [Rollout(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]

    def score(self, rows: Sequence[list[int]]) -> list[float]:
        """The reward model's score of each conversation."""
        return self._split("score", rows)

    def annotate(self, rollouts: Sequence[Rollout]) -> Experience:
        """Rollouts with their tokens' log-probabilities under policy and reference, and the critic's values."""
        annotations: list[Annotation] = self._split("annotate", rollouts, phase="learn")
        return Experience.pack(rollouts, annotations)

    def update(self, steps: Sequence[list[Step]], lr_factor: float) -> Update:
        """Each rank's optimiser steps of policy and critic, at lr_factor × their peak learning rates."""
        ranks: list[RankUpdate] = self._call("update", lr_factor, phase="learn", per_rank=steps)
        num_tokens = sum(rank.num_tokens for rank in ranks)
        names = dict.fromkeys(name for rank in ranks for name in rank.sums)
        return Update(
            means={name: sum(rank.sums.get(name, 0.0) for rank in ranks) / num_tokens for name in names},
            gradient_norms=ranks[0].gradient_norms,
            logprob_gap=max(rank.logprob_gap for rank in ranks),
        )

    def publish(self) -> None:
        """Pushes the policy's weights into every sampler. What the samplers generate next proves them.

        Raises ClusterError where an engine refuses them."""
        ranks: list[PushResult] = self._call("publish")
        self.clock.add("publish", max(loaded.seconds for loaded in ranks))  # by the actors' clocks, without the call
        for rank, loaded in enumerate(ranks):
            if not loaded.pushed:
                raise ClusterError(
                    f"ppo: rank {rank} could not publish the policy's weights: {loaded.reason}; expected a model that "
                    f"vLLM runs as its learner does"
                )

    def prove(self) -> float:
        """The largest difference of any sampler from the policy, in nats. Raises NotProven where that is too far."""
        return max(self._call("prove"))

    def compare(self, rollouts: Rollouts) -> Comparison:
        """What the ranks take, and the plan's formulas: the largest of each."""
        ranks: list[Comparison] = self._call("compare", rollouts)
        return Comparison(
            **{field.name: max(getattr(rank, field.name) for rank in ranks) for field in fields(Comparison)}
        )

    def save(self, folder: Path) -> None:
        """Copies the training state, which is written into the folder beside what follows: see wait_until_saved."""
        self._call("save", folder)

    def wait_until_saved(self) -> None:
        """Raises what went wrong when the state was written."""
        self._call("wait_until_saved")

    def load(self, folder: Path) -> None:
        self._call("load", folder)

    def export(self, out: Path, curve: Sequence[Mapping[str, float]]) -> None:
        self._call("export", out, list(curve))

    def _split(self, method: str, items: Sequence[Any], **kwargs: Any) -> list[Any]:
        """Splits items over the ranks, and merges the results in their order."""
        ranges = [rank_range(len(items), rank, self.size) for rank in range(self.size)]
        parts = [list(items[part.start : part.stop]) for part in ranges]
        return [result for results in self._call(method, per_rank=parts, **kwargs) for result in results]

    def _call(self, method: str, *args: Any, phase: str | None = None, **kwargs: Any) -> list[Any]:
        """Calls a method of every learner, and counts the time as this phase's."""
        start = time.perf_counter()
        results = self._gang.call(method, *args, deadline_s=self._deadline_s, **kwargs)
        if phase is not None:
            self.clock.add(phase, time.perf_counter() - start)
        return results


def critic_and_reward_model(work: Work) -> dict[str, Path | None]:
    """Folders of the critic's initial model and of the reward model; None: there is none."""
    options: PpoOptions = work.options
    reward_model = work.inputs["reward_model"].local() if "reward_model" in options.rewards else None
    if options.advantage == "group":
        critic = None
    elif reward_model is None or options.critic == "policy":
        critic = work.inputs["model"].local()
    else:
        critic = reward_model
    return {"critic": critic, "reward_model": reward_model}


def learner_plan(work: Work, max_tokens: int) -> dict[str, Any]:
    """LearnerPlan's fields, as plain values."""
    options: PpoOptions = work.options
    cluster: PpoCluster = work.cluster
    same = ("learning_rate", "critic_learning_rate", "clip_norm", "clip", "value_clip", "entropy_bonus", "temperature",
            "critic_body")  # fmt: skip
    return {name: getattr(options, name) for name in same} | {
        "max_tokens": max_tokens,
        "micro_batch_rows": cluster.micro_batch_rows,
        "zero_stage": cluster.zero_stage,
        "dtype": cluster.dtype,
        "recompute": cluster.recompute,
        "offload": cluster.offload == "optimizer",
        "lora": lora_arguments(work),
        "seed": work.seed,
        "threads": cluster.threads_per_worker,
        "kv_cache_bytes": cluster.kv_cache_bytes,
        "cache": None if work.cache is None else str(work.cache),
    }
