"""The gang of learners as one: work is cut over the ranks and put together again, each call timed and bounded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import ClusterError
from cluster.gang import Gang
from cluster.resources import Resources
from cluster.session import log_location
from pipelines.inference.reply import Reply, Sampling
from pipelines.inference.sampler import Loaded, environment
from pipelines.rollout.experience import Annotation, Rollout, Step, own_part
from pipelines.stage import Work
from pipelines.stages.ppo.options import PpoCluster, PpoOptions

if TYPE_CHECKING:
    from pipelines.rollout.learner import Learner  # noqa: F401 (runs in the members; what it does is part of this stage)

PHASES = {"generate": "generate", "annotate": "learn", "publish": "publish"}


class Learners:
    """Learners (pipelines/rollout/learner.py), one in each member of a gang. Raises MemberLost when one is gone."""

    def __init__(self, work: Work, *, max_tokens: int):
        options: PpoOptions = work.options
        cluster: PpoCluster = work.cluster
        model = work.inputs["model"].local()
        judge = work.inputs["reward_model"].local() if "reward_model" in options.rewards else None
        critic = judge if judge is not None and options.critic != "policy" else model
        critic = None if options.advantage == "group" else critic
        threads = cluster.threads_per_worker
        self._deadline_s = cluster.answer_s
        self._spent: dict[str, float] = {}
        resources = Resources(cluster.workers, cluster.cpus_per_worker, cluster.gpus_per_worker, threads=threads)
        try:
            self._gang = Gang(
                "pipelines.rollout.learner:Learner",
                cluster.workers,
                resources=resources,
                name=work.name,
                env=environment(threads, work.cache),
                start_s=cluster.start_s,
                model=model,
                critic=critic,
                reward_model=judge,
                plan=learner_plan(work, max_tokens),
            )
        except ValueError as error:  # so vLLM refuses a model that it does not know, or that does not fit
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

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> list[Reply]:
        """A reply to each prompt."""
        return self._shared("generate", prompts, sampling=sampling, seed=seed)

    def score(self, rows: Sequence[list[int]]) -> list[float]:
        """The reward model's score of each conversation."""
        return self._shared("score", rows)

    def annotate(self, rollouts: Sequence[Rollout]) -> list[Annotation]:
        """What policy, reference and critic think of each reply."""
        return self._shared("annotate", rollouts)

    def learn(self, steps: Sequence[list[Step]], share: float) -> tuple[dict[str, float], float]:
        """Updates at this share of the learning rates, then publishes.

        Returns means over tokens and the gradients' norms, and how far the samplers were from the policy when they
        wrote the replies: the largest gap of a probe's log-probability, in nats."""
        begin = time.perf_counter()
        update, publish = self._gang.send("update", share, per_rank=steps), self._gang.send("publish")
        found = self._gang.collect(update, deadline_s=self._deadline_s)
        loaded = self._gang.collect(publish, deadline_s=self._deadline_s)
        check_pushed(loaded)
        publish_s = max(one.seconds for one in loaded)  # by the actors' clocks: they began before we heard of it
        self._spend("publish", publish_s)
        self._spend("learn", time.perf_counter() - begin - publish_s)
        tokens = sum(figures["tokens"] for figures in found)
        norms = {key: value for key, value in found[0].items() if key.endswith("_norm")}
        names = [key for key in found[0] if key not in norms and key not in ("tokens", "logprob_gap")]
        means = {name: sum(figures.get(name, 0.0) for figures in found) / tokens for name in names}
        return means | norms, max(figures["logprob_gap"] for figures in found)

    def publish(self) -> None:
        """The policy's weights into every sampler. What they generate next proves them."""
        check_pushed(self._call("publish"))

    def prove(self) -> float:
        """How far any sampler is from the policy, in nats. Raises NotProven where that is too far."""
        return max(self._call("prove"))

    def save(self, place: Path) -> None:
        self._call("save", place)

    def load(self, place: Path) -> None:
        self._call("load", place)

    def export(self, out: Path, curve: Sequence[Mapping[str, float]]) -> None:
        self._call("export", out, list(curve))

    def spent(self) -> dict[str, float]:
        """Seconds of each phase since this was last asked."""
        found, self._spent = self._spent, dict.fromkeys(PHASES.values(), 0.0)
        return found

    def _shared(self, method: str, items: Sequence[Any], **kwargs: Any) -> list[Any]:
        """Every rank gets its part of the items, in order."""
        parts = [list(items[slice(*own_part(len(items), rank, self.size))]) for rank in range(self.size)]
        return [one for part in self._call(method, per_rank=parts, **kwargs) for one in part]

    def _call(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        begin = time.perf_counter()
        found = self._gang.call(method, *args, deadline_s=self._deadline_s, **kwargs)
        if method in PHASES:
            self._spend(PHASES[method], time.perf_counter() - begin)
        return found

    def _spend(self, phase: str, seconds: float) -> None:
        self._spent[phase] = self._spent.get(phase, 0.0) + seconds


def check_pushed(ranks: Sequence[Loaded]) -> None:
    """Raises ClusterError where a rank's engine refused the weights."""
    for rank, loaded in enumerate(ranks):
        if not loaded.pushed:
            raise ClusterError(
                f"ppo: rank {rank} could not publish the policy's weights: {loaded.why}; expected a model that "
                f"vLLM runs as its learner does"
            )


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
        "threads": cluster.threads_per_worker,
        "kv_cache_bytes": cluster.kv_cache_bytes,
        "cache": None if work.cache is None else str(work.cache),
    }


def seed_of(seed: int, iteration: int) -> int:
    """A number for everything that is drawn in an iteration."""
    return int(np.random.SeedSequence([seed, iteration]).generate_state(1, np.uint32)[0])
