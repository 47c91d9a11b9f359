"""Detects preferences by the columns of a record: two replies of which one is better, several with ratings, or one with
a label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.sources.cells import (
    as_turns,
    has_value,
    number_of,
)
from pipelines.data.sources.column_names import (
    CHOICE_COLUMNS,
    CHOICE_LABELS,
    CHOICE_SCORES,
    CONTEXT_COLUMNS,
    HINT_COLUMNS,
    HISTORY_COLUMNS,
    LABELLED_CHOICES,
    MEDIA_COLUMNS,
    OTHER_TURN_LISTS,
    PAIR_COLUMNS,
    PAIR_SCORES,
    PROMPT_COLUMNS,
    RANK_COLUMNS,
    RATED_REPLY_KEYS,
    RATING_COLUMNS,
    RATING_LISTS,
    REPLY_LISTS,
    ROLE_KEYS,
    STRENGTH_COLUMNS,
    SYSTEM_COLUMNS,
    TURN_LISTS,
    WINNER_COLUMNS,
)
from pipelines.data.sources.conversation_formats import contexts, conversations, is_text, labels_beside, tools_beside
from pipelines.data.sources.row_format import Roles, RowFormat, columns_beside, first_column, named_format, two_columns


def preferences(record: Mapping[str, Any]) -> RowFormat | None:
    """Two replies of which one is better, or several with ratings."""
    pair = two_columns(record, PAIR_COLUMNS)
    if pair is not None:
        roles = [*_prompts(record, of_pair=True), ("chosen", pair[0]), ("rejected", pair[1])]
        scores = two_columns(record, PAIR_SCORES) or ()
        roles += zip(("score_chosen", "score_rejected"), scores, strict=False)
        return named_format("preferences", "preference pairs", [*roles, *tools_beside(record)])
    choice = two_columns(record, CHOICE_COLUMNS)
    verdicts = [] if choice is None else _choice_verdicts(record, choice)
    if choice is not None and verdicts:
        roles = [*_prompts(record), ("first", choice[0]), ("second", choice[1]), *verdicts, *tools_beside(record)]
        return named_format("preferences", "two replies and which is better", roles)
    return _ranked(record)


def _choice_verdicts(record: Mapping[str, Any], replies: tuple[str, str]) -> Roles:
    """The column, or the two, that say which of two replies is better; none without."""
    is_labelled = tuple(map(str.lower, replies)) in LABELLED_CHOICES
    winner = (*WINNER_COLUMNS, *(CHOICE_LABELS if is_labelled else ()))
    for role, names in (("winner", winner), ("strength", STRENGTH_COLUMNS)):
        column = first_column(record, names, has_value)
        if column is not None:
            return [(role, column)]
    endings = [column[-1].lower() for column in replies]
    alike = [pair for pair in CHOICE_SCORES if [name[-1] for name in pair] == endings]
    scores = two_columns(record, alike or CHOICE_SCORES)
    return [] if scores is None else [("score_first", scores[0]), ("score_second", scores[1])]


def _ranked(record: Mapping[str, Any]) -> RowFormat | None:
    """A prompt and a list of replies, each with a rating of its own or in a list beside."""
    replies = first_column(record, REPLY_LISTS, lambda value: isinstance(value, list) and len(value) > 0)
    prompts = _prompts(record)
    if replies is None or "prompt" not in dict(prompts):
        return None
    roles = [*prompts, ("replies", replies), *tools_beside(record)]
    if all(isinstance(reply, dict) and rating_key(reply) is not None for reply in record[replies]):
        return named_format("preferences", "rated replies", roles)
    length = len(record[replies])
    ratings = first_column(record, RATING_LISTS, lambda value: isinstance(value, list) and len(value) == length)
    return None if ratings is None else named_format("preferences", "rated replies", [*roles, ("ratings", ratings)])


def rating_key(reply: Mapping[str, Any]) -> str | None:
    """The key with the rating of a reply that is an object; None unless it has one, and a text."""
    if not any(key in reply for key in (*RATED_REPLY_KEYS, *ROLE_KEYS)):
        return None
    return first_column(reply, (*RATING_COLUMNS, *RANK_COLUMNS))


def rated_reply(record: Mapping[str, Any]) -> RowFormat | None:
    """One reply and whether, or how, it is good: pairs are made of several such rows with the same prompt."""
    row_format = conversations(record)
    if row_format is None or "instances" in row_format.roles:
        return None
    roles = [pair for pair in zip(row_format.roles, row_format.columns, strict=True) if pair[0] != "flag"]
    if not labels_beside(record):
        rating = rating_column(record)
        if rating is None:
            return None
        roles.append(("rating", rating))
    return named_format("preferences", "replies with labels, paired by their prompt", roles)


def rating_of(record: Mapping[str, Any]) -> float | None:
    """The rating of a record with one reply; None without one."""
    column = rating_column(record)
    return None if column is None else number_of(record[column])


def rating_column(record: Mapping[str, Any]) -> str | None:
    """The column with the rating of a record with one reply."""
    return first_column(record, RATING_COLUMNS, lambda value: number_of(value) is not None)


def _prompts(record: Mapping[str, Any], *, of_pair: bool = False) -> Roles:
    """The columns of the prompt of a row with several replies; none where the replies are whole dialogues, as those of
    a pair may be, beside which a history is no prompt."""
    prompt = first_column(record, (*PROMPT_COLUMNS, *HINT_COLUMNS, "input"))
    prompt = prompt or first_column(record, TURN_LISTS, lambda value: isinstance(value, str | list | dict))
    if prompt is None and not of_pair:
        prompt = first_column(record, (*OTHER_TURN_LISTS, *HISTORY_COLUMNS), is_text)
        prompt = prompt or first_column(
            record, (*OTHER_TURN_LISTS, *CONTEXT_COLUMNS), lambda v: as_turns(v) is not None
        )
    if prompt is None:
        return columns_beside(record, ("system", SYSTEM_COLUMNS))
    beside = columns_beside(record, ("system", SYSTEM_COLUMNS), ("history", HISTORY_COLUMNS), ("media", MEDIA_COLUMNS))
    return [("prompt", prompt), *contexts(record, prompt), *(pair for pair in beside if pair[1] != prompt)]
