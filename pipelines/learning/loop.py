"""The training loop. Knows a Worker (what it runs on) and no Ray.

    every step:    rows of (seed, step, rank) ──► loss and gradient, micro-batch by micro-batch ──► optimiser step
    now and then:  figures to the worker's progress, a checkpoint to the worker's storage
    at the end:    a Hugging Face folder and the curve of the run

The objective is a Lesson (lesson.py): next tokens, preferences, rewards.

There is no state that a checkpoint would miss: data order, learning rate and random numbers are functions of the seed
and the step. A run that was killed ends with the same bytes as one that was not, on as many workers.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.distributed as dist

from pipelines.errors import UserError
from pipelines.inference.hardware import PeakMemory, copy_bytes_per_s, operation_s, peak_flops_per_s
from pipelines.learning import checkpoint, estimates
from pipelines.learning.batch import DataOrder
from pipelines.learning.dealing import num_micro_batches
from pipelines.learning.engine import Engine, OptimizerPlan, partitioned
from pipelines.learning.lesson import Batch, Lesson, Rows
from pipelines.learning.memory import Setting
from pipelines.learning.model import compile_layers, hidden_matrices, num_parameters, recompute, shape_of
from pipelines.learning.precision import dtype_of, multiplies_bfloat16_faster, name_of
from pipelines.learning.schedule import Schedule
from pipelines.learning.shapes import Recompute
from pipelines.learning.throughput import Elapsed, Meter, training_flops

CURVE_POINTS = 200  # in the artifact's curve, however often figures are logged

REPORT_S = 2.0  # between two lines of progress of an evaluation

Figures = dict[str, float]


class Worker(Protocol):
    """The process that a loop runs in: one of `world` in a torch process group."""

    rank: int
    world: int
    local_rank: int
    device: str  # "cpu", "cuda:0"

    def resume(self) -> Path | None:
        """A local folder with the files of all ranks' last complete checkpoint, or None."""
        ...

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Keeps a checkpoint. All ranks call it together; each one's `write` gets a folder, for files that no other
        rank has, and may run in another thread."""
        ...

    def wait_until_written(self) -> None:
        """Waits until the last `write` has ended."""
        ...

    def progress(self, step: int, figures: Figures) -> None:
        """Reports the figures of a step; of an evaluation, for display alone, as step 0."""
        ...


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that determines a run besides the initial model. Options and their defaults live in the stage."""

    out: Path  # folder of the finished model; every worker's machine can write there
    seed: int
    total_steps: int
    batch_rows: int  # of an optimiser step, all workers together
    optimizer: OptimizerPlan
    schedule: Schedule
    # The rest changes speed only.
    micro_batch_rows: int
    zero_stage: int
    dtype: str  # of the weights in training; "auto": see precision.dtype_of
    hidden_size: int  # of the model
    checkpoint_every_steps: int | None
    log_every_steps: int
    recompute: Recompute = "none"
    offload: bool = False
    compile: bool | Literal["auto"] = False  # decoder layers; "auto": see compiles


class StepDone(NamedTuple):
    """Results of a step, the same on every rank."""

    nats: float  # the loss summed over the step's labels
    labels: int  # of all ranks and micro-batches: what the loss is summed over
    predicted_tokens: int  # tokens whose logits the loss uses
    gradient_norm: float  # before clipping
    checkpoint_due: bool

    @property
    def loss(self) -> float:
        """Nats per label."""
        return self.nats / self.labels


@dataclass
class Journal:
    """Progress of a run, saved with every checkpoint."""

    step: int = 0  # steps done
    seconds: float = 0.0  # of these steps, over all attempts
    flops: float = 0.0  # of these steps
    later_s: float = 0.0  # seconds of later_steps: all but the first, which loads kernels; without checkpoints
    later_steps: int = 0  # fewer where an earlier version, which did not time them, began the run
    curve: list[Figures] = field(default_factory=list)
    nats: float = 0.0  # summed since the curve's last point
    labels: int = 0

    def add(self, done: StepDone, point: Figures | None) -> None:
        """Adds a step; with `point`, also a point of the curve, with the mean loss since the last one."""
        self.step += 1
        self.nats += done.nats
        self.labels += done.labels
        if point is not None:
            self.curve.append({"train/step": self.step, "train/loss_nats": self.nats / self.labels, **point})
            self.nats, self.labels = 0.0, 0

    def timed(self) -> tuple[int, float]:
        """Number and seconds of the later steps; of all where there are none."""
        return (self.later_steps, self.later_s) if self.later_steps else (self.step, self.seconds)

    def final_loss(self) -> float:
        """Nats per label, mean over the last tenth of the run."""
        last = [p["train/loss_nats"] for p in self.curve if p["train/step"] > 0.9 * self.step]
        return sum(last) / len(last)


