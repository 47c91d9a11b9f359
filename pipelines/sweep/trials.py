"""What is known of a sweep: its trials, how far each came, and which is the best.

    STORE/sweeps/<recipe>-<digest>.json    the record: written by the sweep alone, read by reports
    STORE/sweeps/<recipe>-<digest>/        its lease, and each trial's story (trial-3.log) and runs

The digest stands for the recipe, its spaces, the metric and the seed, not for the number of trials: asked for more, a
sweep goes on with those it has. A trial's model is an ordinary artifact; one that was ended early left a draft.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from pipelines.recipe.reader import Written
from pipelines.recipe.search_space import Space, SweepOptions
from pipelines.store.artifacts import Store, write_atomically
from pipelines.store.digests import digest_value

CURVE_POINTS = 200  # of a trial's live figure, at most
Outcome = Literal["waiting", "running", "done", "pruned", "failed", "lost"]
FINAL = ("done", "pruned", "failed")  # lost: the machine's failure, tried again by the next sweep


class Trial(BaseModel):
    """One set of values, and what became of it."""

    number: int  # from 1
    values: dict[str, Any]  # by name: {"pretrain.learning_rate": 0.02}
    fingerprint: str = ""  # of the last stage's artifact
    evaluation: str = ""  # of the evaluation that follows it, if one does
    outcome: Outcome = "waiting"
    figure: float | None = None  # the metric, once done
    curve: list[tuple[float, float]] = []  # (share of the stage, live figure)
    problem: str = ""
    wall_s: float = 0.0  # over all attempts

    @property
    def reached(self) -> float:
        """The share of its stage that was worked through, as far as was told."""
        return self.curve[-1][0] if self.curve else 0.0

    def add(self, share: float, value: float) -> None:
        """A point of the curve; one that a resumed trial tells again replaces what came after it."""
        while self.curve and self.curve[-1][0] >= share:
            self.curve.pop()
        self.curve.append((share, value))


class SweepRecord(BaseModel):
    """A sweep of a recipe."""

    id: str
    recipe: str
    metric: str
    mode: str  # min or max
    watch: str
    watch_mode: str
    until: str
    seed: int
    spaces: dict[str, str]  # by name, as the recipe writes them
    log_scales: list[str] = []  # names of the spaces that are shown on a logarithmic scale
    trials: list[Trial] = []
    outcome: str = "running"  # running | done | interrupted | failed
    changed: str = ""

    @property
    def best(self) -> Trial | None:
        """The trial with the best metric of those that are done; of equals the first."""
        done = [trial for trial in self.trials if trial.outcome == "done" and trial.figure is not None]
        sign = 1 if self.mode == "min" else -1
        return min(done, key=lambda trial: (sign * (trial.figure or 0.0), trial.number), default=None)

    def ranked(self) -> list[Trial]:
        """The best first; then those that were ended early, the one that came furthest first; then the others."""
        sign = 1 if self.mode == "min" else -1
        order = ("done", "pruned", "running", "lost", "waiting", "failed")

        def key(trial: Trial) -> tuple[float, ...]:
            figure = 0.0 if trial.figure is None else sign * trial.figure
            return (order.index(trial.outcome), figure, -trial.reached, trial.number)

        return sorted(self.trials, key=key)

    def count(self, outcome: Outcome) -> int:
        return sum(trial.outcome == outcome for trial in self.trials)

    def folder(self, store: Store) -> Path:
        """Where its lease and its trials' stories are."""
        return store.root / "sweeps" / self.id

    def save(self, store: Store) -> None:
        self.changed = datetime.now(UTC).isoformat()
        write_atomically(store.root / "sweeps" / f"{self.id}.json", self.model_dump_json(indent=1))


def identity(name: str, written: Written, options: SweepOptions, until: str, seed: int) -> str:
    """A sweep's id: the recipe's name, and a digest of all that decides what its trials are and how they are judged."""
    asked = options.model_dump(exclude={"trials", "parallel", "until", "seed"})
    tree = {key: value for key, value in written.tree.items() if key not in ("name", "store", "cluster", "sweep")}
    digest = digest_value({"recipe": tree, "sweep": asked, "until": until, "seed": seed})
    return re.sub(r"[^\w.-]", "_", name) + "-" + digest[:8]


def load(store: Store, id_: str) -> SweepRecord | None:
    """The record of this id, or None."""
    file = store.root / "sweeps" / f"{id_}.json"
    return SweepRecord.model_validate_json(file.read_text(encoding="utf-8")) if file.is_file() else None


def latest(store: Store, recipe: str) -> SweepRecord | None:
    """The sweep of a recipe that was worked on last, or None."""
    found = [SweepRecord.model_validate_json(file.read_text(encoding="utf-8"))
             for file in (store.root / "sweeps").glob("*.json")]  # fmt: skip
    return max((r for r in found if r.recipe == recipe), key=lambda record: record.changed, default=None)


def named(values: dict[Any, Any], spaces: tuple[Space, ...]) -> dict[str, Any]:
    """A trial's values by the names of their spaces."""
    return {space.name: values[space.path] for space in spaces}
