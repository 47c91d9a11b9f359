"""Prefix tuning and P-tuning v2 on conversations: trained keys and values in front of every one, beside a frozen model.

    conversations ──chat template──► rows ──DeepSpeed workers──► adapter_model.safetensors, as PEFT writes it

The adapter is no model: what it has learnt cannot be merged into weights, and vLLM cannot hold it. So no stage that
evaluates, aligns, quantises or serves takes it; its figures are the loss on held-out conversations with it and without
it, and `rayse export` makes a folder that PeftModel.from_pretrained opens on the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from pipelines.chat_rows import ChatRowsOptions, choose, pack, row_length
from pipelines.stage import Facts, Stage, Work
from pipelines.training import OptimizerOptions, TrainCluster, copy_tokenizer, launch, learn, scoring_batch

if TYPE_CHECKING:
    import torch

    from pipelines.data.tokens.chat import Chat
    from pipelines.learning.lesson import Lesson
    from pipelines.learning.loop import Worker


class PrefixTuningOptions(OptimizerOptions, ChatRowsOptions):
    default_learning_rates: ClassVar[Mapping[str, float]] = {"adamw": 1e-2, "base": 1e-2}

    learning_rate: float | None = Field(None, gt=0, description="Peak learning rate; default 0.01")
    num_virtual_tokens: int = Field(
        20, ge=1, description="Number of keys and values of each layer that every conversation begins behind"
    )
    projection: int | None = Field(
        None, ge=1, description="Width of the hidden layer of an MLP that computes keys and values in training "
                                "(P-tuning v2's reparametrization). Default: they are trained themselves")  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _by_adamw(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("optimizer") == "muon":
            raise ValueError("muon is for the matrices of layers, which are frozen here; expected optimizer: adamw")
        if "adam_learning_rate" in values:
            raise ValueError("adam_learning_rate is muon's; expected learning_rate, which is the prefix's")
        return values | {"optimizer": "adamw"}


def run(work: Work) -> Facts:
    from pipelines.data.tokens.chat import Chat

    options: PrefixTuningOptions = work.options
    model = work.inputs["model"].local()
    chat = Chat.open(model, name=work.base)
    length = row_length(options, model, chat, stage=work.name, num_prefix=options.num_virtual_tokens)
    packed = pack(work, chat, choose(work), length)
    lesson: dict[str, Any] = {
        "model": str(model), "rows": str(packed.file), "seed": work.seed, "tokens": options.num_virtual_tokens,
        "projection": options.projection,
    }  # fmt: skip
    held_out = held_out_rows(work, chat, length)
    if held_out is not None:
        lesson["held_out"] = str(held_out)
    steps, batch_rows = packed.schedule(options)
    facts = launch(work, train_on_worker, lesson, steps=steps, rows=batch_rows)
    copy_tokenizer(model, work.draft.out)
    return {**facts, **packed.facts, "train/epochs": steps * batch_rows / packed.num_rows}


def held_out_rows(work: Work, chat: Chat, length: int) -> Path | None:
    """The file of rows of the held-out conversations, without the weights of their turns; None, with a note of the
    reason, where there is none that fits a row of so many tokens: then there are no figures of them."""
    from pipelines.data.dialogues import conversations
    from pipelines.errors import UserError

    held_out = conversations.read(work.inputs["conversations"].local() / conversations.HELD_OUT)
    if not held_out:
        work.progress.note("no held-out conversation: there will be no heldout/ figures")
        return None
    work.progress.note(f"conversations that are held out: {len(held_out):,}")
    try:
        unweighted = [replace(conversation, weights=()) for conversation in held_out]
        return pack(work, chat, unweighted, length, "held_out.arrow").file
    except UserError as error:
        work.progress.note(f"there will be no heldout/ figures: {error}")
        return None


def train_on_worker(worker: Worker, config: dict[str, Any]) -> Facts:
    """Runs in each worker process: torch is imported here, never in the driver."""
    from pipelines.inference.model_config import hidden_size
    from pipelines.learning import model, prefix
    from pipelines.learning.batch import PackedRows

    arguments = config["lesson"]
    folder = Path(arguments["model"])

    def make_lesson(dtype: torch.dtype) -> Lesson:
        return prefix.lesson(
            partial(model.from_folder, folder),
            PackedRows(Path(arguments["rows"])),
            PackedRows(Path(arguments["held_out"])) if "held_out" in arguments else None,
            tokens=arguments["tokens"],
            projection=arguments["projection"],
            seed=arguments["seed"],
            dtype=dtype,
            batch_rows=scoring_batch(config),
        )

    return learn(worker, config, make_lesson, hidden_size=hidden_size(folder))


STAGE = Stage(
    kind="prefix_tuning",
    version=4,
    makes="adapter",
    needs=("model", "conversations"),
    options=PrefixTuningOptions,
    cluster=TrainCluster,
    run=run,
)
