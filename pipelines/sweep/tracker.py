"""Tracks the trials of a sweep: updates the record and logs a line for each event."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.errors import UserError
from pipelines.run.progress import RunLog
from pipelines.store.artifacts import Store
from pipelines.sweep.trials import FINAL, SweepRecord, Trial

SAVE_EVERY_S = 5.0


class SweepTracker:
    """Handles the events of the trials. Implements TrialEvents (pipelines/sweep/tune.py)."""

    def __init__(self, record: SweepRecord, store: Store, log: RunLog):
        self.record, self.store, self.log = record, store, log
        self._started: dict[int, float] = {}  # by trial number, when it started (monotonic clock, seconds)
        self._saved = 0.0  # when the record was last saved
        self._problem: str | None = None

    def started(self, number: int) -> None:
        """A trial started, or started again after its process died."""
        trial = self._trial(number)
        trial.outcome = "running"
        self._started.setdefault(number, time.monotonic())
        has_draft = self.store.has_draft(trial.fingerprint)
        self._log(trial, "resumes from its draft" if has_draft else "started")

    def progressed(self, number: int, fraction: float, value: float) -> None:
        """A trial completed this fraction of its last stage; value: its live figure."""
        self._trial(number).add(fraction, value)
        trials = self.record.trials
        done = sum(1.0 if trial.outcome in FINAL else trial.reached for trial in trials)
        self.log.update(done, len(trials), "trials", trial=str(number), **{self.record.watch: value})

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """A trial ended. result: see TrialEvents."""
        trial = self._trial(number)
        trial.wall_s = round(trial.wall_s + self._elapsed_s(trial), 3)
        if result is None:
            trial.outcome = "pruned"
            figure = f"{self.record.watch} {trial.curve[-1][1]:.4g}" if trial.curve else ""
            self._log(trial, f"stopped early, at {trial.reached:.0%}: {figure}, not among the best third")
        elif result["problem"]:
            trial.outcome = "failed" if result["final"] else "lost"
            trial.problem = result["problem"]
            self._log(trial, f"{trial.outcome}: {trial.problem}")
        else:
            trial.outcome = "done"
            self.read_figure(trial)
            if trial.figure is not None:
                self._log(trial, f"done in {trial.wall_s:.0f} s: {self.record.metric} {trial.figure:.6g}")
            if not trial.curve and result["figures"]:
                self.log.note(f"{self.record.until} reports no {self.record.watch!r} while it runs, so no trial is "
                              f"stopped early; sweep.watch may be {result['figures']}")  # fmt: skip

    def read_figure(self, trial: Trial) -> None:
        """Reads the metric of a finished trial from the store."""
        facts = self._facts(trial)
        figure = facts.get(self.record.metric)
        if isinstance(figure, int | float):
            trial.figure = float(figure)
        elif self._problem is None:
            names = ", ".join(sorted(key for key, value in facts.items() if isinstance(value, int | float)))
            self._problem = f"sweep.metric: {self.record.until} has no figure {self.record.metric!r}; it has {names}"

    def tick(self) -> None:
        """Saves the record now and then. Raises UserError if the metric does not exist."""
        self.check()
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self._save()

    def close(self, outcome: str) -> None:
        """Ends the sweep, once the trials' processes are gone. A trial that finished while it was stopped is done."""
        self.log.end()
        for trial in self.record.trials:
            if trial.outcome == "pruned" and self.record.metric in self._facts(trial):
                trial.outcome = "done"
                self.read_figure(trial)
            if trial.outcome == "running":
                trial.wall_s += round(self._elapsed_s(trial), 3)
        self.record.outcome = outcome
        self._save()

    def check(self) -> None:
        """Raises UserError if a finished trial has no such metric."""
        if self._problem is not None:
            raise UserError(self._problem)

    def _facts(self, trial: Trial) -> dict[str, Any]:
        """Facts of a trial's last artifact and of its evaluation; the artifact's win where both have a key."""
        facts: dict[str, Any] = {}
        for fingerprint in (trial.evaluation, trial.fingerprint):
            artifact = self.store.by_fingerprint(fingerprint) if fingerprint else None
            if artifact is not None:
                facts |= artifact.facts
        return facts

    def _elapsed_s(self, trial: Trial) -> float:
        """Seconds since the trial started; 0 if it did not."""
        now = time.monotonic()
        return now - self._started.pop(trial.number, now)

    def _trial(self, number: int) -> Trial:
        return self.record.trials[number - 1]

    def _log(self, trial: Trial, text: str) -> None:
        self.log.note(f"trial {trial.number:<3} {format_values(trial)}: {text}")
        self._save()

    def _save(self) -> None:
        self._saved = time.monotonic()
        self.record.save(self.store)


def format_values(trial: Trial) -> str:
    """The values of a trial as text: learning_rate 0.02, optimizer muon."""
    names = short_names(list(trial.values))
    return ", ".join(f"{names[name]} {value}" for name, value in trial.values.items())


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names of spaces, by full name: without the stage if all belong to the same one."""
    stages = {name.split(".")[0] for name in names}
    return {name: name.partition(".")[2] if len(stages) == 1 else name for name in names}
