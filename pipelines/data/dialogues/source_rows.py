"""What the stages of conversations and preferences do alike with the rows of sources: choose, count, name what is left.

record ──parse──► parsed ──OutlierRules──► used, its unread columns counted | Problem, set aside
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pipelines.data.dialogues import similar_texts
from pipelines.data.dialogues.outliers import OutlierRules
from pipelines.data.sources.bad_rows import Problem, RejectedRows
from pipelines.data.sources.record_formats import columns_not_used

DISPLAYED_COLUMNS = 12
MIN_SHARED = 10  # rows that begin with one paragraph: an instruction, and what follows it tells them apart


class ParsedRow(Protocol):
    """A parsed conversation or preference."""

    @property
    def text(self) -> str: ...

    @property
    def replies(self) -> Sequence[str]: ...

    @property
    def refused(self) -> bool: ...


Parsed = TypeVar("Parsed", bound=ParsedRow)
Row = TypeVar("Row")
Facts = dict[str, float | int | str]


@dataclass
class RowReader:
    """Parses records and sets those aside that the rules do not let through; counts the columns that it does not read.

    rows: conversations or preferences. ignored: columns that the sources read themselves (group, language_column), or
    that an option reads."""

    rows: str
    rules: OutlierRules
    ignored: frozenset[str] = frozenset()
    unread: Counter[str] = field(default_factory=Counter)

    def parse(
        self, parse: Callable[[Mapping[str, Any]], Parsed | Problem]
    ) -> Callable[[Mapping[str, Any]], Parsed | Problem]:
        """The function that parses a record and judges what it says."""

        def judged(record: Mapping[str, Any]) -> Parsed | Problem:
            parsed = parse(record)
            if isinstance(parsed, Problem):
                return parsed
            problem = self.rules.problem(parsed.text, parsed.replies, refused=parsed.refused)
            if problem is None:
                self.unread.update(name for name in columns_not_used(record, self.rows) if name not in self.ignored)
            return problem or parsed

        return judged

    @property
    def facts(self) -> Facts:
        """The columns of rows that are used which carry something and are not read, each with its number of rows."""
        return {"rows/columns_not_used": self.columns} if self.unread else {}

    @property
    def columns(self) -> str:
        """tools (1 row), id (20 rows)"""
        named = [
            f"{name} ({number:,} row{'' if number == 1 else 's'})"
            for name, number in self.unread.most_common(DISPLAYED_COLUMNS)
        ]
        more = len(self.unread) - len(named)
        return ", ".join([*named, f"{more:,} more"] if more else named)


def read_by_sources(sources: Mapping[str, Any]) -> frozenset[str]:
    """The columns that sources read themselves: those of groups and languages."""
    names = (getattr(source, option, None) for source in sources.values() for option in ("group", "language_column"))
    return frozenset(name for name in names if name is not None)


def without_near_duplicates(
    rows: Sequence[Row],
    said: Callable[[Row], tuple[str, str, Sequence[str]]],
    threshold: float | None,
    rejected: RejectedRows,
) -> list[Row]:
    """The rows that are not nearly the same as an earlier one with the same context; the others are set aside.

    said: what rows are compared by (its text; its context: the system's turn, …), and the ids of those that it was read
    from. A paragraph that many texts begin with is context too. threshold: similarity; None: no row is."""
    all_said = [said(row) for row in rows]
    compared = [text.partition("\n\n") for text, _, _ in all_said if threshold is not None]
    num_shared = Counter(opening for opening, _, rest in compared if rest)
    by_context: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, (opening, _, rest) in enumerate(compared):
        is_shared = rest != "" and num_shared[opening] >= MIN_SHARED
        by_context[all_said[position][1], opening if is_shared else ""].append(position)
    repeated: set[int] = set()
    for (_, opening), positions in by_context.items():
        if threshold is not None and len(positions) > 1:
            texts = [compared[position][2] if opening else all_said[position][0] for position in positions]
            repeats = similar_texts.repeats(texts, threshold)
            repeated.update(position for position, is_repeat in zip(positions, repeats, strict=True) if is_repeat)
    for position in sorted(repeated):
        text, _, row_ids = all_said[position]
        for row_id in row_ids:
            rejected.add_by_rule(row_id, "near_duplicate", "nearly the same as an earlier row", text)
    return [row for position, row in enumerate(rows) if position not in repeated]


def system_text(messages: Sequence[Mapping[str, str]]) -> str:
    """The text of the system's turns; empty without one."""
    return "\n\n".join(turn["content"] for turn in messages if turn["role"] == "system")


def set_duplicate_aside(rejected: RejectedRows, row_id: str, text: str) -> None:
    """Sets a row aside that says exactly what an earlier one says; text: what that is."""
    rejected.add_by_rule(row_id, "duplicate", "says exactly what an earlier row says", text)
