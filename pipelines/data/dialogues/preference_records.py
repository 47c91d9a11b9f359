"""Parses records of users' files into preference pairs: a prompt, the chosen reply and the rejected one.

hh-rlhf     chosen, rejected: "\\n\\nHuman: …\\n\\nAssistant: …", equal up to the last turn
columns     prompt (or question, instruction + input, query; system), chosen, rejected: text, or a list of replies each
lists       chosen, rejected: turns, equal up to the last one; or prompt: turns, and chosen, rejected the last turn
ShareGPT    conversations: turns; chosen, rejected: {from, value}
choices     prompt, response_0, response_1, better_response_id; or conversation_a, conversation_b, winner
rated       prompt, completions: [{response, overall_score}], or responses: [text] and scores or rank: [number]
labelled    prompt, completion, label: one reply a row, paired by the prompt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product, takewhile
from typing import Any

from pipelines.data.dialogues.answer_match import normalised
from pipelines.data.dialogues.conversation_records import (
    media_problem,
    prompt_turns,
    text_of,
    tools_of_record,
    turns_of_record,
)
from pipelines.data.dialogues.preference_prompts import whole_prompt
from pipelines.data.dialogues.rated_replies import ParsedPair, RatedReply, pairs_of
from pipelines.data.dialogues.turns import (
    Turn,
    check_turns,
    from_first_user,
    is_transcript,
    num_turns,
    read_turns,
    turns_of_transcript,
)
from pipelines.data.sources import cells, column_names, preference_formats, record_formats
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.cells import has_value, number_of
from pipelines.data.sources.files import type_name
from pipelines.data.sources.row_format import RowFormat
from pipelines.data.tokens.chat_messages import said

MAX_PAIRS = 10
# How a choice of neither reply begins.
TIES = ("tie", "both", "draw", "equal", "same", "neither", "none", "no ", "no_", "either", "平", "一样", "都")
FORMATS = (
    "chosen and rejected, as whole dialogues (hh-rlhf, lists of turns) or as replies to a prompt in one of: "
    f"{', '.join((*column_names.PROMPT_COLUMNS, *column_names.TURN_LISTS))}; replies with ratings or ranks; or one "
    "reply with a label; other names: the source's `columns`"
)


@dataclass(frozen=True)
class ParsedPreferences:
    """What a row says: pairs, or one reply with a rating, which other rows with its prompt make pairs with.

    num_beyond: pairs beyond the limit of a row. num_left_out: replies without text or rating. num_cut_before: turns
    before the prompt's first one of the user, which were left out. num_joined: turns of the prompt and of all replies
    that are one with the turn before them."""

    pairs: list[ParsedPair] = field(default_factory=list)
    rated: RatedReply | None = None
    num_beyond: int = 0
    num_left_out: int = 0
    num_cut_before: int = 0
    num_joined: int = 0

    @property
    def refused(self) -> bool:
        """Whether a better reply refuses, by where it stands."""
        return any(pair.refused for pair in self.pairs)

    @property
    def text(self) -> str:
        """The prompt without the system's turn, and the better reply."""
        prompt, reply = self._first
        return f"{text_of(prompt)}\n{reply}"

    @property
    def replies(self) -> list[str]:
        """The better replies, which are learnt; none of a row that is labelled or rated by itself."""
        return list(dict.fromkeys(pair.chosen_said for pair in self.pairs))

    @property
    def _first(self) -> tuple[list[dict[str, str]], str]:
        if self.rated is not None:
            return self.rated.prompt, self.rated.said
        return self.pairs[0].prompt, self.pairs[0].chosen_said


def parse_preferences(
    record: Mapping[str, Any], *, keep_thoughts: bool = True, max_pairs: int = MAX_PAIRS
) -> ParsedPreferences | Problem:
    """Parses a record in any of the formats, or says what is wrong with it.

    keep_thoughts: as of conversations. max_pairs: made of one row, those with the widest difference of ratings first.

    >>> parse_preferences({"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}).pairs[0].prompt
    [{'role': 'user', 'content': '1 + 1?'}]
    """
    row_format = record_formats.format_as(record, "preferences")
    if row_format is None:
        columns = record_formats.column_names(record)
        return Problem("not_a_pair", f"no pair (columns here: {columns}); expected {FORMATS}")
    problem = media_problem(record, row_format)
    if problem is not None:
        return problem
    if "replies" in row_format.roles:
        return _ranked(record, row_format, keep_thoughts, max_pairs)
    if "first" in row_format.roles:
        return _choice(record, row_format, keep_thoughts)
    if "chosen" in row_format.roles:
        return _chosen(record, row_format, keep_thoughts, max_pairs)
    return _labelled(record, row_format, keep_thoughts)


