"""Trains a language model on packed tokens: from scratch, or continuing an earlier model.

    tokens ──DeepSpeed workers under Ray Train, loop in pipelines/learning/loop.py──► model in Hugging Face layout

Checkpoints live in the draft, so a killed run resumes from the last one. The curve of the run is part of the artifact
(curve.jsonl), without times: two runs write the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipelines.stage import Facts, Stage, Work
from pipelines.training import (
    ADAM_LEARNING_RATE,
    DECAY_FRACTION,
    OptimizerOptions,
    TrainCluster,
    copy_tokenizer,
    launch,
    learn,
)

if TYPE_CHECKING:
    import torch

    from pipelines.learning.lesson import Lesson
    from pipelines.learning.loop import Worker

Size = Literal["micro", "2m", "6m", "14m", "36m", "125m", "350m", "1b"]


class PretrainOptions(OptimizerOptions):
    size: Size | None = Field(None, description="Shape of a new model, named by its number of parameters; default 2m. "
                              "Excludes an earlier model to continue")  # fmt: skip
    budget_tokens: int = Field(1_000_000, ge=1, description="Tokens to train on, repeated ones included")
    batch_tokens: int = Field(2048, ge=16, description="Tokens of an optimizer step, over all workers")
    max_epochs: float = Field(4, gt=0, description="Number of passes over the data above which a warning is printed")
    # 1e-2 and half of the steps: 0.9% and 0.3% fewer held-out nats a token than 3e-3 and 0.3, measured on the demo.
    adam_learning_rate: float = Field(1e-2, gt=0, description=ADAM_LEARNING_RATE)
    decay_fraction: float = Field(0.5, ge=0, le=1, description=DECAY_FRACTION)

    def identity(self) -> dict[str, Any]:
        """max_epochs affects a warning only."""
        return super().identity() | {"max_epochs": None}


def run(work: Work) -> Facts:
    from pipelines.store.artifacts import read_json

    options: PretrainOptions = work.options
    tokens = work.inputs["tokens"].local()
    model = work.inputs["model"].local() if "model" in work.inputs else None
    meta = read_json(tokens / "meta.json")
    check(options, meta, tokens, model)
    steps = options.budget_tokens // options.batch_tokens
    epochs = steps * options.batch_tokens / (meta["num_rows"] * meta["length"])
    if epochs > options.max_epochs:
        work.progress.note(
            f"budget_tokens: {options.budget_tokens:,} are {epochs:.1f} passes over the data's {meta['num_tokens']:,} "
            f"tokens, more than max_epochs: {options.max_epochs:g}; more text would improve the model more"
        )
    if epochs % 1 > 1 / steps and meta.get("num_phases", 1) > 1:
        work.progress.note(
            f"budget_tokens: {options.budget_tokens:,} are {epochs:.2f} passes, so that training ends {epochs % 1:.0%} "
            f"of the way through the {meta['num_phases']} phases of tokens.order; whole passes end with the last one"
        )
    epochs_of = group_epochs(work.inputs["tokens"].facts, epochs)
    for group, passes in epochs_of.items():
        if passes > options.max_epochs >= epochs:
            work.progress.note(
                f"budget_tokens: {options.budget_tokens:,} are {passes:.1f} passes over the text of {group}, more than "
                f"max_epochs: {options.max_epochs:g}; lower its weight in tokens.mixture, or add text to it"
            )
    rows = options.batch_tokens // meta["length"]
    facts = launch(work, train_on_worker, lesson(work, tokens, model, meta), steps=steps, rows=rows)
    copy_tokenizer(tokens / "tokenizer", work.draft.out)
    return {**facts, "train/epochs": epochs, **{f"train/epochs_{name}": passes for name, passes in epochs_of.items()}}


def group_epochs(facts: Facts, epochs: float) -> dict[str, float]:
    """Passes over the text of each group of the tokens' mixture, or of each language: epochs × repeats.

    facts: of the tokens. Four passes are worth nearly as much as new text (Muennighoff et al. 2023)."""
    return {
        key.removeprefix(prefix): epochs * float(value)
        for key, value in facts.items()
        for prefix in ("mixture/repeats_", "tokens/repeats_")
        if key.startswith(prefix)
    }


def check(options: PretrainOptions, meta: dict[str, Any], tokens: Path, model: Path | None) -> None:
    """Raises UserError where options, tokens and model are incompatible."""
    from pipelines.data.tokens.tokenizing import same_tokenizer
    from pipelines.errors import UserError
    from pipelines.inference.model_config import context_length

    length = meta["length"]
    if options.batch_tokens % length:
        raise UserError(
            f"pretrain.batch_tokens: {options.batch_tokens} is not a multiple of the rows' length, tokens.length: "
            f"{length}; set {max(1, round(options.batch_tokens / length)) * length}"
        )
    if options.budget_tokens < options.batch_tokens:
        raise UserError(
            f"pretrain.budget_tokens: {options.budget_tokens:,} are fewer than one step, pretrain.batch_tokens: "
            f"{options.batch_tokens:,}; raise the budget or lower the batch"
        )
    if model is None:
        return
    if options.size is not None:
        raise UserError(
            f"pretrain.size: {options.size} is for a new model, but pretrain continues the model of an earlier stage; "
            f"leave size out, or list what to read in pretrain.from"
        )
    if not same_tokenizer(tokens / "tokenizer", model):
        raise UserError(
            f"the tokens were made by another tokenizer ({tokens / 'tokenizer'}) than the model's ({model}); expected "
            f"the same: leave the stage `tokenizer` out, so that the stage tokens uses the model's"
        )
    context = context_length(model, default=length)
    if length > context:
        raise UserError(f"tokens.length: {length} is longer than the model's context ({context}); lower it")


def lesson(work: Work, tokens: Path, model: Path | None, meta: dict[str, Any]) -> dict[str, Any]:
    """The arguments of train_on_worker as plain values."""
    arguments: dict[str, Any] = {"rows": str(tokens / "train"), "seed": work.seed}
    if model is not None:
        return arguments | {"folder": str(model)}
    special = {f"{name}_token_id": meta[f"{name}_id"] for name in ("bos", "eos", "pad")}
    shape = {"vocabulary": meta["vocabulary"], "length": meta["length"], "special": special}
    return arguments | {"size": work.options.size or "2m", "shape": shape}


def train_on_worker(worker: Worker, config: dict[str, Any]) -> Facts:
    """Runs in each worker process: torch is imported here, never in the driver."""
    from pipelines.inference.model_config import hidden_size
    from pipelines.learning import model
    from pipelines.learning.batch import PackedRows
    from pipelines.learning.lesson import next_token
    from pipelines.learning.precision import stored_dtype
    from pipelines.learning.shapes import SIZES

    arguments = config["lesson"]
    rows = PackedRows(Path(arguments["rows"]))

    def make_lesson(dtype: torch.dtype) -> Lesson:
        if "folder" in arguments:
            folder = Path(arguments["folder"])
            return next_token(model.from_folder(folder, dtype), rows, stored_dtype(folder))
        size, shape = SIZES[arguments["size"]], arguments["shape"]
        initial: Any = model.from_scratch(size, seed=arguments["seed"], **shape)
        return next_token(initial.to(dtype), rows)

    width = hidden_size(Path(arguments["folder"])) if "folder" in arguments else SIZES[arguments["size"]].hidden
    return learn(worker, config, make_lesson, hidden_size=width)


STAGE = Stage(
    kind="pretrain",
    version=4,
    makes="model",
    needs=("tokens",),
    takes=("model",),
    options=PretrainOptions,
    cluster=TrainCluster,
    run=run,
)
