"""Makes conversations for SFT, PPO and evaluation: the user's rows, and examples of the built-in tasks.

    sources ──parse_conversation, rules──► conversations ──no repeats──hash of the prompt──┐
    TASKS ──split by argument──────────────────────────────────────────────────────────────┴──► train, held_out.parquet

Rows that hold no conversation, or one that an option leaves out, go to rejected.jsonl. Runs in one process: a hundred
thousand conversations take a minute.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

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
    max_bad_rows: RowLimit | None = Field(
        None,
        description="Maximum number of rows that hold no conversation (in rejected.jsonl) before the stage fails, or "
        "their share of each source's rows, such as 1%. Default: 100 rows, and 5% of each source's rows (of few: 5, "
        "but at most half)",
    )


def run(work: Work) -> Facts:
    """Writes both splits into work.draft.out. Raises UserError for too many bad rows, or without a training row."""
    from pipelines.data.dialogues import builtin_tasks, conversations
    from pipelines.data.sources.column_names import RATING_COLUMNS
    from pipelines.dialogue_rows import DialogueRows

    options: ConversationsOptions = work.options
    ratings = RATING_COLUMNS if options.min_rating is not None else ()
    rows = DialogueRows(work, "conversations", "conversations", also_read=ratings)
    from_sources, source_facts = read_sources(rows, options)
    train: list[Conversation] = []
    held_out: list[Conversation] = []
    if not work.sources if options.builtin_tasks is None else options.builtin_tasks:
        train, held_out = builtin_tasks.make_conversations(
            rows=options.rows_per_task, held_out_rows=options.held_out_rows_per_task, seed=work.seed
        )
    train_rows, held_out_rows = rows.split(from_sources, train, held_out)
    train += train_rows
    held_out += held_out_rows
    if not train:
        raise rows.nothing_left("the recipe has no sources with rows: conversations that hold any, and builtin_tasks "
                                "is false. Add a source, or set builtin_tasks: true")  # fmt: skip
    conversations.write(work.draft.out / conversations.TRAIN, train)
    conversations.write(work.draft.out / conversations.HELD_OUT, held_out)
    return {**_split_facts("train", train), **_split_facts("held_out", held_out), **source_facts}


def read_sources(rows: DialogueRows, options: ConversationsOptions) -> tuple[list[Conversation], Facts]:
    """Reads the conversations of the sources without duplicates; sets rows aside that cannot or shall not be used."""
    from pipelines.data.dialogues import source_rows
    from pipelines.data.dialogues.conversation_records import parse_conversation, text_of
    from pipelines.data.dialogues.conversations import OPEN_TASK, Conversation
    from pipelines.data.dialogues.refusals import is_refusal

    keep_thoughts = options.thoughts == "keep"
    parse = partial(parse_conversation, keep_thoughts=keep_thoughts, min_rating=options.min_rating)
    counts = Counter({"conversations/read": 0, "conversations/dropped_duplicate": 0, "turns/cut": 0})
    unique: dict[Any, Conversation] = {}
    for row_id, source, language, parsed in rows.read(parse):
        turns = (*(tuple(turn.items()) for turn in parsed.messages), parsed.not_learnt, parsed.tools)
        counts["conversations/read"] += 1
        if turns in unique:
            counts["conversations/dropped_duplicate"] += 1
            source_rows.set_duplicate_aside(rows.rejected, row_id, parsed.text)
        counts["conversations/refusals"] += int(any(map(is_refusal, parsed.replies)))
        counts["turns/cut"] += parsed.num_cut
        counts["turns/not_learnt"] += len(parsed.not_learnt)
        unique.setdefault(turns, Conversation(row_id, language, source, OPEN_TASK, parsed.messages,
                                              not_learnt=parsed.not_learnt, tools=parsed.tools))  # fmt: skip
    kept = source_rows.without_near_duplicates(
        list(unique.values()),
        lambda row: (text_of(row.messages), source_rows.system_text(row.messages) + row.tools, (row.id,)),
        options.near_duplicates,
        rows.rejected,
    )
    return kept, rows.finish(counts)


def _split_facts(split: str, conversations: list[Conversation]) -> Facts:
    """Numbers of conversations of a split: in all, and of each task and language."""
    cells = Counter(f"conversations/{split}_{each.task}_{each.language}" for each in conversations)
    return {f"conversations/{split}": len(conversations), **dict(sorted(cells.items()))}


STAGE = Stage(
    kind="conversations",
    version=5,
    makes="conversations",
    options=ConversationsOptions,
    run=run,
    rows="conversations",
)
