"""The prompt of a preference pair, from the columns beside its sides and from the turns that both sides begin with.

columns: system, history, prompt, contexts ──┐
common turns of whole dialogues ─────────────┴──► one prompt that says all of it, each once | Problem
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.data.dialogues.conversation_records import (
    has_lines,
    history_turns,
    one_system,
    prompt_turns,
    with_system,
)
from pipelines.data.dialogues.turns import Turn, clean
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.cells import has_value
from pipelines.data.sources.row_format import RowFormat


def whole_prompt(
    record: Mapping[str, Any], row_format: RowFormat, common: list[Turn], keep_thoughts: bool
) -> list[Turn] | Problem:
    """The turns before the replies. common: those that both sides begin with, which the columns add to."""
    column = row_format.column("prompt")
    if column is None:
        return with_system(record, row_format, common)
    if not common or common[0].role in ("assistant", "tool"):
        earlier = prompt_turns(record, row_format, keep_thoughts=keep_thoughts)
        return earlier if isinstance(earlier, Problem) else earlier + common
    return _joined(record, row_format, common, keep_thoughts)


def _joined(
    record: Mapping[str, Any], row_format: RowFormat, common: list[Turn], keep_thoughts: bool
) -> list[Turn] | Problem:
    """The common turns of whole dialogues, with what only the columns say: system, history, contexts."""
    columns = _turns_without_contexts(record, row_format, keep_thoughts)
    if isinstance(columns, Problem):
        return columns
    contexts = [clean(str(record[name])) for name in row_format.columns_of("context") if has_value(record[name])]
    systems, (asked, spoken) = zip(*map(_without_system, (columns, common)), strict=True)
    joined = _overlapped(asked, spoken, contexts)
    if joined is None:
        name = row_format.column("prompt")
        return Problem("sides_apart", f"the column {name!r} is not among the turns of chosen and rejected; expected "
                                      "the same prompt in both")  # fmt: skip
    turns, end = joined
    missing = [text for text in contexts if not any(has_lines(turn.content, text) for turn in spoken)]
    if missing:
        turns[end] = replace(turns[end], content="\n\n".join([turns[end].content, *missing]))
    return [*one_system(*systems), *turns]


def _without_system(turns: list[Turn]) -> tuple[list[Turn], list[Turn]]:
    """(the system's turn at the beginning, if any; the turns after it)."""
    start = sum(turn.role == "system" for turn in turns[:1])
    return turns[:start], turns[start:]


def _turns_without_contexts(
    record: Mapping[str, Any], row_format: RowFormat, keep_thoughts: bool
) -> list[Turn] | Problem:
    """The turns of the columns system, history and prompt, without replies at their end."""
    if not has_value(record[row_format.column("prompt") or ""]):
        turns = history_turns(record, row_format)
        return turns if isinstance(turns, Problem) else with_system(record, row_format, turns)
    whole = prompt_turns(record, row_format, keep_thoughts=keep_thoughts, with_reply=True)
    if isinstance(whole, Problem) or not row_format.columns_of("context"):
        turns = whole
    else:
        without = {name: value for name, value in record.items() if name not in row_format.columns_of("context")}
        named = [pair for pair in zip(row_format.columns, row_format.roles, strict=True) if pair[0] in without]
        columns, roles = zip(*named, strict=True)
        named_format = replace(row_format, columns=columns, roles=roles)
        turns = prompt_turns(without, named_format, keep_thoughts=keep_thoughts, with_reply=True)
    if not isinstance(turns, Problem):
        while turns and turns[-1].role == "assistant":  # the column holds a whole dialogue, with the reply
            turns = turns[:-1]
    return turns


def _overlapped(
    columns: Sequence[Turn], side: Sequence[Turn], contexts: Sequence[str]
) -> tuple[list[Turn], int] | None:
    """The turns of the columns and of the sides, those that both have once; and the position of the prompt's turn.

    None where the columns have a prompt that the sides' turns lack."""
    if not columns or not side or columns[-1].role == "assistant":  # no prompt of its own: only turns before
        start = _position(columns, side, contexts)
        turns = list(side) if start is not None else [*columns, *side]
        return turns, max((n for n, turn in enumerate(turns) if turn.role == "user"), default=0)
    start = _position(columns, side, contexts)
    if start is not None:
        return list(side), start + len(columns) - 1
    for size in range(min(len(columns), len(side)), 0, -1):
        if _position(columns[-size:], side[:size], contexts) == 0:
            return [*columns[:-size], *side], len(columns) - 1
    return None


def _position(columns: Sequence[Turn], side: Sequence[Turn], contexts: Sequence[str]) -> int | None:
    """Where the columns' turns stand among those of a side."""
    for start in range(len(side) - len(columns) + 1):
        here = side[start : start + len(columns)]
        if all(_says(mine, turn, contexts) for mine, turn in zip(here, columns, strict=True)):
            return start
    return None


def _says(side: Turn, turn: Turn, contexts: Sequence[str]) -> bool:
    """Whether a turn of a side says what the columns' turn does, alone or together with the contexts."""
    if (side.role, side.calls) != (turn.role, turn.calls):
        return False
    text, expected = _plain(side.content), _plain(turn.content)
    return text == expected or (bool(contexts) and all(piece in text for piece in (expected, *map(_plain, contexts))))


def _plain(text: str) -> str:
    return " ".join(text.split())
