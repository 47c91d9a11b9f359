"""Makes conversations for SFT, PPO and evaluation: the user's rows, and examples of the built-in tasks.

    sources ──parse_conversation──► conversations ──hash of the prompt──┐
    TASKS ──split by argument───────────────────────────────────────────┴──► train.parquet, held_out.parquet

Rows that hold no conversation go to rejected.jsonl. Runs in one process: a hundred thousand conversations take seconds.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeInt

from pipelines.stage import Facts, Options, RowLimit, Stage, Work

if TYPE_CHECKING:
    from pipelines.data.dialogues.conversation_records import ParsedConversation
    from pipelines.data.dialogues.conversations import Conversation
    from pipelines.data.sources.bad_rows import RejectedRows


class ConversationsOptions(Options):
    builtin_tasks: bool | None = Field(
        None,
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
    from pipelines.errors import UserError

    options: ConversationsOptions = work.options
    rejected_rows = RejectedRows(work.draft.out / REJECTED, BadRowLimit(options.max_bad_rows, work.name))
    counts: Counter[str] = Counter()
    from_sources = read_sources(work, rejected_rows, counts)
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
    train += train_rows
    held_out += held_out_rows
    if not train:
        raise UserError(f"{work.name}: no conversations; the recipe has no sources with rows: conversations that hold "
                        f"any, and builtin_tasks is false. Add a source, or set builtin_tasks: true")  # fmt: skip
    conversations.write(work.draft.out / conversations.TRAIN, train)
    conversations.write(work.draft.out / conversations.HELD_OUT, held_out)
    rejected_rows.write()
    facts: Facts = {**_split_facts("train", train), **_split_facts("held_out", held_out)}
    return facts | dict(sorted(counts.items())) | rejected_rows.facts("conversations")


def read_sources(work: Work, rejected_rows: RejectedRows, counts: Counter[str]) -> list[Conversation]:
    """Reads the conversations of the sources without duplicates; rows that cannot be parsed are rejected."""
    from pipelines.data.dialogues.conversation_records import parse_conversation
    from pipelines.data.dialogues.conversations import OPEN_TASK, Conversation
    from pipelines.data.sources import bad_rows

    def text(parsed: ParsedConversation) -> str:
        return "\n".join(turn["content"] for turn in parsed.messages)

    def on_progress(num_rows: int) -> None:
        work.progress.update(num_rows, num_rows, "rows")

    unique: dict[tuple[tuple[str, str], ...], Conversation] = {}
    rows = bad_rows.parse_records(work.sources, rejected_rows, parse_conversation, text, on_progress)
    for row_id, source, language, parsed in rows:
        turns = tuple((turn["role"], turn["content"]) for turn in parsed.messages)
        counts["turns/cut"] += parsed.num_cut
        counts["conversations/dropped_duplicate"] += int(turns in unique)
        unique.setdefault(turns, Conversation(row_id, language, source, OPEN_TASK, parsed.messages))
    counts["conversations/read"] = len(unique) + counts["conversations/dropped_duplicate"]
    return list(unique.values())


def _split_facts(split: str, conversations: list[Conversation]) -> Facts:
    """Numbers of conversations of a split: in all, and of each task and language."""
    cells = Counter(f"conversations/{split}_{each.task}_{each.language}" for each in conversations)
    return {f"conversations/{split}": len(conversations), **dict(sorted(cells.items()))}


STAGE = Stage(
    kind="conversations",
    version=2,
    makes="conversations",
    options=ConversationsOptions,
    run=run,
    rows="conversations",
)
