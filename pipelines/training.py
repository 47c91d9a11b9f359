"""Options and start-up that all training stages have in common.

    stage ──config──► launch ──Ray Train──► each worker: stage's function ──Lesson──► learn ──loop──► files + facts

A stage adds its objective: a function that runs in each worker and makes a Lesson (learning/lesson.py) there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from pipelines.stage import ClusterOptions, Facts, Options, Work

if TYPE_CHECKING:
    import torch

    from pipelines.learning.lesson import Lesson
    from pipelines.learning.loop import Worker

ADAM_LEARNING_RATE = "Peak learning rate of the weights that muon leaves to AdamW: embeddings and norms"
DECAY_FRACTION = "Fraction of the steps in which the learning rate falls, under wsd"


class OptimizerOptions(Options):
    """Options of every stage that trains."""

    default_learning_rates: ClassVar[Mapping[str, float]] = {"muon": 0.02, "adamw": 3e-3}

    optimizer: Literal["muon", "adamw"] = Field(
        "muon", description="Optimizer; muon: Muon for hidden matrices, AdamW for all other weights"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate; default 0.02 for muon's matrices, 3e-3 for adamw"
    )
    adam_learning_rate: float = Field(3e-3, gt=0, description=ADAM_LEARNING_RATE)
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of matrices, multiplied by the learning rate")
    schedule: Literal["wsd", "cosine"] = Field(
        "wsd", description="Learning-rate schedule; wsd: linear warm-up, stable, linear decay; cosine: half a wave"
    )
    warmup_fraction: float = Field(
        0.02, ge=0, le=1, description="Fraction of the steps in which the learning rate rises"
    )
    decay_fraction: float = Field(0.3, ge=0, le=1, description=DECAY_FRACTION)
    clip_norm: float = Field(
        1.0, ge=0, description="Maximum norm of the gradient under adamw, all weights together; 0: no maximum. Muon's "
                               "step does not depend on the norm: its gradient is not clipped")  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """An explicit learning rate equals its default; clipping has no effect under muon."""
        clip_norm = self.clip_norm if self.optimizer == "adamw" else None
        return super().identity() | {"learning_rate": self.peak_learning_rate, "clip_norm": clip_norm}

    @property
    def peak_learning_rate(self) -> float:
        return self.learning_rate or self.default_learning_rates[self.optimizer]


class PairOptions(OptimizerOptions):
    """Options of every stage that trains on preferences."""

    epochs: float = Field(1, gt=0, description="Number of passes over the pairs")
    batch_pairs: int = Field(32, ge=1, description="Pairs of an optimizer step, over all workers")
    max_tokens: int | None = Field(
        None, ge=16, description="Tokens of a prompt with its reply at most; longer pairs are left out. Default: the "
                                 "model's context")  # fmt: skip


class WorkerOptions(ClusterOptions):
    """Cluster options of every stage whose workers train together."""

    workers: int = Field(2, ge=1, description="Number of processes that train together")
    threads_per_worker: int = Field(
        1, ge=1, description="Number of threads that compute in a worker; on a CPU two workers beat two threads"
    )
    cpus_per_worker: float = Field(1, ge=0, description="Number of logical CPUs that Ray reserves for a worker")
    gpus_per_worker: Literal[0, 1] = Field(0, description="Number of GPUs of a worker")
    micro_batch_rows: int = Field(8, ge=1, description="Rows of one backward pass: fewer take less memory")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1, description="What ZeRO partitions over the workers: 1 the optimizer's state, 2 gradients too, 3 weights too"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Type of the matrix products; auto: bfloat16 on GPUs, float32 on CPUs"
    )


class TrainCluster(WorkerOptions):
    checkpoint_every_steps: int | None = Field(
        None, ge=1, description="Steps between two checkpoints; default: so many that checkpoints take 2% of the time"
    )
    log_every_steps: int = Field(10, ge=1, description="Steps between two lines of progress")


def launch(
    work: Work, function: Callable[[Worker, dict[str, Any]], Facts], lesson: dict[str, Any], *, steps: int, rows: int
) -> Facts:
    """Runs a stage's function in each worker, showing progress; returns the loop's facts.

    work.options derives from OptimizerOptions, work.cluster from TrainCluster. lesson: plain values, which `function`
    gets as config["lesson"]; steps: optimiser steps; rows: of a step, over all workers."""
    from cluster.resources import Resources
    from cluster.workers import run_workers

    cluster: TrainCluster = work.cluster

    def show(figures: dict[str, Any]) -> None:
        work.progress.update(
            figures["step"], steps, "steps", mfu=f"{figures['train/mfu']:.0%}", loss=figures["train/loss_nats"],
            tokens_per_s=figures["train/tokens_per_s"],
        )  # fmt: skip

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
        on_message=work.progress.note,
    )


class Pairs(NamedTuple):
    """Preferences as files of tokens for a stage's workers."""

    lesson: dict[str, Any]  # paths: model, preferences, train and (where there are such pairs) held_out
    steps: int  # optimiser steps, by the options
    facts: Facts


