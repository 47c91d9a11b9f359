"""Conversations as packed rows of tokens, for the stages that train on them: their options, and the rows' file.

    conversations ──chosen, in a seeded order──chat template──► ids, loss mask ──best-fit packing──► rows

The loss mask covers the assistants' turns alone, each with the token that ends it, and no turn that a row wants left
out (weight 0); where turns have other weights it holds these. Light imports only at the top: recipes are read with this
module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeFloat

from pipelines.stage import Facts, Options, Work

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.dialogues.conversations import Conversation
    from pipelines.data.tokens.chat import Chat, Rendered
    from pipelines.data.tokens.chat_refusals import TemplateRows

MAX_DEFAULT_LENGTH = 512  # tokens of a row, where the context is longer: attention's cost grows with the length
MIN_LENGTH = 16  # tokens of a row
RENDER_BATCH = 2000  # conversations


class ChatRowsOptions(Options):
    """How many rows, and of which conversations, a stage trains on."""

    length: int | None = Field(
        None, ge=MIN_LENGTH, description="Tokens of a row; longer conversations are cut. Default: the model's "
                                         "context, but at most 512")  # fmt: skip
    epochs: float = Field(3, gt=0, description="Number of passes over the rows")
    budget_tokens: int | None = Field(None, ge=1, description="Tokens of rows to train on, instead of epochs")
    batch_tokens: int = Field(2048, ge=16, description="Tokens of an optimizer step's rows, over all workers")
    tasks: dict[str, NonNegativeFloat] | None = Field(
        None, description="Number of times that each task's conversations are used, such as {persona: 2, small_talk: "
                          "0.5}; those of other tasks once")  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """A budget replaces epochs."""
        return super().identity() | ({"epochs": None} if self.budget_tokens is not None else {})


def row_length(options: ChatRowsOptions, model: Path, chat: Chat, *, stage: str, num_prefix: int = 0) -> int:
    """Tokens of a row. num_prefix: positions that a prefix takes before it.

    Raises UserError where both exceed the model's context, or its tokenizer its vocabulary."""
    from pipelines.errors import UserError
    from pipelines.inference.model_config import context_length, read_config

    context = context_length(model, default=MAX_DEFAULT_LENGTH) - num_prefix
    vocabulary = int(read_config(model).get("vocab_size") or 0)
    if 0 < vocabulary < chat.encoder.vocabulary:
        raise UserError(f"model {model}: its tokenizer has {chat.encoder.vocabulary:,} tokens, the model's "
                        f"vocabulary {vocabulary:,}; expected a tokenizer that belongs to the model")  # fmt: skip
    of = f" without a prefix of {num_prefix} tokens" if num_prefix else ""
    if context < MIN_LENGTH:
        raise UserError(
            f"{stage}: the model's context{of} is {context} tokens; expected {MIN_LENGTH} for a row at least"
        )
    if options.length is not None and options.length > context:
        raise UserError(
            f"{stage}.length: {options.length} is longer than the model's context{of} ({context}); lower it"
        )
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
    length: int  # tokens of a row
    facts: Facts

    def schedule(self, options: ChatRowsOptions) -> tuple[int, int]:
        """Optimiser steps, and rows of each."""
        batch_rows = max(1, options.batch_tokens // self.length)
        tokens, epochs = options.budget_tokens, options.epochs
        num_rows = epochs * self.num_rows if tokens is None else tokens / self.length
        return max(1, round(num_rows / batch_rows)), batch_rows


def pack(work: Work, chat: Chat, chosen: list[Conversation], length: int, file_name: str = "train.arrow") -> Packed:
    """Renders conversations and writes them as rows into the draft.

    Raises UserError for a conversation without an assistant's turn, where cutting leaves none with one, and where the
    chat template takes none."""
    import numpy as np

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
    file = work.draft.folder("rows") / file_name
    num_rows = 0
    pad_id = chat.encoder.pad_id
    for num_rows in packing.write_sequences(file, sequences, loss_masks, length=length, pad_id=pad_id, seed=work.seed):
        work.progress.note(f"{num_rows:,} rows of {length:,} tokens")
    tokens = sum(map(len, sequences))
    facts: Facts = {
        "conversations/train": len(sequences),
        "conversations/cut": rendered.num_cut,
        "tokens/train": tokens,
        "tokens/learnt": int(sum(map(np.count_nonzero, loss_masks))),
        "rows/train": num_rows,
        "rows/filled_fraction": tokens / (num_rows * length),
        **rendered.facts,
    }
    return Packed(file, num_rows, length, facts)


@dataclass
class _Conversations:
    """Rendered conversations that have an assistant's turn within a row, and what became of the others.

    num_cut: longer than a row. unlearnt: assistant's turns that are context alone. thoughts_left_out: assistant's turns
    whose thoughts the chat template takes out."""

    template: TemplateRows
    sequences: list[np.ndarray] = field(default_factory=list)  # ids, int32 [T] each
    loss_masks: list[np.ndarray] = field(default_factory=list)  # bool [T] each, or float32 where turns have weights
    num_cut: int = 0
    unlearnt: int = 0
    thoughts_left_out: int = 0

    def add(self, rendered: Rendered, weights: Sequence[float], place: str, length: int) -> None:
        """Adds a conversation, cut after its last assistant's turn and after `length` tokens. weights: of its turns."""
        import numpy as np

        from pipelines.errors import UserError

        self.unlearnt += rendered.unlearnt
        self.thoughts_left_out += rendered.thoughts_left_out
        loss_mask = _weighted(rendered, weights) if weights else rendered.loss_mask
        predicted = np.flatnonzero(loss_mask)
        if not len(predicted):
            raise UserError(f"{place} has no assistant's turn to train on; expected one at its end")
        end = int(predicted[-1]) + 1  # what follows is in no loss
        self.num_cut += end > length
        if predicted[0] < length:
            self.sequences.append(rendered.ids[: min(end, length)])
            self.loss_masks.append(loss_mask[: min(end, length)])

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


def _weighted(rendered: Rendered, weights: Sequence[float]) -> np.ndarray:
    """The loss mask with the weight of each assistant's turn in place of True. float32 [T]."""
    import numpy as np

    begins = np.diff(rendered.loss_mask.astype(np.int8), prepend=0) == 1  # turns do not touch: a prompt is between
    of_turns = np.array([0, *(weights[turn] for turn in rendered.turns)], np.float32)
    return np.where(rendered.loss_mask, of_turns[np.cumsum(begins)], 0).astype(np.float32)


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
            place = f"{work.name}: conversation {batch[index].id}"
            conversations.add(rendered, batch[index].weights, place, length)
        work.progress.update(first + len(batch), len(chosen), "conversations")
    conversations.template.check(work.name)
    for note in conversations.notes:
        work.progress.note(note)
    return conversations
