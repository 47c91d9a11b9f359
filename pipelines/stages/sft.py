"""Teaches a model to answer: supervised fine-tuning on conversations, all weights or LoRA adapters.

    conversations ──chat template──► ids, learnt ──best-fit packing──► rows ──DeepSpeed workers──► model

Loss is taken on the assistants' turns only, each with the token that ends it. Rows are made anew by each attempt, in
this process: 100,000 short conversations take a minute, and the same ones give the same bytes. Several rounds are
several entries of a recipe: `persona: {stage: sft, from: sft, …}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeFloat, model_validator

from pipelines.stage import Facts, Options, Stage, Work
from pipelines.training import OptimizerOptions, TrainCluster, copy_tokenizer, launch, learn

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.dialogues.conversations import Conversation
    from pipelines.data.tokens.chat import Chat
    from pipelines.learning.loop import Worker

LONGEST = 512  # tokens of a row by default, where the model reads more: attention's cost grows with the length
RENDER_AT_ONCE = 2000
RATES = {"muon": 0.01, "adamw": 2e-5, "lora": 2e-4}
LARGE_BYTES = 10**9  # of weights; Muon's default rate is for models that were raised here


class LoraOptions(Options):
    rank: int = Field(16, ge=1, description="of the matrices that are learnt instead of a layer's weights")
    alpha: float = Field(32, gt=0, description="adapters count alpha / rank times")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of an adapter's inputs that is left out in training")
    targets: list[str] | None = Field(
        None, min_length=1, description="layers by the end of their name, [q_proj, v_proj]; default: every linear layer"
    )


class SftOptions(OptimizerOptions):
    learning_rate: float | None = Field(
        None, gt=0, description="peak; default 0.01 for muon's matrices, 2e-5 for adamw, 2e-4 for lora"
    )
    adam_learning_rate: float = Field(5e-3, gt=0, description="peak, for what muon leaves to AdamW: embeddings, norms")
    length: int | None = Field(
        None, ge=16, description="tokens of a row; longer conversations are cut. Default: the model's context, but "
                                 "at most 512")  # fmt: skip
    epochs: float = Field(3, gt=0, description="how often all rows are learnt from")
    budget_tokens: int | None = Field(None, ge=1, description="tokens of rows to learn from, instead of epochs")
    batch_tokens: int = Field(2048, ge=16, description="tokens of an optimiser step's rows, all workers together")
    tasks: dict[str, NonNegativeFloat] | None = Field(
        None, description="how often a task's conversations are used, {persona: 2, small_talk: 0.5}; all others once"
    )
    lora: LoraOptions | None = Field(None, description="learn adapters and merge them; by adamw. Default: all weights")

    @model_validator(mode="before")
    @classmethod
    def _adapters_by_adamw(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("lora") is not None:
            if values.setdefault("optimizer", "adamw") == "muon":
                raise ValueError("muon is for whole matrices, expected optimizer: adamw with lora")
        return values

    def identity(self) -> dict[str, Any]:
        """A budget replaces epochs."""
        return super().identity() | ({"epochs": None} if self.budget_tokens is not None else {})

    @property
    def peak_rate(self) -> float:
        return self.learning_rate or RATES["lora" if self.lora else self.optimizer]


def run(work: Work) -> Facts:
    from pipelines.data.tokens.chat import Chat

    options: SftOptions = work.options
    model = work.inputs["model"].local()
    chat = Chat.open(model)
    length = row_length(options, model, chat)
    if not (options.learning_rate or options.lora) and options.optimizer == "muon" and _is_large(model):
        work.progress.note(f"{work.name}.learning_rate: the default, {options.peak_rate:g} by muon, suits small "
                           f"models; large ones are usually taught with optimizer: adamw")  # fmt: skip
    packed = pack(work, chat, choose(work), length)
    batch_rows = max(1, options.batch_tokens // length)
    wanted = options.epochs * packed.num_rows
    if options.budget_tokens is not None:
        wanted = options.budget_tokens / length
    steps = max(1, round(wanted / batch_rows))
    lesson = {
        "model": str(model),
        "rows": str(packed.file),
        "stop_ids": list(chat.stop_ids),
        "lora": None if options.lora is None else options.lora.model_dump(),
        "seed": work.seed,
    }
    facts = launch(work, train_on_worker, lesson, steps=steps, rows=batch_rows)
    copy_tokenizer(model, work.draft.out)
    return {**facts, **packed.facts, "train/epochs": steps * batch_rows / packed.num_rows}


def row_length(options: SftOptions, model: Path, chat: Chat) -> int:
    """Tokens of a row. Raises UserError where the model cannot read rows so long, or tokens of its tokenizer."""
    from pipelines.errors import UserError
    from pipelines.inference.model_config import context_length, read_config

    context = context_length(model, default=LONGEST)
    vocabulary = int(read_config(model).get("vocab_size") or 0)
    if 0 < vocabulary < chat.encoder.vocabulary:
        raise UserError(f"model {model}: its tokenizer has {chat.encoder.vocabulary:,} tokens, the model knows "
                        f"{vocabulary:,}; expected a tokenizer that belongs to the model")  # fmt: skip
    if options.length is not None and options.length > context:
        raise UserError(f"sft.length: {options.length} is longer than the model was made for ({context}); lower it")
    return options.length or min(context, LONGEST)


def choose(work: Work) -> list[Conversation]:
    """The training conversations in a seeded order, each as often as `tasks` says.

    Raises UserError where there are none, or a task is named that none has."""
    import numpy as np

    from pipelines.data.dialogues import conversations
    from pipelines.data.tokens import packing
    from pipelines.errors import UserError

    found = conversations.read(work.inputs["conversations"].local() / conversations.TRAIN)
    wanted: dict[str, float] = work.options.tasks or {}
    tasks = np.array([one.task for one in found])
    there = sorted(set(tasks.tolist()))
    for task in wanted:
        if task not in there:
            raise UserError(f"{work.name}.tasks: no conversation has the task {task!r}; there are: {', '.join(there)}")
    order = packing.choose_documents(tasks, {task: wanted.get(task, 1.0) for task in there}, work.seed)
    if not len(order):
        raise UserError(f"{work.name}: no conversation to learn from; {len(found):,} were given and `tasks` keeps none "
                        f"of them")  # fmt: skip
    return [found[number] for number in order]


@dataclass(frozen=True)
class Packed:
    """Rows on disk."""

    file: Path
    num_rows: int
    facts: Facts


def pack(work: Work, chat: Chat, chosen: list[Conversation], length: int) -> Packed:
    """Renders conversations and writes them as rows into the draft.

    Raises UserError for a conversation in which nothing is to be learnt, and where none is left after cutting."""
    from pipelines.data.tokens import packing
    from pipelines.errors import UserError

    pieces, learnt, num_cut = _fitted(work, chat, chosen, length)
    empty = len(chosen) - len(pieces)
    if num_cut:
        work.progress.note(f"{num_cut:,} of {len(chosen):,} conversations are longer than a row of {length:,} tokens "
                           f"and are cut there; {empty:,} of them hold nothing to learn and are left out")  # fmt: skip
    if not pieces:
        raise UserError(f"{work.name}.length: no conversation has anything to learn in its first {length:,} tokens; "
                        f"raise it, or give shorter conversations")  # fmt: skip
    file = work.draft.folder("rows") / "train.arrow"
    num_rows = 0
    pad_id = chat.encoder.pad_id
    for num_rows in packing.write_sequences(file, pieces, learnt, length=length, pad_id=pad_id, seed=work.seed):
        work.progress.note(f"{num_rows:,} rows of {length:,} tokens")
    tokens = sum(map(len, pieces))
    facts: Facts = {
        "conversations/train": len(pieces),
        "conversations/cut": num_cut,
        "tokens/train": tokens,
        "tokens/learnt": int(sum(mask.sum() for mask in learnt)),
        "rows/train": num_rows,
        "rows/filled_share": tokens / (num_rows * length),
    }
    return Packed(file, num_rows, facts)


def _fitted(
    work: Work, chat: Chat, chosen: list[Conversation], length: int
) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Ids and what is learnt of each conversation that has something to learn in a row, and how many were cut."""
    import numpy as np

    from pipelines.errors import UserError

    pieces: list[np.ndarray] = []
    learnt: list[np.ndarray] = []
    num_cut = 0
    for first in range(0, len(chosen), RENDER_AT_ONCE):
        some = chosen[first : first + RENDER_AT_ONCE]
        for one, rendered in zip(some, chat.conversations([c.messages for c in some]), strict=True):
            places = np.flatnonzero(rendered.loss_mask)
            if not len(places):
                raise UserError(f"{work.name}: conversation {one.id} has no assistant's turn, so there is nothing to "
                                f"learn in it; expected one at its end")  # fmt: skip
            end = int(places[-1]) + 1  # nothing is learnt from what comes later
            num_cut += end > length
            if places[0] < length:
                pieces.append(rendered.ids[: min(end, length)])
                learnt.append(rendered.loss_mask[: min(end, length)])
        work.progress.update(first + len(some), len(chosen), "conversations")
    return pieces, learnt, num_cut


def _is_large(model: Path) -> bool:
    return sum(file.stat().st_size for file in model.glob("*.safetensors")) > LARGE_BYTES


def train_on_worker(worker: Worker, config: dict[str, Any]) -> Facts:
    """Runs in each worker process: the crafts are imported here, so that the driver never loads torch."""
    from pipelines.learning import lesson, model
    from pipelines.learning.batch import PackedRows

    wanted = config["lesson"]
    rows = PackedRows(Path(wanted["rows"]))

    def open_model():
        made = model.from_folder(Path(wanted["model"]))
        assert made.generation_config is not None
        made.generation_config.eos_token_id = wanted["stop_ids"]  # where any tool that serves the model looks
        return made

    if wanted["lora"] is None:
        return learn(worker, config, lambda dtype: lesson.next_token(open_model(), rows, dtype))
    from pipelines.learning import adapters

    lora = adapters.Lora(**wanted["lora"])
    return learn(worker, config, lambda dtype: adapters.next_token(open_model, rows, dtype, lora, seed=wanted["seed"]))


STAGE = Stage(
    kind="sft",
    version=2,
    makes="model",
    needs=("model", "conversations"),
    options=SftOptions,
    cluster=TrainCluster,
    run=run,
)