def prepare_pairs(work: Work) -> Pairs:
    """Writes the preferences as the model's tokens into the draft. work.options derives from PairOptions.

    Raises UserError where the model has no chat template, or no training pair fits it."""
    from pipelines.data.dialogues import preferences, tokenized_pairs
    from pipelines.data.tokens.chat import Chat
    from pipelines.errors import UserError
    from pipelines.inference.model_config import context_length

    options: PairOptions = work.options
    model, folder = work.inputs["model"].local(), work.inputs["preferences"].local()
    chat, context = Chat.open(model), context_length(model, default=2**31)
    max_tokens = min(options.max_tokens or context, context)
    out = work.draft.folder("pairs")
    files, counts = {}, {}
    for split in (preferences.TRAIN, preferences.HELD_OUT):
        files[split], counts[split] = tokenized_pairs.tokenize_split(
            folder, split, chat, out, max_tokens=max_tokens, seed=work.seed,
            on_progress=lambda done, total: work.progress.update(done, total, "pairs"),
        )  # fmt: skip
    train, held_out = counts[preferences.TRAIN], counts[preferences.HELD_OUT]
    if not train.kept:
        raise UserError(
            f"{work.name}: none of {train.read:,} training pairs of the preferences can be used: {train.too_long:,} "
            f"are longer than {max_tokens:,} tokens, of {train.equal:,} both replies are the same; expected at least "
            f"one. Provide shorter or more pairs, or a model with a longer context"
        )
    lesson = {"model": str(model), "preferences": str(folder), "train": str(files[preferences.TRAIN])}
    if held_out.kept:
        lesson["held_out"] = str(files[preferences.HELD_OUT])
    else:
        work.progress.note("no held-out pair: there will be no heldout/ figures")
    left_out = {"too_long": train.too_long + held_out.too_long, "equal": train.equal + held_out.equal}
    for reason, count in left_out.items():
        if count:
            work.progress.note(f"{count:,} pairs left out: {reason.replace('_', ' ')}")
    steps = max(1, round(options.epochs * train.kept / options.batch_pairs))
    facts: Facts = {f"pairs/{reason}": count for reason, count in left_out.items()}
    facts |= {"pairs/train": train.kept, "train/epochs": steps * options.batch_pairs / train.kept}
    return Pairs(lesson, steps, facts)


def scoring_arguments(worker: Worker, config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of learning.pairs.pair_scores in a worker: larger batches, since there is no backward pass."""
    return {"device": worker.device, "batch_pairs": 4 * config["plan"]["micro_batch_rows"]}


def copy_tokenizer(model: Path, out: Path) -> None:
    """Copies the files of the tokenizer and the chat template from one model's folder to another's."""
    from pipelines.data.tokens.tokenizing import TOKENIZER_FILES

    for name in TOKENIZER_FILES:
        if (model / name).is_file():
            shutil.copy(model / name, out / name)


def _config(work: Work, steps: int, rows: int) -> dict[str, Any]:
    """The arguments of `learn` as plain values."""
    options: OptimizerOptions = work.options
    cluster: TrainCluster = work.cluster
    return {
        "optimizer": {
            "kind": options.optimizer,
            "learning_rate": options.peak_learning_rate,
            "adam_learning_rate": options.adam_learning_rate,
            "weight_decay": options.weight_decay,
            "clip_norm": options.clip_norm,
        },
        "schedule": {
            "kind": options.schedule,
            "total": steps,
            "warmup_fraction": options.warmup_fraction,
            "decay_fraction": options.decay_fraction,
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
    """Trains in a worker process: torch and DeepSpeed are imported here, never in the driver. See loop.train."""
    from pipelines.learning.engine import OptimizerPlan
    from pipelines.learning.loop import TrainingPlan, train
    from pipelines.learning.schedule import Schedule

    plan = {**config["plan"], "out": Path(config["plan"]["out"])}
    optimizer, schedule = OptimizerPlan(**config["optimizer"]), Schedule.from_fractions(**config["schedule"])
    return dict(train(worker, TrainingPlan(**plan, optimizer=optimizer, schedule=schedule), make_lesson))
