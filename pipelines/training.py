"""Options and start-up that all training stages have in common.

    stage ──config──► launch ──Ray Train──► each worker: stage's function ──Lesson──► learn ──loop──► files + facts

A stage adds its objective: a function that runs in each worker and makes a Lesson (learning/lesson.py) there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from pipelines.errors import UserError
from pipelines.stage import ClusterOptions, Facts, Options, Work

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipelines.learning.lesson import Lesson
    from pipelines.learning.loop import Worker

ADAM_LEARNING_RATE = "Peak learning rate of the weights that muon leaves to AdamW: embeddings and norms"
DECAY_FRACTION = "Fraction of the steps in which the learning rate falls, under wsd"


class OptimizerOptions(Options):
    """Options of every stage that trains."""

    default_learning_rates: ClassVar[Mapping[str, float]] = {"muon": 0.02, "adamw": 3e-3, "base": 1e-5}
    """By optimizer; "base": of adamw, where the model began as another's, which large steps would spoil."""

    optimizer: Literal["muon", "adamw"] | None = Field(
        None, description="Optimizer; muon: Muon for hidden matrices, AdamW for all other weights. Default: adamw "
                          "where the model began as another's (the recipe's base), otherwise muon")  # fmt: skip
    learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate; default 0.02 for muon's matrices, 3e-3 for adamw, 1e-5 for a "
                                "model that began as another's")  # fmt: skip
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
        """Clipping has no effect under muon."""
        return super().identity() | ({"clip_norm": None} if self.optimizer == "muon" else {})

    def settled(self, *, from_base: bool) -> Self:
        """These options with optimizer and learning rate set. from_base: whether the model began as another's."""
        optimizer = self.optimizer or ("adamw" if from_base else "muon")
        rate = self.learning_rate or self._default_learning_rate(optimizer, from_base=from_base)
        return self.model_copy(update={"optimizer": optimizer, "learning_rate": rate})

    def _default_learning_rate(self, optimizer: str, *, from_base: bool) -> float:
        return self.default_learning_rates["base" if from_base and optimizer == "adamw" else optimizer]


class LoraOptions(Options):
    rank: int = Field(16, ge=1, description="Rank of the matrices that are trained beside a layer's weights")
    alpha: float = Field(32, gt=0, description="Scale of the adapters: their output is multiplied by alpha / rank")
    rslora: bool = Field(
        False, description="Whether the scale is alpha / √rank instead of alpha / rank, which keeps large ranks stable"
    )
    dora: bool = Field(
        False, description="Whether a weight's direction and magnitude are trained apart (DoRA): slower, often better "
                           "at small ranks")  # fmt: skip
    qlora: bool = Field(
        False, description="Whether the frozen weights of linear layers are held in 4 bits in training (QLoRA): a "
                           "quarter of their memory, slower; adapters are merged into them as they were")  # fmt: skip
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout probability of an adapter's inputs in training")
    targets: list[str] | None = Field(
        None, min_length=1, description="Layers with adapters, by the end of their name, such as [q_proj, v_proj]; "
                                        "default: every linear layer")  # fmt: skip


class AdapterOptions(OptimizerOptions):
    """Options of every stage that can train adapters instead of a model's weights."""

    lora: LoraOptions | None = Field(
        None, description="Train LoRA adapters, by adamw, and merge them into the weights. Default: train all weights"
    )

    @property
    def adapter_kind(self) -> Literal["lora", "ia3"] | None:
        return "ia3" if getattr(self, "ia3", None) is not None else "lora" if self.lora is not None else None

    @model_validator(mode="before")
    @classmethod
    def _adapters_need_adamw(cls, values: Any) -> Any:
        if not isinstance(values, dict) or all(values.get(name) is None for name in ("lora", "ia3")):
            return values
        if values.get("optimizer") == "muon":
            raise ValueError("muon does not fit adapters, expected optimizer: adamw with lora or ia3")
        if "adam_learning_rate" in values:
            raise ValueError("adam_learning_rate is muon's, not of adapters; remove it: theirs is learning_rate")
        return values | {"optimizer": "adamw"}

    def _default_learning_rate(self, optimizer: str, *, from_base: bool) -> float:
        if self.adapter_kind is not None:
            return self.default_learning_rates[self.adapter_kind]
        return super()._default_learning_rate(optimizer, from_base=from_base)


class PairOptions(AdapterOptions):
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
    gpus_per_worker: Literal[0, 1, "auto"] = Field(
        "auto", description="Number of GPUs of a worker; auto: 1 where the cluster's nodes have one for each worker, "
                            "otherwise 0")  # fmt: skip
    micro_batch_rows: int = Field(8, ge=1, description="Rows of one backward pass: fewer take less memory")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1, description="What ZeRO partitions over the workers: 1 the optimizer's state, 2 gradients too, 3 weights too"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Type of the weights in training, with float32 master weights; auto: bfloat16 on GPUs "
                            "and, 192 wide or more, on CPUs that multiply it faster; else float32")  # fmt: skip
    recompute: Literal["none", "attention", "full"] = Field(
        "none", description="What is computed again in the backward pass instead of kept: each layer's attention, or "
                            "all of each layer; takes less memory and more time")  # fmt: skip
    offload: Literal["none", "optimizer"] = Field(
        "none", description="What is held in the host's memory instead of a GPU's: the optimizer's state and its step"
    )