def train(worker: Worker, plan: TrainingPlan, make_lesson: Callable[[torch.dtype], Lesson]) -> dict[str, float | str]:
    """Trains from the last checkpoint, or from the start, to the end; rank 0 writes the model into plan.out.

    make_lesson: gets the dtype of the weights in training; returns the same weights on every rank, on the CPU.
    Returns the run's facts, on every rank. Raises UserError when the loss or the gradient is not finite."""
    dtype = dtype_of_all(worker, plan)
    with partitioned(plan.zero_stage, dtype):
        lesson = make_lesson(dtype)
    model, rows = lesson.model, lesson.rows
    compiled = compiles(plan.compile, worker.device, plan.zero_stage)
    if compiled:
        compile_layers(model)
    recompute(model, plan.recompute)
    peak = peak_of_all(worker, dtype)
    flops = training_flops(shape_of(model), round(rows.row_tokens))
    engine = Engine(
        lesson.learner,
        hidden_matrices(model),
        plan.optimizer,
        zero_stage=plan.zero_stage,
        offload=plan.offload,
        muon_in_bfloat16=all_ranks(multiplies_bfloat16_faster(worker.device), worker),
    )
    evaluation = Evaluation(worker, engine)
    lesson.before(evaluation)
    journal = resume(worker, engine, rows)
    meter = Meter(round(plan.batch_rows * rows.row_tokens), flops, peak)
    memory = PeakMemory(worker.device)
    run_steps(worker, plan, engine, rows, journal, meter)
    errors = estimation_errors(worker, plan, lesson, journal, memory.bytes(), dtype, compiled, peak)
    figures = lesson.after(evaluation)
    export(worker, engine, lesson, journal, plan.out)
    return {
        "train/loss_nats": journal.final_loss(),
        "train/tokens": plan.total_steps * meter.tokens_per_step,
        "train/steps": plan.total_steps,
        "train/parameters": num_parameters(model),
        "train/dtype": name_of(dtype),
        "train/gemm_gflops": peak / 1e9,
        **meter.figures(Elapsed(journal.step, journal.seconds, journal.flops)),
        **errors,
        **figures,
    }