def _chosen(
    record: Mapping[str, Any], row_format: RowFormat, keep_thoughts: bool, max_pairs: int
) -> ParsedPreferences | Problem:
    """Pairs of the columns chosen and rejected; of a list of replies, one with each."""
    columns = [row_format.column(role) or "" for role in ("chosen", "rejected")]
    scores = [number_of(record.get(row_format.column(f"score_{role}") or "")) for role in ("chosen", "rejected")]
    if scores[0] is not None and scores[1] is not None and scores[0] <= scores[1]:
        text = (
            f"the chosen reply scores {scores[0]:g}, the rejected one {scores[1]:g}; expected more for the chosen one"
        )
        return Problem("scores_disagree", text, by_rule=True)
    sides = [[_side(value, column, keep_thoughts) for value in _replies_of(record[column])] for column in columns]
    num_pairs = len(sides[0]) * len(sides[1])
    # Beside the pairs that are kept one of every reply, which says whether something is wrong with it.
    kept = islice(product(*sides), max_pairs)
    firsts = product(sides[0], sides[1][:1]), product(sides[0][:1], sides[1])
    made: list[list[ParsedPreferences]] = []
    for several in (kept, *firsts):
        rows = []
        for chosen, rejected in several:
            row = _pair(record, row_format, chosen, rejected, keep_thoughts)
            if isinstance(row, Problem):
                return row
            rows.append(row)
        made.append(rows)
    pairs, with_chosen, with_rejected = ([row.pairs[0] for row in rows] for rows in made)
    chosen_texts = {normalised(pair.chosen_said) for pair in with_chosen}
    if chosen_texts & {normalised(pair.rejected_said) for pair in with_rejected}:
        return _equal_sides()
    others = [turns[-1] for side in sides for turns in side[1:] if isinstance(turns, list)]
    num_joined = made[0][0].num_joined + sum(reply.num_joined for reply in others)
    return replace(made[0][0], pairs=pairs, num_beyond=num_pairs - len(pairs), num_joined=num_joined)


def _equal_sides() -> Problem:
    return Problem("equal_sides", "chosen and rejected say the same; expected two different replies")


def _replies_of(value: Any) -> list[Any]:
    """A side's replies: those of a list of texts, or the one that it is."""
    return value if isinstance(value, list) and value and all(isinstance(item, str) for item in value) else [value]


def _choice(record: Mapping[str, Any], row_format: RowFormat, keep_thoughts: bool) -> ParsedPreferences | Problem:
    """The pair of two replies and a column that says which is better."""
    columns = [row_format.column(role) or "" for role in ("first", "second")]
    if row_format.column("winner") is None:
        return _by_strength(record, row_format, columns, keep_thoughts)
    winner = _ending(record[row_format.column("winner") or ""])
    names, endings = [column.lower() for column in columns], [column.lower()[-1] for column in columns]
    winner = dict(zip(names, endings, strict=True)).get(winner, winner)
    if winner not in endings:
        text = f"{row_format.column('winner')} says {winner!r}; expected {' or '.join(endings)} for a pair"
        choice = record[row_format.column("winner") or ""]
        is_tie = str(choice).strip().lower().startswith(TIES) or number_of(choice) in (0, 0.5)
        return Problem("tied", text, by_rule=True) if is_tie else Problem("unknown_winner", text)
    ordered = columns if winner == endings[0] else columns[::-1]
    chosen, rejected = (_side(record[column], column, keep_thoughts) for column in ordered)
    return _pair(record, row_format, chosen, rejected, keep_thoughts)


