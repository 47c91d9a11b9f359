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
    from pipelines.data.dialogues.conversation_records import ParsedConversation
    from pipelines.data.dialogues.conversations import Conversation
    from pipelines.data.dialogues.source_rows import RowReader
    from pipelines.data.sources.bad_rows import RejectedRows
    from pipelines.errors import UserError


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
    from pipelines.data.dialogues.prompt_splits import split_rows
    from pipelines.data.sources.bad_rows import REJECTED, BadRowLimit, RejectedRows

    options: ConversationsOptions = work.options
    rejected_rows = RejectedRows(work.draft.out / REJECTED, BadRowLimit(options.max_bad_rows, work.name))
    from_sources, source_facts = read_sources(work, rejected_rows)
    rejected_rows.write()
    train: list[Conversation] = []
    held_out: list[Conversation] = []
    if not work.sources if options.builtin_tasks is None else options.builtin_tasks:
        train, held_out = builtin_tasks.make_conversations(
            rows=options.rows_per_task, held_out_rows=options.held_out_rows_per_task, seed=work.seed
        )
    train_rows, held_out_rows = split_rows(
        from_sources, train=train, held_out=held_out,
        fraction=options.held_out, max_rows=options.max_held_out, seed=work.seed,
    )  # fmt: skip
    if from_sources and options.held_out and not held_out_rows:
        work.progress.note("no row of the sources is held out: their prompts are one, or nearly the same")
    train += train_rows
    held_out += held_out_rows
    if not train:
        raise _nothing_left(work, rejected_rows)
    conversations.write(work.draft.out / conversations.TRAIN, train)
    conversations.write(work.draft.out / conversations.HELD_OUT, held_out)
    return {**_split_facts("train", train), **_split_facts("held_out", held_out), **source_facts}


def read_sources(work: Work, rejected_rows: RejectedRows) -> tuple[list[Conversation], Facts]:
    """Reads the conversations of the sources without duplicates; sets rows aside that cannot or shall not be used."""
    from pipelines.data.dialogues import source_rows
    from pipelines.data.dialogues.conversation_records import parse_conversation
    from pipelines.data.dialogues.conversations import OPEN_TASK, Conversation
    from pipelines.data.dialogues.refusals import is_refusal
    from pipelines.data.sources import bad_rows

    options: ConversationsOptions = work.options
    keep_thoughts = options.thoughts == "keep"
    parse = partial(parse_conversation, keep_thoughts=keep_thoughts, min_rating=options.min_rating)
    reader = _reader(work)
    counts = Counter({"conversations/read": 0, "conversations/dropped_duplicate": 0, "turns/cut": 0})
    unique: dict[Any, tuple[Conversation, ParsedConversation]] = {}
    rows = bad_rows.parse_records(
        work.sources, rejected_rows, reader.parse(parse), lambda parsed: parsed.text,
        lambda number: work.progress.update(number, number, "rows"),
    )  # fmt: skip
    for row_id, source, language, parsed in rows:
        turns = (*((turn["role"], turn["content"]) for turn in parsed.messages), parsed.not_learnt)
        counts["conversations/read"] += 1
        if turns in unique:
            counts["conversations/dropped_duplicate"] += 1
            source_rows.set_duplicate_aside(rejected_rows, row_id, parsed.text)
        counts["conversations/refusals"] += int(any(map(is_refusal, parsed.replies)))
        counts["turns/cut"] += parsed.num_cut
        counts["turns/not_learnt"] += len(parsed.not_learnt)
        made = Conversation(row_id, language, source, OPEN_TASK, parsed.messages, not_learnt=parsed.not_learnt)
        unique.setdefault(turns, (made, parsed))
    kept = _without_near_duplicates(work, list(unique.values()), rejected_rows)
    if reader.unread:
        work.progress.note(f"columns not used: {reader.columns}")
    return kept, {**dict(sorted(counts.items())), **rejected_rows.facts("conversations"), **reader.facts}


def _reader(work: Work) -> RowReader:
    """What judges the rows by the stage's options."""
    from pipelines.data.dialogues.source_rows import RowReader, read_by_sources
    from pipelines.data.sources.column_names import RATING_COLUMNS

    options: ConversationsOptions = work.options
    ratings = RATING_COLUMNS if options.min_rating is not None else ()
    return RowReader("conversations", options.outlier_rules(), read_by_sources(work.sources) | set(ratings))


def _without_near_duplicates(
    work: Work, rows: list[tuple[Conversation, ParsedConversation]], rejected_rows: RejectedRows
) -> list[Conversation]:
    """The conversations that are not nearly the same as an earlier one; the others are set aside."""
    from pipelines.data.dialogues.source_rows import repeated, system_text

    contexts = [system_text(made.messages) for made, _ in rows]
    repeats = repeated([parsed.text for _, parsed in rows], contexts, work.options.near_duplicates)
    for (made, parsed), is_repeat in zip(rows, repeats, strict=True):
        if is_repeat:
            rejected_rows.add_by_rule(made.id, "near_duplicate", "nearly the same as an earlier row", parsed.text)
    return [made for (made, _), is_repeat in zip(rows, repeats, strict=True) if not is_repeat]


def _nothing_left(work: Work, rejected_rows: RejectedRows) -> UserError:
    from pipelines.data.dialogues.source_rows import reasons
    from pipelines.errors import UserError

    if rejected_rows.reasons:
        return UserError(f"{work.name}: no conversations; all rows of the sources were set aside "
                         f"({reasons(rejected_rows)}), see {rejected_rows.file}")  # fmt: skip
    return UserError(f"{work.name}: no conversations; the recipe has no sources with rows: conversations that hold "
                     f"any, and builtin_tasks is false. Add a source, or set builtin_tasks: true")  # fmt: skip


def _split_facts(split: str, conversations: list[Conversation]) -> Facts:
    """Numbers of conversations of a split: in all, and of each task and language."""
    cells = Counter(f"conversations/{split}_{each.task}_{each.language}" for each in conversations)
    return {f"conversations/{split}": len(conversations), **dict(sorted(cells.items()))}


STAGE = Stage(
    kind="conversations",
    version=3,
    makes="conversations",
    options=ConversationsOptions,
    run=run,
    rows="conversations",
)