def estimation_errors(
    worker: Worker, plan: TrainingPlan, lesson: Lesson, journal: Journal, memory_bytes: int, dtype: torch.dtype,
    compiled: bool, peak: float,
) -> dict[str, float]:  # fmt: skip
    """plan/memory_error and plan/time_error: by which fraction the formulas of `rayse plan` are above (or, negative,
    below) what the steps took; time without checkpoints, and without the first step where there are others.
    memory_bytes: this rank's peak, of which the largest counts."""
    cut = {"world": worker.world, "micro_batch_rows": plan.micro_batch_rows}
    order, (steps, steps_s) = data_order(plan, lesson.rows), journal.timed()
    largest_tokens, _ = order.computed_tokens(range(journal.step), lesson.rows.batch_tokens, **cut)
    timed = range(journal.step - steps, journal.step)
    _, step_tokens = order.computed_tokens(timed, lesson.rows.batch_tokens, **cut)
    four_bit = any(hasattr(parameter, "quant_state") for parameter in lesson.model.parameters())
    setting = Setting(
        tokens=largest_tokens, device=worker.device.partition(":")[0], dtype=name_of(dtype),
        world=worker.world, zero_stage=plan.zero_stage, recompute=plan.recompute, compiled=compiled,
        offload=plan.offload, four_bit=four_bit, muon=plan.optimizer.kind == "muon",
        logits_again=lesson.logits_again,
    )  # fmt: skip
    shape, length = shape_of(lesson.model, lesson.learner), lesson.rows.row_tokens
    planned_bytes = sum(estimates.process_bytes(shape, setting).values())
    small_s = operation_s()  # before anything that keeps other threads spinning
    speed = estimates.Speed(peak, worker.world * copy_bytes_per_s(worker.device), small_s)
    computed = step_tokens / (plan.batch_rows * length)  # for each token of a step on average
    work = estimates.TrainingWork(
        flops=computed * journal.flops * steps / journal.step, tokens=steps * step_tokens, length=length, steps=steps,
        micro_batches=num_micro_batches(plan.batch_rows, **cut),
    )  # fmt: skip
    planned_s = estimates.seconds(shape, setting, speed, work)
    largest = torch.tensor(float(memory_bytes), dtype=torch.float64, device=worker.device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    errors = {"plan/time_error": planned_s / steps_s - 1}
    if largest.item() <= 0:  # the system does not say what a process holds
        return errors
    return errors | {"memory/rank_bytes": largest.item(), "plan/memory_error": planned_bytes / largest.item() - 1}


@dataclass
class Evaluation:
    """lesson.Evaluate by an engine; its progress is reported every two seconds."""

    worker: Worker
    engine: Engine
    _reported: float = field(default_factory=time.monotonic)

    def __call__(self, function: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        return self.engine.evaluate(function, *args)

    def progress(self, done: int, total: int) -> None:
        if self.worker.rank == 0 and time.monotonic() - self._reported > REPORT_S:
            self.worker.progress(0, {"evaluation/done": done, "evaluation/total": total})
            self._reported = time.monotonic()


def compiles(option: bool | Literal["auto"], device: str, zero_stage: int) -> bool:
    """Whether decoder layers are compiled; "auto": on a GPU, where Triton has the C compiler and the headers of Python
    that it needs, but not at ZeRO 3, whose hooks gather weights in the midst of a layer."""
    if option != "auto":
        return option
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    return device.startswith("cuda") and zero_stage < 3 and compiler is not None and headers


def run_steps(worker: Worker, plan: TrainingPlan, engine: Engine, rows: Rows, journal: Journal, meter: Meter) -> None:
    """Runs every step that the journal does not have yet."""
    order = data_order(plan, rows)
    saver = Saver(worker, plan.checkpoint_every_steps)
    curve_every = max(1, plan.total_steps // CURVE_POINTS)
    for step in range(journal.step, plan.total_steps):
        start = time.perf_counter()
        torch.manual_seed(((plan.seed << 32) + step * worker.world + worker.rank) % 2**63)  # for a base model's dropout
        pieces = order.micro_batches(step, rank=worker.rank, world=worker.world, micro_batch_rows=plan.micro_batch_rows)
        lr_factor = plan.schedule.lr_factor(step)
        done = optimise(worker, engine, [rows.read(piece) for piece in pieces], lr_factor, saver.due(step + 1))
        if step > 0:
            journal.later_s += time.perf_counter() - start
            journal.later_steps += 1
        learning_rate = plan.optimizer.learning_rate * lr_factor
        check_finite(done, step, learning_rate)

        figures = {
            "train/tokens": (step + 1) * meter.tokens_per_step,
            "train/learning_rate": learning_rate,
            "train/gradient_norm": done.gradient_norm,
        }
        last = step + 1 == plan.total_steps
        journal.add(done, figures if (step + 1) % curve_every == 0 or last else None)
        elapsed = meter.step_done(done.predicted_tokens)
        journal.seconds += elapsed.seconds
        journal.flops += elapsed.flops
        if worker.rank == 0 and ((step + 1) % plan.log_every_steps == 0 or last):
            worker.progress(step + 1, {"train/loss_nats": done.loss, **figures, **meter.recent()})
        if done.checkpoint_due or last:
            saver.save(engine, journal)


def data_order(plan: TrainingPlan, rows: Rows) -> DataOrder:
    return DataOrder(len(rows), plan.batch_rows, plan.seed, rows.phases, rows.tokens_N)


class TrainingBatch(Batch, Protocol):
    @property
    def num_predicted(self) -> int:
        """Tokens that the output embedding predicts: their FLOPs count in the utilisation."""
        ...


def optimise(
    worker: Worker, engine: Engine, batches: list[TrainingBatch], lr_factor: float, checkpoint_due: bool
) -> StepDone:
    """One optimiser step on this rank's micro-batches, at lr_factor × the peak learning rates.

    checkpoint_due: whether a checkpoint follows, by this rank's clock; that of rank 0 decides."""
    counts = [sum(batch.num_labels for batch in batches), sum(batch.num_predicted for batch in batches)]
    labels, predicted = sum_over_ranks(counts, engine.device)
    labels = max(labels, 1.0)
    scale = worker.world / labels
    losses = [engine.backward(b, scale=scale, last=n == len(batches)) for n, b in enumerate(batches, 1)]
    norm = engine.step(lr_factor)
    due_at_rank_0 = float(checkpoint_due and worker.rank == 0)
    nats, due = sum_over_ranks([sum(loss.item() for loss in losses), due_at_rank_0], engine.device)
    return StepDone(nats, int(labels), int(predicted), norm, due > 0)


def dtype_of_all(worker: Worker, plan: TrainingPlan) -> torch.dtype:
    """The plan's dtype; "auto": bfloat16 only where it is every rank's choice, since each measures its own device."""
    dtype = dtype_of(plan.dtype, worker.device, plan.hidden_size)
    return dtype if plan.dtype != "auto" or all_ranks(dtype == torch.bfloat16, worker) else torch.float32


def all_ranks(condition: bool, worker: Worker) -> bool:
    """Whether a condition holds on every rank."""
    return sum_over_ranks([float(condition)], torch.device(worker.device))[0] == worker.world


def peak_of_all(worker: Worker, dtype: torch.dtype) -> float:
    """Peak FLOP/s of matrix products, summed over workers, which measure at once: they may share memory and clocks."""
    dist.barrier()
    return sum_over_ranks([peak_flops_per_s(worker.device, dtype)], torch.device(worker.device))[0]


def sum_over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """Sums numbers over all ranks, in float64."""
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def check_finite(done: StepDone, step: int, learning_rate: float) -> None:
    """Raises UserError where training has diverged, from which no later step recovers."""
    if not (math.isfinite(done.nats) and math.isfinite(done.gradient_norm)):
        raise UserError(
            f"step {step + 1}: the loss is {done.loss:.4g} and the gradient's norm {done.gradient_norm:.4g} at a "
            f"learning rate of {learning_rate:.3g}; expected finite numbers. Lower learning_rate, or raise "
            f"warmup_fraction"
        )


def resume(worker: Worker, engine: Engine, rows: Rows) -> Journal:
    """The journal of the last checkpoint, with the engine restored to it; a new journal where there is none."""
    folder = worker.resume()
    if folder is None:
        return Journal()
    tensors, progress = checkpoint.read(folder)
    journal = Journal(**progress)
    engine.load_state(tensors, step=journal.step, padding=rows.padding())
    return journal


class Saver:
    """Decides when a checkpoint is due, and saves it: copied here, written beside the steps that follow."""

    def __init__(self, worker: Worker, every_steps: int | None):
        self._worker, self._interval = worker, checkpoint.Interval(every_steps)
        self._written_s = 0.0  # the last one's time on the disk

    def due(self, step: int) -> bool:
        """Whether to save after this many steps."""
        return self._interval.due(step)

    def save(self, engine: Engine, journal: Journal) -> None:
        """Saves a checkpoint; all ranks together."""
        start = time.perf_counter()
        self._worker.wait_until_written()  # or two copies of the state would be held
        tensors, progress = dict(engine.state()), asdict(journal)

        def write(folder: Path) -> None:
            begin = time.perf_counter()
            checkpoint.write(folder, self._worker.rank, tensors.items(), progress)
            self._written_s = time.perf_counter() - begin

        self._worker.save(journal.step, write)
        self._interval.saved(time.perf_counter() - start + self._written_s)


def export(worker: Worker, engine: Engine, lesson: Lesson, journal: Journal, out: Path) -> None:
    """Writes the model and the curve, on rank 0: the same bytes for the same run."""
    weights = lesson.weights(engine.each_weight(lesson.dtype, only_trainable=lesson.only_trainable))
    if worker.rank == 0:
        lesson.save(weights, out)
    for _ in weights:  # other ranks take part in gathering each
        continue
    if worker.rank == 0:
        text = "".join(json.dumps(point) + "\n" for point in journal.curve)
        (out / "curve.jsonl").write_text(text, encoding="utf-8")
