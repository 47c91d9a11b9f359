"""Conversations to learn from and to be judged on: the user's, and the embedded tasks.

    sources ──dialogues──► conversations ──hash of the prompt──┐
    TASKS   ──by argument────────────────────────────────────┴──► train.parquet, held_out.parquet, rejected.jsonl

Runs in one process: reading a hundred thousand conversations takes seconds.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeInt

from pipelines.stage import Facts, Options, Stage, Work

if TYPE_CHECKING:
    from pipelines.data.dialogues.conversations import Conversation
    from pipelines.data.sources.bad_rows import RejectedRows


class ConversationsOptions(Options):
    embedded: bool = Field(True, description="add Rayse's own tasks: narrow ones, persona, refusals, small talk")
    rows_per_task: int = Field(600, ge=1, le=5000, description="of each embedded task and language, for training")
    held_out_rows_per_task: int = Field(64, ge=1, le=1000, description="of each embedded task and language")
    held_out: float = Field(0.05, ge=0, le=0.5, description="of each language's rows from sources, by whole prompts")
    max_held_out: NonNegativeInt = Field(500, description="held-out rows from sources, of each language at most")
    max_bad_rows: NonNegativeInt = Field(
        100, description="rows that hold no conversation: set aside in rejected.jsonl; beyond, the run stops"
    )


def run(work: Work) -> Facts:
    """Writes the conversations into work.draft.out. Raises UserError for too many bad rows, or none that are good."""
    from pipelines.data.dialogues import conversations, embedded, prompt_splits
    from pipelines.data.sources.bad_rows import REJECTED, BadRowLimit, RejectedRows
    from pipelines.errors import UserError

    options: ConversationsOptions = work.options
    aside = RejectedRows(work.draft.out / REJECTED, BadRowLimit(options.max_bad_rows, work.name))
    counts: Counter[str] = Counter()
    given = read(work, aside, counts)
    train, held_out = [], []
    if options.embedded:
        train, held_out = embedded.conversations(
            rows=options.rows_per_task, held_out_rows=options.held_out_rows_per_task, seed=work.seed
        )
    keys = [prompt_splits.key(one.prompt) for one in given]
    chosen = prompt_splits.held_out(
        zip(keys, (one.language for one in given), strict=True),
        share=options.held_out,
        most=options.max_held_out,
        seed=work.seed,
        train={prompt_splits.key(one.prompt) for one in train},
        held={prompt_splits.key(one.prompt) for one in held_out},
    )
    train += [one for key, one in zip(keys, given, strict=True) if key not in chosen]
    held_out += [one for key, one in zip(keys, given, strict=True) if key in chosen]
    if not train:
        raise UserError(f"{work.name}: no conversations; the recipe has no sources with rows: conversations that hold "
                        f"any, and embedded is false. Add a source, or let embedded be true")  # fmt: skip
    conversations.write(work.draft.out / conversations.TRAIN, train)
    conversations.write(work.draft.out / conversations.HELD_OUT, held_out)
    aside.write()
    facts: Facts = {**_counted("train", train), **_counted("held_out", held_out)}
    return facts | dict(sorted(counts.items())) | aside.facts("conversations")


def read(work: Work, aside: RejectedRows, counts: Counter[str]) -> list[Conversation]:
    """The conversations of the sources, each once; what cannot be read is set aside."""
    from pipelines.data.dialogues.conversations import OPEN_TASK, Conversation
    from pipelines.data.dialogues.messages import dialogue
    from pipelines.data.sources import bad_rows

    found: dict[tuple[tuple[str, str], ...], Conversation] = {}
    tell = lambda number: work.progress.update(number, number, "rows")  # noqa: E731
    text = lambda told: "\n".join(turn["content"] for turn in told.messages)  # noqa: E731
    for name, source, language, told in bad_rows.parse_records(work.sources, aside, dialogue, text, tell):
        one = Conversation(name, language, source, OPEN_TASK, told.messages)
        counts["turns/cut"] += told.num_cut
        words = tuple((turn["role"], turn["content"]) for turn in told.messages)
        counts["conversations/dropped_duplicate"] += words in found
        found.setdefault(words, one)
    counts["conversations/read"] = len(found) + counts["conversations/dropped_duplicate"]
    return list(found.values())


def _counted(split: str, found: list[Conversation]) -> Facts:
    """How many there are, in all and of each task and language."""
    cells = Counter(f"conversations/{split}_{one.task}_{one.language}" for one in found)
    return {f"conversations/{split}": len(found), **dict(sorted(cells.items()))}


STAGE = Stage(
    kind="conversations",
    version=1,
    makes="conversations",
    options=ConversationsOptions,
    run=run,
    rows="conversations",
)
