"""Follows the trials of a sweep: keeps their record, and tells each event in a line."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.errors import UserError
from pipelines.run.progress import Story
from pipelines.store.artifacts import Store
from pipelines.sweep.trials import SweepRecord, Trial

SAVE_EVERY_S = 5.0


class Follower:
    """What the trials' watcher does with what it hears. See Watcher in pipelines/sweep/tune.py."""

    def __init__(self, record: SweepRecord, store: Store, story: Story):
        self.record, self.store, self.story = record, store, story
        self._began: dict[int, float] = {}
        self._saved = 0.0
        self._problem: str | None = None

    def started(self, number: int) -> None:
        trial = self._trial(number)
        trial.outcome = "running"
        self._began.setdefault(number, time.monotonic())  # one whose process died is started again
        has_draft = (self.store.root / "drafts" / trial.fingerprint).is_dir()
        self._tell(trial, "goes on from its draft" if has_draft else "started")

    def told(self, number: int, share: float, value: float) -> None:
        self._trial(number).add(share, value)
        trials = self.record.trials
        done = sum(1.0 if trial.outcome in ("done", "pruned", "failed") else trial.reached for trial in trials)
        self.story.update(done, len(trials), "trials", trial=str(number), **{self.record.watch: value})

    def ended(self, number: int, said: Mapping[str, Any] | None) -> None:
        trial = self._trial(number)
        trial.wall_s = round(trial.wall_s + time.monotonic() - self._began.pop(number, time.monotonic()), 3)
        if said is None:
            trial.outcome = "pruned"
            figure = f"{self.record.watch} {trial.curve[-1][1]:.4g}" if trial.curve else ""
            self._tell(trial, f"ended early, at {trial.reached:.0%}: {figure}, not among the best third")
        elif said["problem"]:
            trial.outcome, trial.problem = ("failed" if said["final"] else "lost"), said["problem"]
            self._tell(trial, f"{trial.outcome}: {trial.problem}")
        else:
            trial.outcome = "done"
            self.judge(trial)
            if trial.figure is not None:
                self._tell(trial, f"done in {trial.wall_s:.0f} s: {self.record.metric} {trial.figure:.6g}")
            if not trial.curve and said["figures"]:
                self.story.note(f"{self.record.until} shows no {self.record.watch!r} while it works, so nothing is "
                                f"ended early; sweep.watch may be {said['figures']}")  # fmt: skip

    def judge(self, trial: Trial) -> None:
        """Reads a finished trial's figure in the store."""
        facts = self._facts(trial)
        figure = facts.get(self.record.metric)
        if isinstance(figure, int | float):
            trial.figure = float(figure)
        elif self._problem is None:
            known = ", ".join(sorted(key for key, value in facts.items() if isinstance(value, int | float)))
            self._problem = f"sweep.metric: {self.record.until} has no figure {self.record.metric!r}; it has {known}"

    def tick(self) -> None:
        """Raises UserError where the metric turned out not to exist."""
        self.check()
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self._save()

    def close(self, outcome: str) -> None:
        """The trials' processes are gone: what was made in the very moment it was ended is done after all."""
        self.story.end()
        for trial in self.record.trials:
            if trial.outcome == "pruned" and self._complete(trial):
                trial.outcome = "done"
                self.judge(trial)
            if trial.outcome == "running":
                trial.wall_s += round(time.monotonic() - self._began.pop(trial.number, time.monotonic()), 3)
        self.record.outcome = outcome
        self._save()

    def check(self) -> None:
        """Raises UserError where a trial was made and its figures have no such metric."""
        if self._problem is not None:
            raise UserError(self._problem)

    def _facts(self, trial: Trial) -> dict[str, Any]:
        """Facts of a trial's last artifact and of its evaluation."""
        found: dict[str, Any] = {}
        for fingerprint in filter(None, (trial.fingerprint, trial.evaluation)):
            artifact = self.store.by_fingerprint(fingerprint)
            if artifact is not None:
                found = dict(artifact.facts) | found
        return found

    def _complete(self, trial: Trial) -> bool:
        return self.record.metric in self._facts(trial)

    def _trial(self, number: int) -> Trial:
        return self.record.trials[number - 1]

    def _tell(self, trial: Trial, text: str) -> None:
        self.story.note(f"trial {trial.number:<3} {shown_values(trial)}: {text}")
        self._save()

    def _save(self) -> None:
        self._saved = time.monotonic()
        self.record.save(self.store)


def shown_values(trial: Trial) -> str:
    """learning_rate 0.02, optimizer muon."""
    names = short_names(list(trial.values))
    return ", ".join(f"{names[name]} {value}" for name, value in trial.values.items())


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names of spaces without their stage, where all stand in the same."""
    stages = {name.split(".")[0] for name in names}
    return {name: name.partition(".")[2] if len(stages) == 1 else name for name in names}
