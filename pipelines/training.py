"""What all stages that train share: options of the optimiser, of the workers, and how the workers are started.

    stage ──config──► launch ──Ray Train──► each worker: stage's function ──Lesson──► learn ──loop──► files + facts

A stage adds what it teaches: a function that runs in each worker and makes a Lesson (learning/lesson.py) there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipelines.stage import ClusterOptions, Facts, Options, Work

if TYPE_CHECKING:
    import torch

    from pipelines.learning.lesson import Lesson
    from pipelines.learning.loop import Worker

PEAK_RATES = {"muon": 0.02, "adamw": 3e-3}


class OptimizerOptions(Options):
    optimizer: Literal["muon", "adamw"] = Field("muon", description="muon: hidden matrices by Muon, the rest by AdamW")
    learning_rate: float | None = Field(
        None, gt=0, description="peak; default 0.02 for muon's matrices, 3e-3 for adamw"
    )
    adam_learning_rate: float = Field(3e-3, gt=0, description="peak, for what muon leaves to AdamW: embeddings, norms")
    weight_decay: float = Field(0.0, ge=0, description="of matrices, times the learning rate")
    schedule: Literal["wsd", "cosine"] = Field("wsd", description="wsd: warm-up, stable, decay")
    warmup_share: float = Field(0.02, ge=0, le=1, description="share of the steps with a rising rate")
    decay_share: float = Field(0.3, ge=0, le=1, description="wsd: share of the steps with a falling rate")
    clip_norm: float = Field(1.0, ge=0, description="longest gradient, all weights together; 0: any")

    def identity(self) -> dict[str, Any]:
        """A rate that is written out is the same as its default."""
        return super().identity() | {"learning_rate": self.peak_rate}

    @property
    def peak_rate(self) -> float:
        return self.learning_rate or PEAK_RATES[self.optimizer]


class TrainCluster(ClusterOptions):
    workers: int = Field(2, ge=1, description="processes that train together")
    threads_per_worker: int = Field(1, ge=1, description="of arithmetic; on a CPU two workers beat two threads")
    cpus_per_worker: float = Field(1, ge=0, description="logical CPUs of a worker")
    gpus_per_worker: float = Field(0, ge=0, description="GPUs of a worker: 0 or 1")
    micro_batch_rows: int = Field(8, ge=1, description="rows of a backward pass: less takes less memory")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1, description="what workers share out: 1 optimiser, 2 gradients, 3 weights"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on GPUs, float32 on CPUs")
    checkpoint_every_steps: int | None = Field(None, ge=1, description="default: as often as costs 2% of the time")
    log_every_steps: int = Field(10, ge=1, description="steps between two lines of figures")


def launch(
    work: Work, function: Callable[[Worker, dict[str, Any]], Facts], lesson: dict[str, Any], *, steps: int, rows: int
) -> Facts:
    """Runs a stage's function in each worker, showing progress; returns the loop's facts.

    work.options derives from OptimizerOptions, work.cluster from TrainCluster. lesson: plain values that `function`
    finds under config["lesson"]; steps: optimiser steps; rows: of a step, all workers together."""
    from cluster.resources import Resources
    from cluster.workers import run_workers

    cluster: TrainCluster = work.cluster

    def show(figures: dict[str, Any]) -> None:
        shown = {"loss": figures["train/loss_nats"], "tokens_per_s": figures["train/tokens_per_s"]}
        work.progress.update(figures["step"], steps, "steps", peak=f"{figures['train/peak_share']:.0%}", **shown)

    work.session.start()
    return run_workers(
        function,
        {"lesson": lesson, **_config(work, steps, rows)},
        resources=Resources(
            cluster.workers, cluster.cpus_per_worker, cluster.gpus_per_worker, threads=cluster.threads_per_worker
        ),
        storage=work.draft.path,
        name="training",
        on_progress=show,
        say=work.progress.note,
    )


def _config(work: Work, steps: int, rows: int) -> dict[str, Any]:
    """What `learn` needs, as plain values."""
    options: OptimizerOptions = work.options
    cluster: TrainCluster = work.cluster
    return {
        "optimizer": {
            "kind": options.optimizer,
            "rate": options.peak_rate,
            "adam_rate": options.adam_learning_rate,
            "weight_decay": options.weight_decay,
            "clip_norm": options.clip_norm,
        },
        "schedule": {
            "kind": options.schedule,
            "total": steps,
            "warmup_share": options.warmup_share,
            "decay_share": options.decay_share,
        },
        "plan": {
            "out": str(work.draft.out),
            "seed": work.seed,
            "total_steps": steps,
            "batch_rows": rows,
            "micro_batch_rows": cluster.micro_batch_rows,
            "zero_stage": cluster.zero_stage,
            "dtype": cluster.dtype,
            "checkpoint_every_steps": cluster.checkpoint_every_steps,
            "log_every_steps": cluster.log_every_steps,
        },
    }


def learn(worker: Worker, config: dict[str, Any], make_lesson: Callable[[torch.dtype], Lesson]) -> Facts:
    """Runs in each worker process, where alone the crafts of learning are imported. See loop.train."""
    from pipelines.learning.engine import OptimizerPlan
    from pipelines.learning.loop import TrainingPlan, train
    from pipelines.learning.schedule import Schedule

    plan = {**config["plan"], "out": Path(config["plan"]["out"])}
    optimizer, schedule = OptimizerPlan(**config["optimizer"]), Schedule.from_shares(**config["schedule"])
    return dict(train(worker, TrainingPlan(**plan, optimizer=optimizer, schedule=schedule), make_lesson))
