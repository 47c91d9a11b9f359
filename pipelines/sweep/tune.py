"""Trials side by side under Ray Tune, the worse ones ended early (ASHA). The only door to ray.tune.

    run_trials(jobs) ── Tune ──► a process per trial: Walk(recipe).run(), as `rayse run` does, on the same store
         ▲  Watcher: started, told, ended                 │
         └───────────── ray.tune.report ◄── TrialStory ◄──┘ live figures of the last stage

Tune schedules and prunes; it keeps nothing. What a trial made is in the store: its artifact, or the draft from which it
goes on. The trial's process takes no CPU that Ray counts, since its stages start workers of their own. A trial that is
ended is killed: its draft stays, its lease is stale at once, and what it had reserved is given back.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import traceback
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import ray
import ray.tune
import ray.tune.schedulers

from cluster.errors import ClusterError
from cluster.orphans import free_orphans
from cluster.session import Session, log_location
from pipelines.errors import UserError
from pipelines.recipe.reader import Recipe
from pipelines.run.progress import Story
from pipelines.run.walk import Walk
from pipelines.store.artifacts import Store
from pipelines.sweep.trials import CURVE_POINTS, Trial

REDUCTION = 3  # of the trials that reach a rung the best third goes on; rungs stand at grace, 3 × grace, …
SMOOTHED = 0.1  # share of the stage over which a live figure is averaged: one batch says little
LIVES = 3  # of a trial whose process dies
TICK_S = 1.0
# A byte: Tune refuses a trial that takes nothing, and a share of a CPU would leave no whole one to its workers.
A_TRIAL: dict[str, float] = {"memory": 1}
TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one can be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a path means the same here and in a trial
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last report of a trial has no live figure
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # of its own state, which nobody reads: the store has it all
}


@dataclass(frozen=True)
class Job:
    """What a trial's process needs to know."""

    number: int
    recipe: Recipe
    until: str
    store: Path
    folder: Path  # of the sweep: the trial's story goes to trial-N.log
    watch: str


@dataclass(frozen=True)
class Pruning:
    """How trials are compared while they work."""

    mode: str  # min or max: which live figure is the better
    grace: float  # share of the stage before a trial can be ended
    past: Sequence[Trial] = ()  # trials of earlier attempts at this sweep, to compare with


class Watcher(Protocol):
    """Told what becomes of the trials."""

    def started(self, number: int) -> None: ...

    def told(self, number: int, share: float, value: float) -> None: ...

    def ended(self, number: int, said: Mapping[str, Any] | None) -> None:
        """A trial is over. said: its own last words (`problem`, `final`, `figures`); None if it was ended early."""
        ...

    def tick(self) -> None:
        """About once a second."""
        ...


