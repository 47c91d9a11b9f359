"""How far a run of PPO is, and what it needs to go on bit for bit.

DRAFT/iterations/step-N/rank-R/     each learner's weights and optimiser state
DRAFT/iterations/step-N/complete.json   the journal, written last: without it a step does not count
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipelines.inference.reply import Reply
from pipelines.rollout.experience import Experience
from pipelines.rollout.rewards.reward import Scores
from pipelines.stage import Facts
from pipelines.store.artifacts import write_atomically

COMPLETE = "complete.json"
TOLD = ("policy_loss", "value_loss", "policy_gradient_norm", "critic_gradient_norm")  # the critic's where there is one


@dataclass
class Journal:
    """What is known after so many iterations."""

    iterations: int = 0
    kl_coefficient: float = 0.0  # of the next iteration
    curve: list[dict[str, float]] = field(default_factory=list)  # a point an iteration, without times
    seconds: dict[str, float] = field(default_factory=dict)  # by phase, summed over iterations
    whole_s: float = 0.0  # of all iterations, with what no phase counts
    reply_tokens: int = 0
    logprob_gap: float = 0.0  # the largest of all publishings

    def add(self, point: dict[str, float], seconds: dict[str, float], *, reply_tokens: int, gap: float) -> None:
        """An iteration is done."""
        self.iterations += 1
        self.curve.append({"ppo/iteration": self.iterations, **point, "kl/coefficient": self.kl_coefficient})
        for phase, spent in seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
        self.reply_tokens += reply_tokens
        self.logprob_gap = max(self.logprob_gap, gap)

    def facts(self) -> Facts:
        """Means over all iterations; rewards over the first and the last tenth of them."""
        tenth = max(1, len(self.curve) // 10)
        rewards = [point["reward/mean"] for point in self.curve]
        spent = self.seconds | {"other": self.whole_s - sum(self.seconds.values())}
        return {
            "ppo/iterations": self.iterations,
            "reward/first": sum(rewards[:tenth]) / tenth,
            "reward/last": sum(rewards[-tenth:]) / tenth,
            "rollout/reply_tokens": self.curve[-1]["rollout/reply_tokens"],
            "rollout/tokens_per_s": self.reply_tokens / self.seconds["generate"],
            "publish/logprob_gap": self.logprob_gap,
            **{f"iteration/{phase}_s": each / self.iterations for phase, each in spent.items()},
        }


@dataclass(frozen=True)
class Steps:
    """The steps that a draft keeps: the last complete one."""

    folder: Path

    def latest(self) -> tuple[Path, Journal] | None:
        """The last complete step; what else there is, cut by a kill or outlived, goes."""
        done = sorted(path.parent for path in self.folder.glob(f"step-*/{COMPLETE}"))
        for path in self.folder.glob("step-*"):
            if not done or path != done[-1]:
                shutil.rmtree(path)
        if not done:
            return None
        return done[-1], Journal(**json.loads((done[-1] / COMPLETE).read_text(encoding="utf-8")))

    def begin(self, journal: Journal) -> Path:
        """Where the learners put what they need, empty."""
        place = self._place(journal)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place

    def complete(self, journal: Journal) -> None:
        """All learners have written: from now on this step is the last."""
        write_atomically(self._place(journal) / COMPLETE, json.dumps(asdict(journal)))
        self.latest()

    def _place(self, journal: Journal) -> Path:
        return self.folder / f"step-{journal.iterations:06d}"


def figures(
    scores: Scores, replies: Sequence[Reply], experience: Experience, learnt: dict[str, float]
) -> dict[str, float]:
    """A point of the curve. learnt: the learners' means over tokens."""
    means = {f"reward/{name}": sum(own) / len(own) for name, own in scores.parts.items()}
    return {
        "reward/mean": sum(scores.total) / len(scores.total),
        **(means if len(means) > 1 else {}),
        "rollout/kl_nats": float(experience.kl_nats.mean()),
        "rollout/entropy_nats": learnt["entropy_nats"],
        "rollout/reply_tokens": sum(len(reply.tokens) for reply in replies) / len(replies),
        "rollout/finished_share": sum(reply.finish == "stop" for reply in replies) / len(replies),
        "train/clipped_share": learnt["clipped"],
        **{f"train/{name}": learnt[name] for name in TOLD if name in learnt},
    }
