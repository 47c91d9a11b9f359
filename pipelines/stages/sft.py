"""Supervised fine-tuning (SFT) on conversations, of all weights or by adapters (LoRA, IA3).

    conversations ──chat template──► ids, loss mask ──best-fit packing──► rows ──DeepSpeed workers──► model

The loss mask covers the assistants' turns alone, each with the token that ends it, and no turn that a row wants
left out (weight 0). Each attempt makes the rows again, in this process: 100,000 short conversations take a minute, and
the same ones result in the same bytes. Several rounds are several entries of a recipe:
`persona: {stage: sft, from: sft, …}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, NonNegativeFloat, model_validator

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
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from pipelines.data.dialogues.conversations import Conversation
    from pipelines.data.tokens.chat import Chat, Rendered
    from pipelines.data.tokens.chat_refusals import TemplateRows
    from pipelines.learning.lesson import Lesson
    from pipelines.learning.loop import Worker

MAX_DEFAULT_LENGTH = 512  # tokens of a row, where the context is longer: attention's cost grows with the length
RENDER_BATCH = 2000  # conversations
NOT_MERGED = ("prefix", "prefix_tuning", "prompt_tuning", "p_tuning", "p_tuning_v2")


class Ia3Options(Options):
    targets: list[str] | None = Field(
        None, min_length=1, description="Layers that are scaled, by the end of their name: down_proj, fc2 and "
                                        "dense_4h_to_h by their inputs, all others by their outputs; default: "
                                        "[k_proj, v_proj, down_proj]")  # fmt: skip


class SftOptions(AdapterOptions):
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
    length: int | None = Field(
        None, ge=16, description="Tokens of a row; longer conversations are cut. Default: the model's context, but "
                                 "at most 512")  # fmt: skip
    epochs: float = Field(3, gt=0, description="Number of passes over the rows")
    budget_tokens: int | None = Field(None, ge=1, description="Tokens of rows to train on, instead of epochs")
    batch_tokens: int = Field(2048, ge=16, description="Tokens of an optimizer step's rows, over all workers")
    tasks: dict[str, NonNegativeFloat] | None = Field(
        None, description="Number of times that each task's conversations are used, such as {persona: 2, small_talk: "
                          "0.5}; those of other tasks once")  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _merged_into_weights(cls, values: Any) -> Any:
        for name in NOT_MERGED:
            if isinstance(values, dict) and name in values:
                raise ValueError(f"{name}: vectors in front of every prompt cannot be merged into weights, and vLLM, "
                                 f"which evaluates and serves, cannot hold them; expected lora or ia3")  # fmt: skip
        return values

    @model_validator(mode="after")
    def _ia3_alone_and_undecayed(self) -> Self:
        if self.ia3 is not None and self.lora is not None:
            raise ValueError("lora and ia3: expected one of them")
        if self.ia3 is not None and self.weight_decay:
            raise ValueError("weight_decay would pull ia3's scales to 0 instead of 1; expected 0")
        return self

    def identity(self) -> dict[str, Any]:
        """A budget replaces epochs."""
        return super().identity() | ({"epochs": None} if self.budget_tokens is not None else {})


def run(work: Work) -> Facts:
    from pipelines.data.tokens.chat import Chat

    options: SftOptions = work.options
    model = work.inputs["model"].local()
    chat = Chat.open(model, name=work.base)
    length = row_length(options, model, chat)
    packed = pack(work, chat, choose(work), length)
    batch_rows = max(1, options.batch_tokens // length)
    num_rows = options.epochs * packed.num_rows if options.budget_tokens is None else options.budget_tokens / length
    steps = max(1, round(num_rows / batch_rows))
    lesson = {
        "model": str(model),
        "rows": str(packed.file),
        "stop_ids": list(chat.stop_ids),
        **adapter_arguments(work),
    }
    facts = launch(work, train_on_worker, lesson, steps=steps, rows=batch_rows)
    copy_tokenizer(model, work.draft.out)
    return {**facts, **packed.facts, "train/epochs": steps * batch_rows / packed.num_rows}


def row_length(options: SftOptions, model: Path, chat: Chat) -> int:
    """Tokens of a row. Raises UserError where rows exceed the model's context, or its tokenizer its vocabulary."""
    from pipelines.errors import UserError
    from pipelines.inference.model_config import context_length, read_config

    context = context_length(model, default=MAX_DEFAULT_LENGTH)
    vocabulary = int(read_config(model).get("vocab_size") or 0)
    if 0 < vocabulary < chat.encoder.vocabulary:
        raise UserError(f"model {model}: its tokenizer has {chat.encoder.vocabulary:,} tokens, the model's "
                        f"vocabulary {vocabulary:,}; expected a tokenizer that belongs to the model")  # fmt: skip
    if options.length is not None and options.length > context:
        raise UserError(f"sft.length: {options.length} is longer than the model's context ({context}); lower it")
    return options.length or min(context, MAX_DEFAULT_LENGTH)


def choose(work: Work) -> list[Conversation]:
    """The training conversations in a seeded order, repeated or dropped by `tasks`.

    Raises UserError where there are none, or `tasks` names one that none has."""
    import numpy as np

    from pipelines.data.dialogues import conversations
    from pipelines.data.tokens import packing
    from pipelines.errors import UserError

    train = conversations.read(work.inputs["conversations"].local() / conversations.TRAIN)
    repeats: dict[str, float] = work.options.tasks or {}
    tasks = np.array([conversation.task for conversation in train])
    known = sorted(set(tasks.tolist()))
    for task in repeats:
        if task not in known:
            raise UserError(f"{work.name}.tasks: no conversation has the task {task!r}; expected {', '.join(known)}")
    order = packing.choose_documents(tasks, {task: repeats.get(task, 1.0) for task in known}, work.seed)
    if not len(order):
        raise UserError(f"{work.name}: no conversation to train on; the input has {len(train):,} and `tasks` keeps "
                        f"none of them")  # fmt: skip
    return [train[number] for number in order]


