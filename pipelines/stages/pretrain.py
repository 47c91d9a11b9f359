"""Trains a language model on packed tokens: one from scratch, or an earlier model that goes on learning.

    tokens ──DeepSpeed workers under Ray Train, loop in pipelines/learning/loop.py──► model in Hugging Face layout

Checkpoints live in the draft, so a killed run goes on where the last one stood. The curve of the run stays in the
artifact (curve.jsonl), without times: two runs leave the same bytes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipelines.stage import ClusterOptions, Facts, Options, Stage, Work

if TYPE_CHECKING:
    from pipelines.learning.loop import Worker

Size = Literal["micro", "2m", "6m", "14m", "36m", "125m", "350m", "1b"]
PEAK_RATES = {"muon": 0.02, "adamw": 3e-3}


class PretrainOptions(Options):
    size: Size | None = Field(None, description="shape of a new model, named by its parameters; default 2m. Not "
                              "together with a model that goes on learning")  # fmt: skip
    budget_tokens: int = Field(1_000_000, ge=1, description="tokens to learn from, repeated ones included")
    batch_tokens: int = Field(2048, ge=16, description="tokens of an optimiser step, all workers together")
    max_epochs: float = Field(4, gt=0, description="say so where the budget reads the data more often")
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
        """max_epochs only warns; a rate that is written out is the same as its default."""
        return super().identity() | {"max_epochs": None, "learning_rate": self.peak_rate}

    @property
    def peak_rate(self) -> float:
        return self.learning_rate or PEAK_RATES[self.optimizer]


class PretrainCluster(ClusterOptions):
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


def run(work: Work) -> Facts:
    from cluster.resources import Resources
    from cluster.workers import run_workers

    options: PretrainOptions = work.options
    cluster: PretrainCluster = work.cluster
    tokens = work.inputs["tokens"].local()
    model = work.inputs["model"].local() if "model" in work.inputs else None
    meta = json.loads((tokens / "meta.json").read_text(encoding="utf-8"))
    check(options, meta, tokens, model)
    steps = options.budget_tokens // options.batch_tokens
    epochs = steps * options.batch_tokens / (meta["num_rows"] * meta["length"])
    if epochs > options.max_epochs:
        work.progress.note(
            f"budget_tokens: {options.budget_tokens:,} read the {meta['num_tokens']:,} tokens there are {epochs:.1f} "
            f"times, more than max_epochs: {options.max_epochs:g}; more text would teach more"
        )

    def show(figures: dict[str, Any]) -> None:
        shown = {"loss": figures["train/loss_nats"], "tokens_per_s": figures["train/tokens_per_s"]}
        work.progress.update(figures["step"], steps, "steps", peak=f"{figures['train/peak_share']:.0%}", **shown)

    work.session.start()
    facts = run_workers(
        train_on_worker,
        worker_config(work, tokens, model, meta, steps),
        resources=Resources(
            cluster.workers, cluster.cpus_per_worker, cluster.gpus_per_worker, threads=cluster.threads_per_worker
        ),
        storage=work.draft.path,
        name="training",
        on_progress=show,
        say=work.progress.note,
    )
    for file in sorted((tokens / "tokenizer").iterdir()):
        shutil.copy(file, work.draft.out / file.name)
    return {**facts, "train/epochs": epochs}


def check(options: PretrainOptions, meta: dict[str, Any], tokens: Path, model: Path | None) -> None:
    """Raises UserError where options, tokens and model do not go together."""
    from pipelines.errors import UserError

    length = meta["length"]
    if options.batch_tokens % length:
        raise UserError(
            f"pretrain.batch_tokens: {options.batch_tokens} is no multiple of the rows' length, tokens.length: "
            f"{length}; take {max(1, round(options.batch_tokens / length)) * length}"
        )
    if options.budget_tokens < options.batch_tokens:
        raise UserError(
            f"pretrain.budget_tokens: {options.budget_tokens:,} do not fill one step, pretrain.batch_tokens: "
            f"{options.batch_tokens:,}; raise the budget or lower the batch"
        )
    if model is None:
        return
    if options.size is not None:
        raise UserError(
            f"pretrain.size: {options.size} is for a new model, but an earlier stage made one that goes on learning; "
            f"leave size out, or list what to read in pretrain.from"
        )
    if not same_tokenizer(tokens / "tokenizer" / "tokenizer.json", model / "tokenizer.json"):
        raise UserError(
            f"tokens were made by another tokenizer ({tokens / 'tokenizer'}) than the model's ({model}); a model goes "
            f"on learning in its own tokens only: leave the stage `tokenizer` out, so that tokens takes the model's"
        )
    longest = json.loads((model / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings", length)
    if length > longest:
        raise UserError(f"tokens.length: {length} is longer than the model was made for ({longest}); lower it")


def same_tokenizer(ours: Path, theirs: Path) -> bool:
    """Whether two tokenizer.json give every token the same id, by the same merges."""
    first, second = (json.loads(path.read_text(encoding="utf-8")) for path in (ours, theirs))
    added = [{t["content"]: t["id"] for t in one.get("added_tokens", [])} for one in (first, second)]
    parts = ("vocab", "merges")
    return added[0] == added[1] and all(first["model"].get(part) == second["model"].get(part) for part in parts)


def worker_config(work: Work, tokens: Path, model: Path | None, meta: dict[str, Any], steps: int) -> dict[str, Any]:
    """What train_on_worker needs, as plain values."""
    options: PretrainOptions = work.options
    cluster: PretrainCluster = work.cluster
    return {
        "model": {"folder": str(model)} if model else {
            "size": options.size or "2m",
            "vocabulary": meta["vocabulary"],
            "length": meta["length"],
            "special": {f"{name}_token_id": meta[f"{name}_id"] for name in ("bos", "eos", "pad")},
        },
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
            "rows": str(tokens / "train.arrow"),
            "out": str(work.draft.out),
            "seed": work.seed,
            "total_steps": steps,
            "batch_rows": options.batch_tokens // meta["length"],
            "micro_batch_rows": cluster.micro_batch_rows,
            "zero_stage": cluster.zero_stage,
            "dtype": cluster.dtype,
            "checkpoint_every_steps": cluster.checkpoint_every_steps,
            "log_every_steps": cluster.log_every_steps,
        },
    }  # fmt: skip


def train_on_worker(worker: Worker, config: dict[str, Any]) -> Facts:
    """Runs in each worker process: the crafts are imported here, so that the driver never loads torch."""
    from pipelines.learning import model
    from pipelines.learning.engine import OptimizerPlan
    from pipelines.learning.loop import TrainingPlan, train
    from pipelines.learning.schedule import Schedule

    wanted, plan = config["model"], config["plan"]

    def make_model():
        if "folder" in wanted:
            return model.from_folder(Path(wanted["folder"]))
        size = model.SIZES[wanted["size"]]
        shape = {name: wanted[name] for name in ("vocabulary", "length", "special")}
        return model.from_scratch(size, seed=plan["seed"], **shape)

    paths = {name: Path(plan[name]) for name in ("rows", "out")}
    optimizer, schedule = OptimizerPlan(**config["optimizer"]), Schedule.from_shares(**config["schedule"])
    return dict(train(worker, TrainingPlan(**{**plan, **paths}, optimizer=optimizer, schedule=schedule), make_model))


STAGE = Stage(
    kind="pretrain",
    version=1,
    makes="model",
    needs=("tokens",),
    takes=("model",),
    options=PretrainOptions,
    cluster=PretrainCluster,
    run=run,
)
