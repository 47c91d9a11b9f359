"""Runs trials in parallel under Ray Tune and stops the worse ones early (ASHA). The only import of ray.tune.

    run_trials(jobs) ── Tune ──► a process per trial: Walk(recipe).run(), as `rayse run` does, on the same store
         ▲  TrialEvents: started, progressed, ended     │
         └───────────── ray.tune.report ◄── TrialLog ◄──┘ live figures of the last stage

Tune schedules and prunes, and keeps no state: a trial's artifact, or the draft from which it resumes, is in the store.
The trial's process reserves no CPU, since its stages start workers that do. A trial that is stopped early is killed:
its draft stays, its lease is stale at once, and its reservations are released.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any, Protocol, TextIO

import ray
import ray.tune
import ray.tune.schedulers

from cluster.errors import ClusterError
from cluster.orphans import free_orphans
from cluster.session import Session, log_location
from pipelines.errors import UserError
from pipelines.recipe.reader import Recipe
from pipelines.run.progress import RunLog
from pipelines.run.walk import Walk
from pipelines.store.artifacts import Store
from pipelines.sweep.trials import MAX_CURVE_POINTS, Trial

REDUCTION = 3  # the best third of the trials that reach a rung continues; rungs are at grace, 3 × grace, …
SMOOTHING_WINDOW = 0.1  # fraction of the stage over which a live figure is averaged: one batch alone is noisy
MAX_ATTEMPTS = 3  # of a trial whose process dies
TICK_S = 1.0
# One byte of memory: Tune refuses a trial without resources, and a fraction of a CPU would leave no whole CPU to its
# workers.
TRIAL_RESOURCES: dict[str, float] = {"memory": 1}
TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be silenced
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # keeps relative paths valid in a trial
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the command line handles Ctrl-C
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last report of a trial has no live figure
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's state is never restored: the store has everything
}


@dataclass(frozen=True)
class Job:
    """Input of a trial's process."""

    number: int
    recipe: Recipe
    until: str
    store: str  # its location
    folder: Path  # of the sweep: the trial logs to trial-N.log
    watch: str


@dataclass(frozen=True)
class Pruning:
    """How trials are compared while they run."""

    mode: str  # min or max: the direction of the live figure
    grace: float  # fraction of the stage before a trial can be stopped
    past: Sequence[Trial] = ()  # trials of earlier attempts at this sweep, to compare with


class TrialEvents(Protocol):
    """Receives the events of the trials, in the driver."""

    def started(self, number: int) -> None:
        """A trial's process started."""
        ...

    def progressed(self, number: int, fraction: float, value: float) -> None:
        """A trial completed this fraction of its last stage; value: its live figure."""
        ...

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """A trial ended. result: None if it was stopped early, otherwise `problem`: the error message, if any; `final`:
        whether it would fail again; `figures`: the names of its live figures."""
        ...

    def tick(self) -> None:
        """Called about once a second."""
        ...


