"""Makes conversations for SFT, PPO and evaluation: the user's rows, and examples of the built-in tasks.

    sources ──parse_conversation, rules──► conversations ──no repeats──hash of the prompt──┐
    TASKS ──split by argument──────────────────────────────────────────────────────────────┼──► train, held_out.parquet
    rows that a model wrote (augment), none of them like a held-out one ──► train only ────┘

Rows that hold no conversation, or one that an option leaves out, go to rejected.jsonl. Runs in one process: a hundred
thousand conversations take a minute.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AliasChoices, Field, NonNegativeInt

from pipelines.dialogue_options import DialogueOptions
from pipelines.stage import Facts, RowLimit, Stage, Work

if TYPE_CHECKING:
    from pipelines.data.dialogues.conversations import Conversation
    from pipelines.dialogue_rows import DialogueRows


class ConversationsOptions(DialogueOptions):
    builtin_tasks: bool | None = Field(
        None,
        validation_alias=AliasChoices("builtin_tasks", "embedded"),  # the latter is its name in older recipes
        description="Whether to add the built-in tasks: narrow ones with checkable answers, persona, refusals, benign "
        "look-alikes, small talk. Default: where the recipe has no conversations of its own",
    )
    rows_per_task: int = Field(
        600, ge=1, le=5000, description="Maximum number of training rows of each built-in task and language"
    )
    held_out_rows_per_task: int = Field(
        64, ge=1, le=1000, description="Maximum number of held-out rows of each built-in task and language"
    )
    held_out: float = Field(
        0.05, ge=0, le=0.5, description="Fraction of each language's source rows that is held out, by whole prompts"
    )
    max_held_out: NonNegativeInt = Field(500, description="Maximum number of held-out source rows of each language")
    min_rating: float | None = Field(
        None,
        description="Rows with a lower rating (a column rating, score, reward …) are set aside, as those labelled bad "
        "always are; default: ratings are not read",
    )
    safety: dict[str, Literal["unsafe", "safe"]] = Field(
        {},
        description="Label of all conversations of a source: unsafe, where they must be refused ({attacks: unsafe}), "
        "or safe, where they only look unsafe and must be answered. The guard learns from both",
    )
    max_bad_rows: RowLimit | None = Field(
        None,
        description="Maximum number of rows that hold no conversation (in rejected.jsonl) before the stage fails, or "
        "their share of each source's rows, such as 1%. Default: 100 rows, and 5% of each source's rows (of few: 5, "
        "but at most half)",
    )

    def identity(self) -> dict[str, Any]:
        """Labels of sources are left out where there are none, so that earlier results keep their identity."""
        identity = super().identity()
        return identity if self.safety else {name: identity[name] for name in identity if name != "safety"}


def run(work: Work) -> Facts:
    """Writes both splits into work.draft.out. Raises UserError for too many bad rows, or without a training row."""
    from pipelines.data.dialogues import builtin_tasks, conversations
    from pipelines.data.sources.column_names import RATING_COLUMNS
    from pipelines.dialogue_rows import DialogueRows, read_conversations, synthetic_source, with_synthetic

    options: ConversationsOptions = work.options
    check_labelled_sources(work)
    work, written_by_model = with_synthetic(work, "augmented", "conversations"), synthetic_source(work, "augmented")
    ratings = RATING_COLUMNS if options.min_rating is not None else ()
    rows = DialogueRows(work, "conversations", "conversations", also_read=ratings)
    read, counts = read_conversations(
        rows,
        area="conversations",
        keep_thoughts=options.thoughts == "keep",
        min_rating=options.min_rating,
        near_duplicates=options.near_duplicates,
    )
    read = [replace(row, safety=options.safety.get(row.source, row.safety)) for row in read]
    train: list[Conversation] = []
    held_out: list[Conversation] = []
    if not work.sources if options.builtin_tasks is None else options.builtin_tasks:
        train, held_out = builtin_tasks.make_conversations(
            rows=options.rows_per_task, held_out_rows=options.held_out_rows_per_task, seed=work.seed
        )
    train_rows, held_out_rows = rows.split([row for row in read if row.source != written_by_model], train, held_out)
    held_out += held_out_rows
    train += train_rows + synthetic_for_training(
        work, rows, [row for row in read if row.source == written_by_model], held_out
    )
    source_facts = rows.finish(counts)
    if not train:
        raise rows.nothing_left("the recipe has no sources with rows: conversations that hold any, and builtin_tasks "
                                "is false. Add a source, or set builtin_tasks: true")  # fmt: skip
    conversations.write(work.draft.out / conversations.TRAIN, train)
    conversations.write(work.draft.out / conversations.HELD_OUT, held_out)
    return {**_split_facts("train", train), **_split_facts("held_out", held_out), **source_facts}


def check_labelled_sources(work: Work) -> None:
    """Raises UserError where the option `safety` names a source that the stage does not read."""
    from pipelines.errors import UserError

    unknown = sorted(set(work.options.safety) - set(work.sources))
    if unknown:
        raise UserError(
            f"{work.name}.safety: {unknown[0]} is no source of conversations that this stage reads; expected one of: "
            f"{', '.join(sorted(work.sources)) or 'none'}"
        )


def synthetic_for_training(
    work: Work, rows: DialogueRows, written: list[Conversation], held_out: list[Conversation]
) -> list[Conversation]:
    """The rows that a model wrote, without those made from a held-out row, or with a prompt like a held-out one.

    They are all for training: what is held out is what people wrote."""
    from pipelines.data.dialogues.prompt_splits import split_rows
    from pipelines.data.dialogues.synthetic import rows as synthetic

    if not written:
        return []
    lines = synthetic.read(work.inputs["augmented"].local())
    made_from_held_out = synthetic.made_from(lines, {row.id for row in held_out})
    apart: list[Conversation] = []
    for row in written:
        if int(row.id.rpartition("/")[2]) in made_from_held_out:
            problem = "made from a row that is held out; expected one made from rows for training"
            rows.rejected.add_by_rule(row.id, "made_from_held_out", problem, row.messages[-1]["content"])
        else:
            apart.append(row)
    kept, similar = split_rows(apart, train=(), held_out=held_out, fraction=0, max_rows=0, seed=work.seed)
    for row in similar:
        problem = "its prompt is nearly the same as a held-out one"
        rows.rejected.add_by_rule(row.id, "like_held_out", problem, row.messages[-1]["content"])
    return kept


def _split_facts(split: str, conversations: list[Conversation]) -> Facts:
    """Numbers of conversations of a split: in all, and of each task and language."""
    cells = Counter(f"conversations/{split}_{each.task}_{each.language}" for each in conversations)
    return {f"conversations/{split}": len(conversations), **dict(sorted(cells.items()))}


STAGE = Stage(
    kind="conversations",
    version=12,
    makes="conversations",
    takes=("augmented",),
    options=ConversationsOptions,
    run=run,
    rows="conversations",
)
