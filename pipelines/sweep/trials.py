"""The record of a sweep: its trials, their progress, and the best one.

    STORE/sweeps/<recipe>-<digest>.json    the record: written by the sweep alone, read by reports
    STORE/sweeps/<recipe>-<digest>/        each trial's log (trial-3.log) and runs

The digest covers the recipe, its spaces, the metric and the seed, but not the number of trials: a sweep with more
trials keeps the earlier ones. A trial's model is an ordinary artifact; a trial that was stopped early leaves a draft.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from pipelines.recipe.reader import RecipeTemplate
from pipelines.recipe.search_space import Space, SweepOptions, Values
from pipelines.store.artifacts import Store
from pipelines.store.digests import digest_value

MAX_CURVE_POINTS = 200  # of a trial's live figure
Outcome = Literal["waiting", "running", "done", "pruned", "failed", "lost"]
FINAL = ("done", "pruned", "failed")  # lost: the machine failed, so the next sweep tries the trial again


class Trial(BaseModel):
    """One set of values, and its outcome."""

    number: int  # from 1
    values: dict[str, Any]  # by name: {"pretrain.learning_rate": 0.02}
    fingerprint: str = ""  # of the artifact of its last stage
    evaluation: str = ""  # fingerprint of the evaluation that follows, if any
    outcome: Outcome = "waiting"
    figure: float | None = None  # the metric, once done
    curve: list[tuple[float, float]] = []  # (fraction of the last stage, live figure)
    problem: str = ""
    wall_s: float = 0.0  # sum over all attempts

    @property
    def reached(self) -> float:
        """Fraction of its last stage that is completed, as last reported."""
        return self.curve[-1][0] if self.curve else 0.0

    def add(self, fraction: float, value: float) -> None:
        """Adds a point to the curve. A resumed trial replaces the points from this fraction on."""
        while self.curve and self.curve[-1][0] >= fraction:
            self.curve.pop()
        self.curve.append((fraction, value))


class SweepRecord(BaseModel):
    """A sweep of a recipe, as stored."""

    id: str
    recipe: str
    metric: str
    mode: str  # min or max
    watch: str
    watch_mode: str
    until: str
    seed: int
    spaces: dict[str, str]  # by name: {"pretrain.learning_rate": "log_uniform [0.001, 0.1]"}
    log_scales: list[str] = []  # names of the spaces that are plotted on a logarithmic scale
    trials: list[Trial] = []
    outcome: str = "running"  # running | done | interrupted | failed
    changed: str = ""  # when it was last saved

    @property
    def best(self) -> Trial | None:
        """The finished trial with the best metric; the first of several."""
        done = [trial for trial in self.trials if trial.outcome == "done" and trial.figure is not None]
        sign = 1 if self.mode == "min" else -1
        return min(done, key=lambda trial: (sign * (trial.figure or 0.0), trial.number), default=None)

    def ranked(self) -> list[Trial]:
        """Finished trials first, the best metric first; then those stopped early, the longest first; then the rest."""
        sign = 1 if self.mode == "min" else -1
        order = ("done", "pruned", "running", "lost", "waiting", "failed")

        def key(trial: Trial) -> tuple[float, ...]:
            figure = 0.0 if trial.figure is None else sign * trial.figure
            return (order.index(trial.outcome), figure, -trial.reached, trial.number)

        return sorted(self.trials, key=key)

    def count(self, outcome: Outcome) -> int:
        """Number of trials with this outcome."""
        return sum(trial.outcome == outcome for trial in self.trials)

    def folder(self, store: Store) -> Path:
        """The folder, on this machine, of the trials' logs."""
        return store.root / "sweeps" / self.id

    def save(self, store: Store) -> None:
        """Writes the record to STORE/sweeps/<id>.json."""
        self.changed = datetime.now(UTC).isoformat()
        store.write(f"sweeps/{self.id}.json", self.model_dump_json(indent=1))


def sweep_id(name: str, template: RecipeTemplate, options: SweepOptions, until: str, seed: int) -> str:
    """The recipe's name, and a digest of everything that determines the trials and their ranking."""
    ranking = options.model_dump(exclude={"trials", "parallel", "until", "seed"})
    tree = {key: value for key, value in template.tree.items() if key not in ("name", "store", "cluster", "sweep")}
    digest = digest_value({"recipe": tree, "sweep": ranking, "until": until, "seed": seed})
    return re.sub(r"[^\w.-]", "_", name) + "-" + digest[:8]


def load(store: Store, id_: str) -> SweepRecord | None:
    """The record with this id, or None."""
    text = store.read(f"sweeps/{id_}.json")
    return None if text is None else SweepRecord.model_validate_json(text)


def latest(store: Store, recipe: str) -> SweepRecord | None:
    """The sweep of this recipe that was saved last, or None."""
    texts = [store.read(name) for name in store.names("sweeps")]
    records = [SweepRecord.model_validate_json(text) for text in texts if text is not None]
    return max((r for r in records if r.recipe == recipe), key=lambda record: record.changed, default=None)


def values_by_name(values: Values, spaces: tuple[Space, ...]) -> dict[str, Any]:
    """A trial's values by the names of their spaces."""
    return {space.name: values[space.path] for space in spaces}
