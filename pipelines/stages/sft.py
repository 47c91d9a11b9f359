"""Supervised fine-tuning (SFT) on conversations, of all weights or by adapters (LoRA, IA3).

    conversations ──chat template──► ids, loss mask ──best-fit packing──► rows ──DeepSpeed workers──► model

Each attempt makes the rows again, in this process: 100,000 short conversations take a minute, and the same ones result
in the same bytes. Several rounds are several entries of a recipe: `persona: {stage: sft, from: sft, …}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from pipelines.chat_rows import ChatRowsOptions, choose, pack, row_length
from pipelines.stage import Facts, Options, Stage, Work
from pipelines.training import (
    ADAM_LEARNING_RATE,
    AdapterOptions,
    TrainCluster,
    adapter_arguments,
    copy_tokenizer,
    launch,
    learn,
    lesson_of,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from pipelines.learning.lesson import Lesson
    from pipelines.learning.loop import Worker

NOT_MERGED = ("prefix", "prefix_tuning", "prompt_tuning", "p_tuning", "p_tuning_v2")


class Ia3Options(Options):
    targets: list[str] | None = Field(
        None, min_length=1, description="Layers that are scaled, by the end of their name: down_proj, fc2 and "
                                        "dense_4h_to_h by their inputs, all others by their outputs; default: "
                                        "[k_proj, v_proj, down_proj]")  # fmt: skip


class SftOptions(AdapterOptions, ChatRowsOptions):
    trains_with_dropout: ClassVar[bool] = True
    default_learning_rates: ClassVar[Mapping[str, float]] = {
        "muon": 0.01, "adamw": 2e-5, "base": 1e-5, "lora": 2e-4, "ia3": 3e-3
    }  # fmt: skip

    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate; default 0.01 for muon's matrices, 2e-5 for adamw, 1e-5 for "
        "a model that began as another's, 2e-4 for lora, 3e-3 for ia3",
    )
    ia3: Ia3Options | None = Field(
        None, description="Train IA3's scales of keys, values and feed-forward inputs, by adamw, and merge them into "
                          "the weights: a hundredth of LoRA's parameters")  # fmt: skip
    adam_learning_rate: float = Field(5e-3, gt=0, description=ADAM_LEARNING_RATE)

    @model_validator(mode="before")
    @classmethod
    def _merged_into_weights(cls, values: Any) -> Any:
        for name in NOT_MERGED:
            if isinstance(values, dict) and name in values:
                raise ValueError(f"{name}: vectors in front of every prompt cannot be merged into weights, and vLLM, "
                                 f"which evaluates and serves, cannot hold them; expected lora or ia3, or the stage "
                                 f"prefix_tuning, which makes an adapter for PEFT")  # fmt: skip
        return values

    @model_validator(mode="after")
    def _ia3_alone_and_undecayed(self) -> Self:
        if self.ia3 is not None and self.lora is not None:
            raise ValueError("lora and ia3: expected one of them")
        if self.ia3 is not None and self.weight_decay:
            raise ValueError("weight_decay would pull ia3's scales to 0 instead of 1; expected 0")
        return self


def run(work: Work) -> Facts:
    from pipelines.data.tokens.chat import Chat

    options: SftOptions = work.options
    model = work.inputs["model"].local()
    chat = Chat.open(model, name=work.base)
    packed = pack(work, chat, choose(work), row_length(options, model, chat, stage=work.name))
    steps, batch_rows = packed.schedule(options)
    lesson = {
        "model": str(model),
        "rows": str(packed.file),
        "stop_ids": list(chat.stop_ids),
        **adapter_arguments(work),
    }
    facts = launch(work, train_on_worker, lesson, steps=steps, rows=batch_rows)
    copy_tokenizer(model, work.draft.out)
    return {**facts, **packed.facts, "train/epochs": steps * batch_rows / packed.num_rows}


def train_on_worker(worker: Worker, config: dict[str, Any]) -> Facts:
    """Runs in each worker process: torch is imported here, never in the driver."""
    from pipelines.inference.model_config import hidden_size
    from pipelines.learning import model
    from pipelines.learning.batch import PackedRows
    from pipelines.learning.lesson import next_token
    from pipelines.learning.precision import stored_dtype
    from pipelines.learning.saving import save_proven

    arguments = config["lesson"]
    folder, rows = Path(arguments["model"]), PackedRows(Path(arguments["rows"]))

    def open_model(dtype: torch.dtype, four_bit: bool) -> PreTrainedModel:
        initial = model.from_folder(folder, dtype, four_bit)
        assert initial.generation_config is not None
        initial.generation_config.eos_token_id = arguments["stop_ids"]  # where tools that serve the model look
        return initial

    def make(initial: PreTrainedModel) -> Lesson:
        return next_token(initial, rows, stored_dtype(folder))

    return learn(worker, config, lesson_of(arguments, open_model, make, save_proven), hidden_size=hidden_size(folder))


STAGE = Stage(
    kind="sft",
    version=5,
    makes="model",
    needs=("model", "conversations"),
    options=SftOptions,
    cluster=TrainCluster,
    run=run,
)