def _by_strength(
    record: Mapping[str, Any], row_format: RowFormat, columns: list[str], keep_thoughts: bool
) -> ParsedPreferences | Problem:
    """The pair of two replies and a number, below 0 where the first is better, or a score of each."""
    roles = ("strength",) if row_format.column("strength") else ("score_first", "score_second")
    names = [row_format.column(role) or "" for role in roles]
    numbers = [number_of(record[name]) for name in names]
    known = [number for number in numbers if number is not None]
    if len(known) < len(names):
        text = f"{', '.join(f'{name} says {record[name]!r}' for name in names)}; expected a number for each"
        return Problem("unknown_winner", text)
    strength = known[0] if len(known) == 1 else known[1] - known[0]
    if not strength:
        return Problem("tied", f"{' and '.join(names)}: neither reply is better; expected a better one", by_rule=True)
    ordered = columns if strength < 0 else columns[::-1]
    chosen, rejected = (_side(record[column], column, keep_thoughts) for column in ordered)
    return _pair(record, row_format, chosen, rejected, keep_thoughts)


def _ending(winner: Any) -> str:
    """What the better reply's column ends in. A column of numbers with a gap holds floats: 1.0 is 1."""
    number = number_of(winner)
    if number is not None and number.is_integer():
        return str(int(number))
    return str(winner).strip().lower().rpartition("_")[2]


def _pair(
    record: Mapping[str, Any], row_format: RowFormat, chosen: list[Turn] | Problem, rejected: list[Turn] | Problem,
    keep_thoughts: bool,
) -> ParsedPreferences | Problem:  # fmt: skip
    """The pair of two sides, which hold the prompt as well or only a reply to it."""
    if isinstance(chosen, Problem):
        return chosen
    if isinstance(rejected, Problem):
        return rejected
    equal = [turn for turn, _ in takewhile(lambda turns: _same(*turns), zip(chosen, rejected, strict=False))]
    common = equal[: min(len(chosen), len(rejected)) - 1]  # the last turn is a reply, even where both are equal
    whole = whole_prompt(record, row_format, common, keep_thoughts)
    if isinstance(whole, Problem):
        return whole
    prompt = from_first_user(whole)
    chosen, rejected = chosen[len(common) :], rejected[len(common) :]
    problem = _problem(prompt, chosen, rejected)
    if problem is not None:
        return problem
    pair = ParsedPair(
        [turn.message for turn in prompt], chosen[0].content, rejected[0].content, chosen[0].calls, rejected[0].calls,
        tools_of_record(record, row_format), chosen[0].refused,
    )  # fmt: skip
    return ParsedPreferences([pair], num_cut_before=num_turns(whole) - num_turns(prompt),
                             num_joined=sum(turn.num_joined for turn in (*prompt, *chosen, *rejected)))  # fmt: skip


def _same(first: Turn, second: Turn) -> bool:
    return first.message == second.message


def _problem(prompt: list[Turn], chosen: list[Turn], rejected: list[Turn]) -> Problem | None:
    """What is wrong with a prompt and the turns of each side after it, if anything."""
    if not prompt:
        return Problem("no_prompt", f"no prompt; expected {FORMATS}")
    if len(chosen) != 1 or len(rejected) != 1:
        return Problem("sides_apart", "chosen and rejected differ before their last turn; expected two replies to one "
                                      "prompt")  # fmt: skip
    for side in (chosen, rejected):
        problem = _reply_problem(prompt, side)
        if problem is not None:
            return problem
    if normalised(said(chosen[0].message)) == normalised(said(rejected[0].message)):
        return _equal_sides()
    return None


def _reply_problem(prompt: list[Turn], reply: list[Turn]) -> Problem | None:
    """What is wrong with a reply to a prompt, if anything."""
    if len(reply) != 1:
        return Problem("several_turns", f"a reply of {len(reply)} turns; expected one turn of the assistant's")
    if reply[0].role != "assistant":
        return Problem("turn_order", f"a side ends with the {reply[0].role}'s turn; expected an assistant's")
    if all(turn.role != "user" for turn in prompt):
        return Problem("no_prompt", "no turn of the user's before the reply; expected one")
    return check_turns([*prompt, *reply])


