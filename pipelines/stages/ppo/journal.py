"""How far a run of PPO is, and what it needs to continue bit for bit.

DRAFT/iterations/step-N/rank-R/         each learner's weights and optimiser state
DRAFT/iterations/step-N/complete.json   the journal, written last: without it a step does not count
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

from pipelines.learning.checkpoint import Interval
from pipelines.rollout.advantage import RunningMoments
from pipelines.rollout.experience import Experience, Rollout
from pipelines.rollout.rewards.reward import Scores
from pipelines.stage import Facts
from pipelines.stages.ppo.learners import Learners, Update
from pipelines.store.artifacts import write_atomically

COMPLETE = "complete.json"


@dataclass
class Journal:
    """What is known after a number of iterations."""

    iterations: int = 0
    kl_coefficient: float = 0.0  # of the next iteration
    curve: list[dict[str, float]] = field(default_factory=list)  # a point an iteration, without times
    seconds: dict[str, float] = field(default_factory=dict)  # by phase, summed over iterations
    first_s: float = 0.0  # of the first iteration, in which kernels are loaded and the optimizers' state is made
    reply_tokens: int = 0
    logprob_gap: float = 0.0  # the largest of all published weights, nats
    reward_moments: tuple[int, float, float] = (0, 0.0, 0.0)  # of all replies: see advantage.RunningMoments

    def add(
        self,
        point: Mapping[str, float],
        seconds: Mapping[str, float],
        *,
        rollouts: Sequence[Rollout],
        logprob_gap: float,
    ) -> None:
        """Adds an iteration: its point of the curve, and its seconds by phase."""
        self.iterations += 1
        if self.iterations == 1:
            self.first_s = sum(seconds.values())
        self.curve.append({"ppo/iteration": self.iterations, **point, "kl/coefficient": self.kl_coefficient})
        for phase, phase_s in seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + phase_s
        self.reply_tokens += sum(len(rollout.reply.tokens) for rollout in rollouts)
        self.logprob_gap = max(self.logprob_gap, logprob_gap)

    def normalised(self, rewards: Sequence[float]) -> list[float]:
        """An iteration's rewards with mean 0 and standard deviation 1 over all replies so far, these among them."""
        moments = RunningMoments(*self.reward_moments).with_values(rewards)
        self.reward_moments = (moments.num, moments.mean, moments.squares)
        return moments.standardised(rewards)

    @property
    def iteration_s(self) -> float:
        """Seconds of an iteration after the first; of the first where there is no other. The first counts, too, where
        an earlier version, which did not note its time, began the run."""
        others = self.iterations - (self.first_s > 0)
        return (sum(self.seconds.values()) - self.first_s) / others if others else self.first_s

    @property
    def mean_reply_tokens(self) -> float:
        """Tokens of a reply, over all iterations."""
        return fmean(point["rollout/reply_tokens"] for point in self.curve)

    def facts(self) -> Facts:
        """Means over all iterations; rewards over the first and the last tenth of them."""
        tenth = max(1, len(self.curve) // 10)
        rewards = [point["reward/mean"] for point in self.curve]
        mismatches = [name for name in self.curve[0] if name.startswith("mismatch/")]
        return {
            "ppo/iterations": self.iterations,
            "reward/first": sum(rewards[:tenth]) / tenth,
            "reward/last": sum(rewards[-tenth:]) / tenth,
            "rollout/reply_tokens": self.curve[-1]["rollout/reply_tokens"],
            "rollout/tokens_per_s": self.reply_tokens / self.seconds["generate"],
            "publish/logprob_gap": self.logprob_gap,
            **{name: fmean(point[name] for point in self.curve) for name in mismatches},
            **{f"iteration/{phase}_s": phase_s / self.iterations for phase, phase_s in self.seconds.items()},
        }


@dataclass(frozen=True)
class Steps:
    """The folder of a draft's steps, of which the last complete one is kept."""

    folder: Path

    def latest(self) -> tuple[Path, Journal] | None:
        """The last complete step. Removes all others: cut off by a kill, or outdated."""
        complete = sorted(path.parent for path in self.folder.glob(f"step-*/{COMPLETE}"))
        for path in self.folder.glob("step-*"):
            if not complete or path != complete[-1]:
                shutil.rmtree(path)
        if not complete:
            return None
        values = json.loads((complete[-1] / COMPLETE).read_text(encoding="utf-8"))
        return complete[-1], Journal(**values | {"reward_moments": tuple(values["reward_moments"])})

    def iterations_done(self) -> int:
        """Iterations of the last complete step."""
        latest = self.latest()
        return latest[1].iterations if latest else 0

    def begin(self, journal: Journal) -> Path:
        """An empty folder for the learners to save their state in."""
        folder = self.folder / f"step-{journal.iterations:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def complete(self, folder: Path, journal: Journal) -> None:
        """Marks a step as complete, after all learners have written into its folder."""
        write_atomically(folder / COMPLETE, json.dumps(asdict(journal)))
        self.latest()


class Checkpoints:
    """Saves steps now and then. Learners write beside what follows, and then the step is completed.

    every: iterations between two; None: see Interval."""

    def __init__(self, steps: Steps, learners: Learners, every: int | None):
        self._steps, self._learners, self._interval = steps, learners, Interval(every)
        self._pending: tuple[Path, Journal] | None = None  # the step that is being written
        self._copy_s = 0.0  # that it took to copy it

    def after(self, journal: Journal, *, last: bool) -> None:
        """After an iteration: saves it where it is due. last: saves it, and waits until it is complete."""
        if not (last or self._interval.due(journal.iterations)):
            return
        start = time.perf_counter()
        folder = self._steps.begin(journal)
        self._learners.save(folder)
        self._pending = folder, deepcopy(journal)
        self._copy_s = time.perf_counter() - start
        if last:
            self.complete()

    def complete(self) -> float:
        """Completes the step that is being written, if there is one. Returns the seconds that this took."""
        start = time.perf_counter()
        if self._pending is not None:
            self._learners.wait_until_saved()
            self._steps.complete(*self._pending)
            self._pending = None
            self._interval.saved(self._copy_s + time.perf_counter() - start)
        return time.perf_counter() - start


def curve_point(
    scores: Scores, rollouts: Sequence[Rollout], experience: Experience, update: Update
) -> dict[str, float]:
    """An iteration's point of the curve."""
    parts = {f"reward/{name}": sum(values) / len(values) for name, values in scores.parts.items()}
    replies = [rollout.reply for rollout in rollouts]
    losses = {f"train/{name}": update.means[name] for name in ("policy_loss", "value_loss") if name in update.means}
    return {
        "reward/mean": sum(scores.total) / len(scores.total),
        **(parts if len(parts) > 1 else {}),
        "rollout/kl_nats": experience.kl_nats_B.mean().item(),
        "rollout/entropy_nats": update.means["entropy_nats"],
        "rollout/reply_tokens": sum(len(reply.tokens) for reply in replies) / len(replies),
        "rollout/finished_fraction": sum(reply.finish == "stop" for reply in replies) / len(replies),
        "train/clipped_fraction": update.means["clipped"],
        **losses,
        **experience.mismatch(),
        **{f"train/{name}_gradient_norm": norm for name, norm in update.gradient_norms.items()},
    }
