"""Rows of preferences after they are parsed: labelled replies are paired by their prompt, duplicates are left out.

parsed rows ──a row's own pairs──────────────────────┬──► rows of pairs ──none that a judge labelled anew──►
            ──one reply each ──by prompt──► pairs ───┘                  ──no exact duplicates──► rows to keep
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from pipelines.data.dialogues import source_rows
from pipelines.data.dialogues.conversation_records import Turns, text_of
from pipelines.data.dialogues.conversations import OPEN_TASK
from pipelines.data.dialogues.preference_records import ParsedPreferences
from pipelines.data.dialogues.preferences import Pair
from pipelines.data.dialogues.rated_replies import ParsedPair, RatedReply, num_partners, pairs_of, widest_pairs
from pipelines.data.sources.bad_rows import RejectedRows

GIVEN = "given"  # rule of pairs: the user's file says so


@dataclass(frozen=True)
class PreferenceRow:
    """The pairs of one row, or of several rows with one labelled reply each to the same prompt."""

    id: str
    source: str
    language: str
    pairs: list[ParsedPair]
    row_ids: tuple[str, ...]  # of the rows whose replies are in the pairs

    @property
    def text(self) -> str:
        """The prompt without the system's turn, and every reply once."""
        replies = [reply for pair in self.pairs for reply in (pair.chosen_said, pair.rejected_said)]
        return "\n".join([text_of(self.pairs[0].prompt), *dict.fromkeys(replies)])

    def as_pairs(self) -> list[Pair]:
        """The pairs as the artifact has them; where there are several, their ids are numbered."""
        return [
            Pair(
                self.id if len(self.pairs) == 1 else f"{self.id}/{number}", self.language, self.source, OPEN_TASK,
                GIVEN, pair.prompt, pair.chosen, pair.rejected,
                chosen_calls=pair.chosen_calls, rejected_calls=pair.rejected_calls, tools=pair.tools,
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
    def prompt_key(self) -> Hashable:
        return _key(self.reply.prompt), self.reply.tools


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
    labelled: dict[Hashable, list[_Labelled]] = {}
    for row_id, source, language, parsed in parsed_rows:
        if parsed.num_cut_before:
            counts["turns/cut_before"] += parsed.num_cut_before
        if parsed.num_joined:
            counts["turns/joined"] += parsed.num_joined
        if parsed.rated is not None:
            one = _Labelled(row_id, source, language, parsed.rated)
            labelled.setdefault(one.prompt_key, []).append(one)
            continue
        rows.append(PreferenceRow(row_id, source, language, parsed.pairs, (row_id,)))
        _count(counts, parsed.num_beyond, parsed.num_left_out)
    for group in labelled.values():
        row, num_beyond = _paired(_without_repeats(group, rejected), max_pairs, rejected)
        _count(counts, num_beyond, 0)
        if row is not None:
            rows.append(row)
    return rows


def _without_repeats(group: Sequence[_Labelled], rejected: RejectedRows) -> list[_Labelled]:
    """The labelled replies to one prompt without those that an earlier row has with the same label."""
    unique: dict[tuple[str, float], _Labelled] = {}
    for one in group:
        if unique.setdefault((one.reply.said, one.reply.rating), one) is not one:
            source_rows.set_duplicate_aside(rejected, one.id, one.reply.said)
    return list(unique.values())


def _paired(group: Sequence[_Labelled], max_pairs: int, rejected: RejectedRows) -> tuple[PreferenceRow | None, int]:
    """The labelled replies to one prompt as a row of pairs, if they make any; the number of pairs beyond the limit.

    Replies that are in no pair are set aside: because they have no counterpart, or because of the limit."""
    replies = [one.reply for one in group]
    pairs, num_beyond = pairs_of(replies, max_pairs)
    used = {position for places in widest_pairs(replies, max_pairs) for position in places}
    for position, (one, partners) in enumerate(zip(group, num_partners(replies), strict=True)):
        if position in used:
            continue
        if partners:
            problem = f"its pairs are beyond the limit of its prompt; pairs_per_prompt is {max_pairs}"
            rejected.add_by_rule(one.id, "beyond_limit", problem, one.reply.said)
        else:
            problem = "no pair with another reply to its prompt; expected a better or a worse one in another row"
            rejected.add_by_rule(one.id, "unpaired", problem, one.reply.said)
    first, ids = group[0], tuple(group[position].id for position in sorted(used))
    return (PreferenceRow(first.id, first.source, first.language, pairs, ids) if pairs else None), num_beyond


def _key(prompt: Turns) -> Hashable:
    """All that a prompt says."""
    return tuple(tuple(turn.items()) for turn in prompt)


def _count(counts: Counter[str], num_beyond: int, num_left_out: int) -> None:
    if num_beyond:
        counts["pairs/beyond_limit"] += num_beyond
    if num_left_out:
        counts["replies/left_out"] += num_left_out


def without_relabelled(
    rows: Sequence[PreferenceRow], judge: str | None, rejected: RejectedRows, counts: Counter[str]
) -> list[PreferenceRow]:
    """The rows without pairs that a judge has labelled anew, be its label the same or not; sets rows aside that have no
    other, and counts pairs. judge: name of the source with its pairs; None: there is none."""
    relabelled = {_either_order(pair) for row in rows if row.source == judge for pair in row.pairs}
    kept: list[PreferenceRow] = []
    for row in rows:
        pairs = [pair for pair in row.pairs if row.source == judge or _either_order(pair) not in relabelled]
        if len(pairs) < len(row.pairs):
            counts["pairs/read"] += len(row.pairs) - len(pairs)
            counts["pairs/labelled_anew"] += len(row.pairs) - len(pairs)
        if pairs:
            kept.append(replace(row, pairs=pairs))
        for row_id in row.row_ids if not pairs else ():
            rejected.add_by_rule(row_id, "labelled_anew", "a judge labelled its replies anew, which counts", row.text)
    return kept


def _either_order(pair: ParsedPair) -> Hashable:
    """What a pair says, whichever of its replies is chosen."""
    return _key(pair.prompt), frozenset((pair.chosen_said, pair.rejected_said)), pair.tools


def without_duplicates(
    rows: Sequence[PreferenceRow], rejected: RejectedRows, counts: Counter[str]
) -> list[PreferenceRow]:
    """The rows without pairs that occurred before; sets rows aside that have no other, and counts pairs."""
    seen: set[Hashable] = set()
    kept: list[PreferenceRow] = []
    for row in rows:
        new: list[ParsedPair] = []
        for pair in row.pairs:
            key = (_key(pair.prompt), pair.chosen_said, pair.rejected_said, pair.tools)
            if key not in seen:
                new.append(pair)
            seen.add(key)
        counts["pairs/read"] += len(row.pairs)
        counts["pairs/dropped_duplicate"] += len(row.pairs) - len(new)
        if new:
            kept.append(replace(row, pairs=new))
        for row_id in row.row_ids if not new else ():
            source_rows.set_duplicate_aside(rejected, row_id, row.text)
    return kept