def _side(value: Any, column: str, keep_thoughts: bool) -> list[Turn] | Problem:
    """The turns of one side, the last of which is the reply."""
    if is_transcript(value):
        return turns_of_transcript(value, keep_thoughts)
    if not value or not isinstance(value, str | list | dict):
        content = type(value).__name__ if value else "nothing"
        return Problem("no_text", f"column {column!r} holds {content}; expected text or turns")
    return read_turns(value, role="assistant", keep_thoughts=keep_thoughts)


def _ranked(
    record: Mapping[str, Any], row_format: RowFormat, keep_thoughts: bool, max_pairs: int
) -> ParsedPreferences | Problem:
    """Pairs of a list of replies with ratings."""
    whole = prompt_turns(record, row_format, keep_thoughts=keep_thoughts)
    if isinstance(whole, Problem):
        return whole
    prompt = from_first_user(whole)
    messages, tools = [turn.message for turn in prompt], tools_of_record(record, row_format)
    num_joined = sum(turn.num_joined for turn in prompt)
    replies: list[RatedReply] = []
    rated = _rated_texts(record, row_format)
    for value, rating in rated:
        turns = _side(value, row_format.column("replies") or "", keep_thoughts)
        if rating is not None and not isinstance(turns, Problem) and _reply_problem(prompt, turns) is None:
            replies.append(RatedReply(messages, turns[0].content, rating, turns[0].calls, tools))
            num_joined += turns[0].num_joined
    if len(replies) < 2:
        text = f"{len(replies)} of {len(rated)} replies have text and a rating; expected at least two"
        return Problem("too_few_replies", text)
    pairs, num_beyond = pairs_of(replies, max_pairs)
    if not pairs:
        return Problem("tied", "all replies have one rating, or say the same; expected a better one", by_rule=True)
    num_cut_before = num_turns(whole) - num_turns(prompt)
    return ParsedPreferences(pairs, None, num_beyond, len(rated) - len(replies), num_cut_before, num_joined)


def _rated_texts(record: Mapping[str, Any], row_format: RowFormat) -> list[tuple[Any, float | None]]:
    """(reply, rating) of each reply of a list; a rank counts downwards."""
    values: Sequence[Any] = record[row_format.column("replies") or ""]
    column = row_format.column("ratings")
    if column is not None:
        return [(value, _rating(column, rating)) for value, rating in zip(values, record[column], strict=True)]
    rated: list[tuple[Any, float | None]] = []
    for value in values:
        key = preference_formats.rating_key(value) or ""
        text_key = next((key for key in column_names.RATED_REPLY_KEYS if has_value(value.get(key))), "")
        rated.append((value.get(text_key), _rating(key, value[key])))
    return rated


def _rating(name: str, value: Any) -> float | None:
    number = number_of(value)
    return -number if number is not None and name.lower() in column_names.RANK_COLUMNS else number


def _labelled(record: Mapping[str, Any], row_format: RowFormat, keep_thoughts: bool) -> ParsedPreferences | Problem:
    """One reply and its label or rating."""
    whole = turns_of_record(record, row_format, keep_thoughts=keep_thoughts)
    if isinstance(whole, Problem):
        return whole
    turns = from_first_user(whole)
    if len(turns) < 2:
        return Problem("no_prompt", "no prompt before the reply; expected both")
    prompt, reply = turns[:-1], [replace(turns[-1], learnt=True)]
    problem = _reply_problem(prompt, reply)
    if problem is not None:
        return problem
    good, bad, rating = (row_format.column(role) for role in ("label", "bad_label", "rating"))
    value = number_of(record[rating]) if rating is not None else float(
        bool(cells.verdict(record[good or bad or ""])) is (good is not None)
    )  # fmt: skip
    if value is None:
        return Problem("no_rating", f"column {rating!r} holds {type_name(record[rating or ''])}; expected a number")
    messages = [turn.message for turn in prompt]
    rated = RatedReply(messages, reply[0].content, value, reply[0].calls, tools_of_record(record, row_format))
    num_cut_before, num_joined = num_turns(whole) - num_turns(turns), sum(turn.num_joined for turn in turns)
    return ParsedPreferences(rated=rated, num_cut_before=num_cut_before, num_joined=num_joined)