class TrainCluster(WorkerOptions):
    compile: bool | Literal["auto"] = Field(
        "auto", description="Whether torch.compile compiles each layer: seconds at the start, then 1.1 to 1.5 times "
                            "the speed on an H200; auto: on GPUs, but not at zero_stage 3")  # fmt: skip
    checkpoint_every_steps: int | None = Field(
        None, ge=1, description="Steps between two checkpoints; default: so many that checkpoints take 2% of the time, "
                                "ten minutes at most")  # fmt: skip
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
        if "evaluation/done" in figures:
            unit = "pairs scored" if "preferences" in work.inputs else "held-out rows scored"
            return work.progress.update(figures["evaluation/done"], figures["evaluation/total"], unit)
        work.progress.update(
            figures["step"], steps, "steps", mfu=f"{figures['train/mfu']:.0%}", loss=figures["train/loss_nats"],
            tokens_per_s=figures["train/tokens_per_s"],
        )  # fmt: skip

    check_trainable(work)
    _check_rows(work, rows)
    work.session.start()
    return run_workers(
        function, {"lesson": lesson, **_config(work, steps, rows)},
        resources=Resources(
            cluster.workers, cluster.cpus_per_worker, gpus_per_worker(work), threads=cluster.threads_per_worker
        ),
        storage=work.draft.path, name="training", modules=["pipelines.learning.loop"],
        on_progress=show, on_message=work.progress.note,
    )  # fmt: skip


def check_trainable(work: Work) -> None:
    """Raises UserError, before anything is started, where the model to train has quantised weights."""
    from pipelines.inference.model_config import quantisation

    model = work.inputs.get("model")
    method = quantisation(model.local()) if model is not None else None
    if model is not None and method:
        raise UserError(
            f"{work.name}: the weights of its model ({model.manifest.name}) are quantised ({method}): it can be "
            f"evaluated and served, not trained; expected a model in bfloat16, float16 or float32, or a GGUF file: "
            f"name the one that it was made from"
        )


def gpus_per_worker(work: Work) -> int:
    """GPUs of each worker. work.cluster derives from WorkerOptions. Starts Ray."""
    cluster: WorkerOptions = work.cluster
    if cluster.gpus_per_worker != "auto":
        return cluster.gpus_per_worker
    return int(sum(node.gpus for node in work.session.nodes()) >= cluster.workers)


def _check_rows(work: Work, rows: int) -> None:
    """Raises UserError where an optimiser step has fewer rows than there are workers."""
    workers = work.cluster.workers
    if rows < workers:
        raise UserError(
            f"{work.name}: an optimizer step has {rows} rows for {workers} workers, so that some would only compute "
            f"padding; expected a row for each. Raise batch_tokens (batch_pairs), lower the length of a row, or set "
            f"cluster: {{{work.name}: {{workers: {rows}}}}}"
        )


class Pairs(NamedTuple):
    """Preferences as files of tokens for a stage's workers."""

    lesson: dict[str, Any]  # paths: model, preferences, train and (where there are such pairs) held_out
    steps: int  # optimiser steps, by the options
    facts: Facts


