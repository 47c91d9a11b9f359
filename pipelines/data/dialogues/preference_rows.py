"""Rows of preferences after they are parsed: labelled replies are paired by their prompt, duplicates are left out.

parsed rows ──a row's own pairs──────────────────────┬──► rows of pairs ──no exact duplicates──► rows to keep
            ──one reply each ──by prompt──► pairs ───┘
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipelines.data.dialogues.conversations import OPEN_TASK
from pipelines.data.dialogues.preference_records import ParsedPreferences
from pipelines.data.dialogues.preferences import Pair
from pipelines.data.dialogues.rated_replies import ParsedPair, RatedReply, pairs_of
from pipelines.data.sources.bad_rows import RejectedRows

GIVEN = "given"  # rule of pairs: the user's file says so


@dataclass(frozen=True)
class PreferenceRow:
    """The pairs of one row, or of several rows with one labelled reply each to the same prompt."""

    id: str
    source: str
    language: str
    pairs: list[ParsedPair]
    num_rows: int = 1

    @property
    def text(self) -> str:
        """The prompt without the system's turn, and every reply once."""
        prompt = [turn["content"] for turn in self.pairs[0].prompt if turn["role"] != "system"]
        replies = [reply for pair in self.pairs for reply in (pair.chosen, pair.rejected)]
        return "\n".join([*prompt, *dict.fromkeys(replies)])

    def as_pairs(self) -> list[Pair]:
        """The pairs as the artifact has them; where there are several, their ids are numbered."""
        return [
            Pair(
                self.id if len(self.pairs) == 1 else f"{self.id}/{number}", self.language, self.source, OPEN_TASK,
                GIVEN, pair.prompt, pair.chosen, pair.rejected,
            )
            for number, pair in enumerate(self.pairs)
        ]  # fmt: skip


@dataclass(frozen=True)
class _Labelled:
    """A row with one reply and its rating."""

    id: str
    source: str
    language: str
    reply: RatedReply

    @property
    def prompt_key(self) -> tuple[str, ...]:
        return tuple(text for turn in self.reply.prompt for text in (turn["role"], turn["content"]))


def gather(
    parsed_rows: Iterable[tuple[str, str, str, ParsedPreferences]],
    *,
    max_pairs: int,
    rejected: RejectedRows,
    counts: Counter[str],
) -> list[PreferenceRow]:
    """The rows with pairs, then those paired by prompt; labelled replies without a counterpart are set aside.

    parsed_rows: (id, source, language, parsed) of each. counts: gets pairs beyond the limit, replies left out."""
    rows: list[PreferenceRow] = []
    labelled: dict[tuple[str, ...], list[_Labelled]] = {}
    for row_id, source, language, parsed in parsed_rows:
        if parsed.rated is not None:
            one = _Labelled(row_id, source, language, parsed.rated)
            labelled.setdefault(one.prompt_key, []).append(one)
            continue
        rows.append(PreferenceRow(row_id, source, language, parsed.pairs))
        _count(counts, parsed.num_beyond, parsed.num_left_out)
    for group in labelled.values():
        row, num_beyond = _paired(group, max_pairs)
        _count(counts, num_beyond, 0)
        if row is not None:
            rows.append(row)
        used = {reply for pair in row.pairs for reply in (pair.chosen, pair.rejected)} if row is not None else set()
        for one in group:
            if one.reply.reply not in used:
                problem = "no pair with another reply to its prompt; expected a better or a worse one in another row"
                rejected.add_by_rule(one.id, "unpaired", problem, one.reply.reply)
    return rows


def _paired(group: Sequence[_Labelled], max_pairs: int) -> tuple[PreferenceRow | None, int]:
    """The labelled replies to one prompt as a row of pairs, if they make any; the number of pairs beyond the limit."""
    pairs, num_beyond = pairs_of([one.reply for one in group], max_pairs)
    first = group[0]
    row = PreferenceRow(first.id, first.source, first.language, pairs, num_rows=len(group)) if pairs else None
    return row, num_beyond


def _count(counts: Counter[str], num_beyond: int, num_left_out: int) -> None:
    if num_beyond:
        counts["pairs/beyond_limit"] += num_beyond
    if num_left_out:
        counts["replies/left_out"] += num_left_out


def without_duplicates(rows: Sequence[PreferenceRow], counts: Counter[str]) -> tuple[list[PreferenceRow], int]:
    """The rows without pairs that occurred before, and the number of rows that have no other; counts pairs."""
    seen: set[tuple[str, ...]] = set()
    kept: list[PreferenceRow] = []
    num_duplicates = 0
    for row in rows:
        new: list[ParsedPair] = []
        for pair in row.pairs:
            key = (
                *(text for turn in pair.prompt for text in (turn["role"], turn["content"])),
                pair.chosen,
                pair.rejected,
            )
            if key not in seen:
                new.append(pair)
            seen.add(key)
        counts["pairs/read"] += len(row.pairs)
        counts["pairs/dropped_duplicate"] += len(row.pairs) - len(new)
        if new:
            kept.append(replace(row, pairs=new))
        else:
            num_duplicates += row.num_rows
    return kept, num_duplicates