def run_trials(
    jobs: Sequence[Job], *, parallel: int, pruning: Pruning | None, events: TrialEvents, scratch: Path
) -> None:
    """Runs all trials, `parallel` at once, until each has ended. Ray must have been started.

    pruning: None lets every trial run to its end. scratch: a folder for Tune that all nodes share, removed at the end.
    Raises what the handler of events raises; a trial's failure is reported by `events.ended`.
    """
    os.environ.update(TUNE_ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # lost trials are reported by `events`
    scratch.mkdir(parents=True, exist_ok=True)
    by_number = {job.number: job for job in jobs}
    trainable = ray.tune.with_resources(ray.tune.with_parameters(_run_job, jobs=by_number), TRIAL_RESOURCES)
    tuner = ray.tune.Tuner(
        trainable,
        param_space={"number": ray.tune.grid_search(list(by_number))},
        tune_config=ray.tune.TuneConfig(
            scheduler=None if pruning is None else _scheduler(pruning), max_concurrent_trials=parallel
        ),
        run_config=ray.tune.RunConfig(
            name="trials",
            storage_path=str(scratch.absolute()),
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=MAX_ATTEMPTS - 1),
            callbacks=[_Callback(events)],
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scheduler(pruning: Pruning) -> Any:
    """ASHA (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning"), with the curves of past trials.

    Its time is the percentage of the stage, so trials with different budgets are compared at the same percentage."""
    scheduler: Any = ray.tune.schedulers.ASHAScheduler(
        time_attr="percent", metric="live", mode=pruning.mode, max_t=100, grace_period=100 * pruning.grace,  # pyright: ignore[reportArgumentType]
        reduction_factor=REDUCTION, stop_last_trials=False,
    )  # fmt: skip
    for trial in pruning.past:
        past = SimpleNamespace(trial_id=f"past-{trial.number}")  # the only attribute that the scheduler reads
        scheduler.on_trial_add(None, past)
        for fraction, value in trial.curve:
            if fraction < 1:
                scheduler.on_trial_result(None, past, {"percent": 100 * fraction, "live": value})
    return scheduler


class _Callback(ray.tune.Callback):
    """Passes Tune's events in the driver on to TrialEvents."""

    def __init__(self, events: TrialEvents):
        self._events = events
        self._results: dict[int, Mapping[str, Any]] = {}  # last reports, by trial number
        self._ticked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its settings for a restore, which Rayse does not use; this object cannot be pickled."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._events.started(trial.config["number"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = trial.config["number"]
        if "final" in result:
            self._results[number] = result
        elif "fraction" in result:
            self._events.progressed(number, result["fraction"], result["value"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        self._events.ended(number, self._results.get(number))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        problem = f"its process died {MAX_ATTEMPTS} times, perhaps out of memory. Logs: {log_location()}"
        self._events.ended(trial.config["number"], {"problem": problem, "final": False, "figures": ""})

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._ticked >= TICK_S:
            self._ticked = time.monotonic()
            free_orphans()
            self._events.tick()


# ---- in the trial's process ------------------------------------------------------------------------------------------


def _run_job(config: dict[str, Any], jobs: Mapping[int, Job]) -> None:
    """The function that Tune calls: runs the trial's recipe and reports the result."""
    job = jobs[config["number"]]
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / f"trial-{job.number}.log").open("a", encoding="utf-8") as file:
        log = TrialLog(file, job.until, job.watch)
        problem, final = "", True
        try:
            _run_recipe(job, log)
        except UserError as error:  # it would fail again
            problem = str(error)
        except ClusterError as error:
            problem, final = str(error), False
        except Exception as error:
            file.write(traceback.format_exc())
            problem, final = f"{type(error).__name__}: {error} (see {file.name})", False
    ray.tune.report({"problem": problem, "final": final, "figures": ", ".join(sorted(log.figures))})


def _run_recipe(job: Job, log: RunLog) -> None:
    """Runs the trial's recipe in the cluster that this process is part of."""
    walk = Walk(
        job.recipe,
        Store(job.store),
        Session(on_message=log.note),
        log,
        records_folder=f"sweeps/{job.folder.name}/trial-{job.number}",
        measured_pid=os.getppid(),  # Ray's daemon on this node: it, not this process, is the parent of the workers
    )
    walk.run(until=job.until)


class TrialLog(RunLog):
    """A trial's log: lines in a file, and reports of its last stage's live figure to Tune."""

    def __init__(self, file: TextIO, stage: str, watch: str):
        super().__init__(file)
        self.figures: set[str] = set()  # names of all live figures of the stage
        self._last_stage, self._watch = stage, watch
        self._recent: deque[tuple[float, float]] = deque()  # (fraction, figure) within SMOOTHING_WINDOW
        self._reported = 0.0  # fraction at the last report

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        super().update(done, total, unit, **figures)
        if self.stage != self._last_stage:
            return
        self.figures |= figures.keys()
        value = figures.get(self._watch)
        if not isinstance(value, int | float) or total <= 0:
            return
        fraction = min(done / total, 1.0)
        self._recent.append((fraction, float(value)))
        if fraction < 1 and fraction - self._reported < 1 / MAX_CURVE_POINTS:
            return
        self._reported = fraction
        live = recent_mean(self._recent)
        # The scheduler compares trials by percent and live; a finished trial is not compared.
        comparison = {"percent": 100 * fraction, "live": live} if fraction < 1 else {}
        ray.tune.report({"fraction": fraction, "value": live, **comparison})


def recent_mean(points: deque[tuple[float, float]]) -> float:
    """Mean figure of the points within SMOOTHING_WINDOW of the last point; removes earlier points.

    points: (fraction of the stage, figure), in order."""
    while points[0][0] < points[-1][0] - SMOOTHING_WINDOW:
        points.popleft()
    return fmean(value for _, value in points)
