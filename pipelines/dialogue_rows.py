"""What the stages of conversations and preferences do alike with the rows of their sources.

sources ──parse, rules──► rows ──the stage: no exact repeats──► ──no near duplicates──► ──by prompt──► train, held out
              └───────────────────────┴───────── set aside ──────────────┘
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from pipelines.data.dialogues import source_rows
from pipelines.data.dialogues.conversation_records import parse_conversation, text_of
from pipelines.data.dialogues.conversations import OPEN_TASK, Conversation
from pipelines.data.dialogues.prompt_splits import Prompted, split_rows
from pipelines.data.dialogues.refusals import is_refusal
from pipelines.data.dialogues.source_rows import ParsedRow, RowReader, read_by_sources
from pipelines.data.dialogues.synthetic.rows import SyntheticRows
from pipelines.data.sources.bad_rows import REJECTED, BadRowLimit, Problem, RejectedRows, parse_records
from pipelines.errors import UserError
from pipelines.stage import Facts, Work

Parsed = TypeVar("Parsed", bound=ParsedRow)
Row = TypeVar("Row", bound=Prompted)


def synthetic_source(work: Work, kind: str) -> str | None:
    """Name of the source with the rows of an input of this kind, whose rows a model wrote; None without one."""
    artifact = work.inputs.get(kind)
    return None if artifact is None else f"stage:{artifact.manifest.name}"


def with_synthetic(work: Work, kind: str, rows: str) -> Work:
    """The work with one source more: the rows of its input of this kind, if there is one."""
    name = synthetic_source(work, kind)
    if name is None:
        return work
    source = SyntheticRows.model_validate({"rows": rows}).at(work.inputs[kind].local())
    return replace(work, sources={**work.sources, name: source})


class DialogueRows:
    """The rows of a stage's sources, and those of them that are set aside.

    rows: conversations or preferences, as recipes name them; area: how facts and messages call what is made of them;
    also_read: columns that an option reads. rejected: the rows that are set aside."""

    def __init__(self, work: Work, rows: str, area: str, *, also_read: Sequence[str] = ()):
        self._work, self._area = work, area
        self._reader = RowReader(rows, work.options.outlier_rules(), read_by_sources(work.sources) | set(also_read))
        self.rejected = RejectedRows(work.draft.out / REJECTED, BadRowLimit(work.options.max_bad_rows, work.name))

    def read(self, parse: Callable[[Mapping[str, Any]], Parsed | Problem]) -> Iterator[tuple[str, str, str, Parsed]]:
        """Yields (id, source's name, language, parsed row) of the rows that can and shall be used.

        Raises UserError if a file cannot be read at all, or for too many bad rows."""
        return parse_records(
            self._work.sources, self.rejected, self._reader.parse(parse), lambda parsed: parsed.text,
            lambda number: self._work.progress.update(number, number, "rows"),
        )  # fmt: skip

    def finish(self, counts: Mapping[str, int]) -> Facts:
        """Writes the rows that were set aside, names the columns that nothing reads. Returns the counts and facts."""
        self.rejected.write()
        if self._reader.unread:
            self._work.progress.note(f"columns not used: {self._reader.columns}")
        return {**dict(sorted(counts.items())), **self.rejected.facts(self._area), **self._reader.facts}

    def split(
        self, rows: Sequence[Row], train: Sequence[Prompted], held_out: Sequence[Prompted]
    ) -> tuple[list[Row], list[Row]]:
        """Rows for training and held-out rows. train, held_out: earlier ones, whose prompts stay on their side."""
        options = self._work.options
        train_rows, held_out_rows = split_rows(
            rows, train=train, held_out=held_out,
            fraction=options.held_out, max_rows=options.max_held_out, seed=self._work.seed,
        )  # fmt: skip
        if rows and options.held_out and not held_out_rows:
            self._work.progress.note("no row of the sources is held out: their prompts are one, or nearly the same")
        return train_rows, held_out_rows

    def nothing_left(self, without_rows: str) -> UserError:
        """The error that nothing is left to train on. without_rows: why, and what to do, where no row was read."""
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in self.rejected.reasons.most_common())
        why = f"all rows of the sources were set aside ({reasons}), see {self.rejected.file}"
        return UserError(f"{self._work.name}: no {self._area}; {why if reasons else without_rows}")


def read_conversations(
    rows: DialogueRows, *, area: str, keep_thoughts: bool, min_rating: float | None, near_duplicates: float | None
) -> tuple[list[Conversation], Counter[str]]:
    """Reads the conversations of the sources without duplicates; sets rows aside that cannot or shall not be used.

    Returns counts as well. area: of their names."""
    parse = partial(parse_conversation, keep_thoughts=keep_thoughts, min_rating=min_rating)
    counts = Counter({f"{area}/read": 0, f"{area}/dropped_duplicate": 0, "turns/cut": 0})
    unique: dict[Any, Conversation] = {}
    for row_id, source, language, parsed in rows.read(parse):
        turns = (*(tuple(turn.items()) for turn in parsed.messages), parsed.not_learnt, parsed.weights, parsed.tools)
        counts[f"{area}/read"] += 1
        if turns in unique:
            counts[f"{area}/dropped_duplicate"] += 1
            source_rows.set_duplicate_aside(rows.rejected, row_id, parsed.text)
        counts[f"{area}/refusals"] += int(parsed.refused or any(map(is_refusal, parsed.replies)))
        counts["turns/cut"] += parsed.num_cut
        counts["turns/cut_before"] += parsed.num_cut_before
        counts["turns/joined"] += parsed.num_joined
        counts["turns/not_learnt"] += len(parsed.not_learnt)
        counts["turns/weighted"] += sum(weight not in (0, 1) for weight in parsed.weights)
        unique.setdefault(turns, Conversation(row_id, language, source, OPEN_TASK, parsed.messages,
                                              not_learnt=parsed.not_learnt, weights=parsed.weights,
                                              tools=parsed.tools))  # fmt: skip
    kept = source_rows.without_near_duplicates(
        list(unique.values()),
        lambda row: (text_of(row.messages), source_rows.system_text(row.messages) + row.tools, (row.id,)),
        near_duplicates,
        rows.rejected,
    )
    return kept, counts