@dataclass(frozen=True)
class Packed:
    """Rows on disk."""

    file: Path
    num_rows: int
    facts: Facts


def pack(work: Work, chat: Chat, chosen: list[Conversation], length: int) -> Packed:
    """Renders conversations and writes them as rows into the draft.

    Raises UserError for a conversation without an assistant's turn, where cutting leaves none with one, and where the
    chat template takes none."""
    from pipelines.data.tokens import packing
    from pipelines.errors import UserError

    rendered = _rendered(work, chat, chosen, length)
    sequences, loss_masks = rendered.sequences, rendered.loss_masks
    num_empty = len(chosen) - rendered.template.refused - len(sequences)
    if rendered.num_cut:
        work.progress.note(
            f"{rendered.num_cut:,} of {len(chosen):,} conversations are longer than a row of {length:,} tokens and are "
            f"cut there; {num_empty:,} of them have no assistant's turn left and are dropped"
        )
    if not sequences:
        raise UserError(f"{work.name}.length: no conversation has an assistant's turn in its first {length:,} tokens; "
                        f"raise it, or provide shorter conversations")  # fmt: skip
    file = work.draft.folder("rows") / "train.arrow"
    num_rows = 0
    pad_id = chat.encoder.pad_id
    for num_rows in packing.write_sequences(file, sequences, loss_masks, length=length, pad_id=pad_id, seed=work.seed):
        work.progress.note(f"{num_rows:,} rows of {length:,} tokens")
    tokens = sum(map(len, sequences))
    facts: Facts = {
        "conversations/train": len(sequences),
        "conversations/cut": rendered.num_cut,
        "tokens/train": tokens,
        "tokens/learnt": int(sum(mask.sum() for mask in loss_masks)),
        "rows/train": num_rows,
        "rows/filled_fraction": tokens / (num_rows * length),
        **rendered.facts,
    }
    return Packed(file, num_rows, facts)


@dataclass
class _Conversations:
    """Rendered conversations that have an assistant's turn within a row, and what became of the others.

    num_cut: longer than a row. unlearnt: assistant's turns that are context alone. thoughts_left_out: assistant's turns
    whose thoughts the chat template takes out."""

    template: TemplateRows
    sequences: list[np.ndarray] = field(default_factory=list)  # ids, int32 [T] each
    loss_masks: list[np.ndarray] = field(default_factory=list)  # bool [T] each
    num_cut: int = 0
    unlearnt: int = 0
    thoughts_left_out: int = 0

    def add(self, rendered: Rendered, place: str, length: int) -> None:
        """Adds a conversation, cut after its last assistant's turn and after `length` tokens."""
        import numpy as np

        from pipelines.errors import UserError

        self.unlearnt += rendered.unlearnt
        self.thoughts_left_out += rendered.thoughts_left_out
        predicted = np.flatnonzero(rendered.loss_mask)
        if not len(predicted):
            raise UserError(f"{place} has no assistant's turn to train on; expected one at its end")
        end = int(predicted[-1]) + 1  # what follows is in no loss
        self.num_cut += end > length
        if predicted[0] < length:
            self.sequences.append(rendered.ids[: min(end, length)])
            self.loss_masks.append(rendered.loss_mask[: min(end, length)])

    @property
    def notes(self) -> list[str]:
        """A sentence for each thing that the chat template does."""
        notes = self.template.notes
        if self.unlearnt:
            notes.append(f"{self.unlearnt:,} assistant's turns are context, and not learnt: the model's chat template "
                         f"writes them without the thought that a reply begins with")  # fmt: skip
        if self.thoughts_left_out:
            notes.append(f"{self.thoughts_left_out:,} assistant's turns lose their thoughts (<think>…</think>), which "
                         f"the model's chat template takes out")  # fmt: skip
        return notes

    @property
    def facts(self) -> Facts:
        """The counts of what the chat template does, where they are not 0."""
        counts = {"turns/not_learnt": self.unlearnt, "turns/thoughts_left_out": self.thoughts_left_out}
        return {**self.template.facts, **{name: count for name, count in counts.items() if count}}


def _rendered(work: Work, chat: Chat, chosen: list[Conversation], length: int) -> _Conversations:
    """Renders conversations, and tells what the chat template does to them.

    Raises UserError for one without an assistant's turn, and where the template takes none."""
    from pipelines.data.tokens.chat_refusals import TemplateRows

    conversations = _Conversations(TemplateRows(chat))
    for first in range(0, len(chosen), RENDER_BATCH):
        batch = chosen[first : first + RENDER_BATCH]
        rows = [(f"conversation {each.id}", each.messages) for each in batch]
        results = chat.conversations(
            [each.messages for each in batch], [each.not_learnt for each in batch], [each.tools for each in batch]
        )
        conversations.template.count_tools(each.tools for each in batch)
        for index, rendered in conversations.template.taken(rows, results):
            conversations.add(rendered, f"{work.name}: conversation {batch[index].id}", length)
        work.progress.update(first + len(batch), len(chosen), "conversations")
    conversations.template.check(work.name)
    for note in conversations.notes:
        work.progress.note(note)
    return conversations


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
    version=3,
    makes="model",
    needs=("model", "conversations"),
    options=SftOptions,
    cluster=TrainCluster,
    run=run,
)