def run_trials(jobs: Sequence[Job], *, parallel: int, pruning: Pruning | None, watcher: Watcher, scratch: Path) -> None:
    """Works on all trials, `parallel` at once, until each has ended. Ray must have been started.

    pruning: None lets every trial work to its end. scratch: a folder that all nodes share, for Tune; removed again.
    Raises what the watcher raises; a trial's own failure is told to the watcher.
    """
    os.environ.update(TUNE_ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost trial is told by the watcher
    scratch.mkdir(parents=True, exist_ok=True)
    by_number = {job.number: job for job in jobs}
    work = ray.tune.with_resources(ray.tune.with_parameters(_work, jobs=by_number), A_TRIAL)
    tuner = ray.tune.Tuner(
        work,
        param_space={"number": ray.tune.grid_search(list(by_number))},
        tune_config=ray.tune.TuneConfig(
            scheduler=None if pruning is None else _scheduler(pruning), max_concurrent_trials=parallel
        ),
        run_config=ray.tune.RunConfig(
            name="trials",
            storage_path=str(scratch.absolute()),
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=LIVES - 1),
            callbacks=[_Events(watcher)],
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scheduler(pruning: Pruning) -> Any:
    """ASHA (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning"), knowing what earlier trials did.

    Time is the share of the stage in percent, so trials with other budgets are compared at the same share."""
    scheduler: Any = ray.tune.schedulers.ASHAScheduler(
        time_attr="percent", metric="live", mode=pruning.mode, max_t=100, grace_period=100 * pruning.grace,  # pyright: ignore[reportArgumentType]
        reduction_factor=REDUCTION, stop_last_trials=False,
    )  # fmt: skip
    for trial in pruning.past:
        past = SimpleNamespace(trial_id=f"past-{trial.number}")  # all that a scheduler looks at
        scheduler.on_trial_add(None, past)
        for share, value in trial.curve:
            if share < 1:
                scheduler.on_trial_result(None, past, {"percent": 100 * share, "live": value})
    return scheduler


class _Events(ray.tune.Callback):
    """Tune's events in the driver, as the watcher hears them."""

    def __init__(self, watcher: Watcher):
        self._watcher = watcher
        self._last_words: dict[int, Mapping[str, Any]] = {}
        self._ticked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its settings down for a restore that is never asked for: without us."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._watcher.started(trial.config["number"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = trial.config["number"]
        if "final" in result:
            self._last_words[number] = result
        elif "share" in result:
            self._watcher.told(number, result["share"], result["value"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        self._watcher.ended(number, self._last_words.get(number))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        problem = f"its process died {LIVES} times; look for a lack of memory. Logs: {log_location()}"
        self._watcher.ended(trial.config["number"], {"problem": problem, "final": False, "figures": ""})

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._ticked >= TICK_S:
            self._ticked = time.monotonic()
            free_orphans()
            self._watcher.tick()


# ---- in the trial's process ------------------------------------------------------------------------------------------


def _work(config: dict[str, Any], jobs: Mapping[int, Job]) -> None:
    """What Tune calls: walks the trial's recipe, and says how it ended."""
    job = jobs[config["number"]]
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / f"trial-{job.number}.log").open("a", encoding="utf-8") as file:
        story = TrialStory(file, job.until, job.watch)
        problem, final = "", True
        try:
            walk(job, story)
        except UserError as error:  # it would fail again
            problem = str(error)
        except ClusterError as error:
            problem, final = str(error), False
        except Exception as error:
            file.write(traceback.format_exc())
            problem, final = f"{type(error).__name__}: {error} (see {file.name})", False
    ray.tune.report({"problem": problem, "final": final, "figures": ", ".join(sorted(story.figures))})


def walk(job: Job, story: Story) -> None:
    """A trial is a run of its recipe, in the cluster that this process is part of."""
    walked = Walk(
        job.recipe,
        Store(job.store),
        Session(on_message=story.note),
        story,
        records=f"sweeps/{job.folder.name}/trial-{job.number}",
        measured=os.getppid(),  # Ray's daemon on this node: the trial's workers are its children, not ours
    )
    walked.run(until=job.until)


class TrialStory(Story):
    """A trial's story: lines in its log, and the live figure of its last stage to the sweep."""

    def __init__(self, file: Any, stage: str, watch: str):
        super().__init__(file)
        self.figures: set[str] = set()  # names of those that the stage showed
        self._last_stage, self._watch = stage, watch
        self._recent: deque[tuple[float, float]] = deque()
        self._told = 0.0

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        super().update(done, total, unit, **figures)
        if self.stage != self._last_stage:
            return
        self.figures |= figures.keys()
        value = figures.get(self._watch)
        if not isinstance(value, int | float) or total <= 0:
            return
        share = min(done / total, 1.0)
        self._recent.append((share, float(value)))
        if share < 1 and share - self._told < 1 / CURVE_POINTS:
            return
        self._told = share
        live = recent_mean(self._recent)
        pruned_by = {"percent": 100 * share, "live": live} if share < 1 else {}  # who is done needs no pruning
        ray.tune.report({"share": share, "value": live, **pruned_by})


def recent_mean(points: deque[tuple[float, float]]) -> float:
    """Mean of the figures within SMOOTHED of the last point's share; forgets those before."""
    while points[0][0] < points[-1][0] - SMOOTHED:
        points.popleft()
    return _mean(value for _, value in points)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