def prepare_pairs(work: Work) -> Pairs:
    """Writes the preferences as the model's tokens into the draft. work.options derives from PairOptions.

    Raises UserError where the model has no chat template, it takes no training pair, or none fits the model."""
    from pipelines.data.dialogues import preferences, tokenized_pairs
    from pipelines.data.tokens.chat import Chat
    from pipelines.inference.model_config import context_length

    options: PairOptions = work.options
    model, folder = work.inputs["model"].local(), work.inputs["preferences"].local()
    chat, context = Chat.open(model, name=work.base), context_length(model, default=2**31)
    max_tokens = min(options.max_tokens or context, context)
    out, files, counts = work.draft.folder("pairs"), {}, {}
    for split in (preferences.TRAIN, preferences.HELD_OUT):
        files[split], counts[split] = tokenized_pairs.tokenize_split(
            folder, split, chat, out, max_tokens=max_tokens, seed=work.seed,
            on_progress=lambda done, total: work.progress.update(done, total, "pairs"),
        )  # fmt: skip
    train, held_out = counts[preferences.TRAIN], counts[preferences.HELD_OUT]
    template = tokenized_pairs.template_rows(chat, [train, held_out])
    template.check(work.name)
    for note in template.notes:
        work.progress.note(note)
    if not train.kept:
        raise UserError(
            f"{work.name}: none of {train.read:,} training pairs of the preferences can be used: {train.too_long:,} "
            f"are longer than {max_tokens:,} tokens, of {train.equal:,} both replies are the same, and "
            f"{train.template_refuses:,} are refused by the model's chat template; expected at least one. Provide "
            f"shorter or more pairs, or a model with a longer context"
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
    facts: Facts = {f"pairs/{reason}": count for reason, count in left_out.items()} | template.facts
    facts |= {"pairs/train": train.kept, "train/epochs": steps * options.batch_pairs / train.kept}
    return Pairs(lesson, steps, facts)


def scoring_batch(config: dict[str, Any]) -> int:
    """Pairs of a batch without a backward pass, which may be larger."""
    return 4 * int(config["plan"]["micro_batch_rows"])


def adapter_arguments(work: Work) -> dict[str, Any]:
    """What lesson_of needs of a stage with AdapterOptions, as plain values. See lora_arguments."""
    kind = work.options.adapter_kind
    options = lora_arguments(work) if kind == "lora" else work.options.ia3.model_dump() if kind == "ia3" else None
    return {"adapter": None if options is None else {"kind": kind, **options}, "seed": work.seed}


def lora_arguments(work: Work) -> dict[str, Any] | None:
    """The stage's options of LoRA as plain values. Raises UserError for dropout in a stage that compares a model with a
    reference, and so trains without any."""
    lora: LoraOptions | None = work.options.lora
    if lora is not None and lora.dropout and not getattr(work.options, "trains_with_dropout", False):
        raise UserError(f"{work.name}.lora.dropout: {lora.dropout}; expected 0: this stage trains without dropout")
    return None if lora is None else lora.model_dump()


def lesson_of(
    arguments: Mapping[str, Any],
    open_model: Callable[[torch.dtype, bool], PreTrainedModel],
    make: Callable[[PreTrainedModel], Lesson],
    save_merged: Callable[[PreTrainedModel, Iterable[tuple[str, Tensor]], Path], None],
) -> Callable[[torch.dtype], Lesson]:
    """A make_lesson for `learn`: `make` of the model, or of the model with adapters.

    arguments: has what adapter_arguments returned. open_model: see adapters.OpenModel. save_merged: writes a
    model that adapters were merged into."""

    def make_lesson(dtype: torch.dtype) -> Lesson:
        if arguments["adapter"] is None:
            return make(open_model(dtype, False))
        from pipelines.learning import adapters

        options = dict(arguments["adapter"])
        adapter = {"lora": adapters.Lora, "ia3": adapters.Ia3}[options.pop("kind")](**options)
        return adapters.lesson(make, open_model, save_merged, adapter, seed=arguments["seed"], dtype=dtype)

    return make_lesson


def copy_tokenizer(model: Path, out: Path) -> None:
    """Copies the files of the tokenizer and the chat template from one model's folder to another's."""
    from pipelines.data.tokens.tokenizing import TOKENIZER_FILES

    for name in TOKENIZER_FILES:
        if (model / name).is_file():
            shutil.copy(model / name, out / name)


def settled_options(work: Work) -> OptimizerOptions:
    """The stage's options with the optimizer and the learning rate that its model's lineage asks for."""
    options: OptimizerOptions = work.options
    model = work.inputs.get("model")
    while model is not None and model.manifest.stage != "base":
        parent = model.parent("model")
        if parent is None and "model" in model.manifest.parents and options.optimizer is None:
            raise UserError(
                f"{work.name}.optimizer: the default depends on what the model began as, and one of its ancestors "
                f"({model.manifest.parents['model']}) is no longer in the store; expected optimizer and learning_rate"
            )
        model = parent
    return options.settled(from_base=model is not None)


def _config(work: Work, steps: int, rows: int) -> dict[str, Any]:
    """The arguments of `learn` as plain values."""
    options = settled_options(work)
    cluster: TrainCluster = work.cluster
    return {
        "optimizer": {
            "kind": options.optimizer,
            "learning_rate": options.learning_rate,
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
            "recompute": cluster.recompute,
            "offload": cluster.offload == "optimizer",
            "compile": cluster.compile,
            "checkpoint_every_steps": cluster.checkpoint_every_steps,
            "log_every_steps": cluster.log_every_steps,
        },
    }


def learn(
    worker: Worker, config: dict[str, Any], make_lesson: Callable[[torch.dtype], Lesson], *, hidden_size: int
) -> Facts:
    """Trains in a worker process, where torch and DeepSpeed are imported: see loop.train. hidden_size: of the model."""
    from pipelines.learning.engine import OptimizerPlan
    from pipelines.learning.loop import TrainingPlan, train
    from pipelines.learning.schedule import Schedule

    plan = {**config["plan"], "out": Path(config["plan"]["out"])}
    optimizer, schedule = OptimizerPlan(**config["optimizer"]), Schedule.from_fractions(**config["schedule"])
    plan |= {"optimizer": optimizer, "schedule": schedule, "hidden_size": hidden_size}
    return dict(train(worker, TrainingPlan(**plan), make_lesson))
