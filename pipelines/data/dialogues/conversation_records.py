"""Parses records of users' files into conversations: system, user and assistant turns, in any of the usual spellings.

    record ──format_as──► columns ──turns, or prompt and reply──► checked, cut after the last reply learnt | Problem

What cannot be read without guessing is a Problem with a reason to count it by. Nothing is repaired silently except
spaces and invisible characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines.data.dialogues.turns import (
    Turn,
    check_turns,
    clean,
    flagged,
    from_first_user,
    is_transcript,
    num_turns,
    read_turns,
    turns_of_transcript,
    with_thought,
)
from pipelines.data.sources import cells, column_names, preference_formats, record_formats
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.cells import as_turns, has_value
from pipelines.data.sources.files import type_name
from pipelines.data.sources.row_format import RowFormat
from pipelines.data.tokens.chat_messages import said

FORMATS = (
    "Alpaca (instruction, input, output), columns of prompt and reply (prompt, response; question, answer; …), OpenAI "
    "(messages of role and content) or ShareGPT (conversations of from and value); other names: the source's `columns`"
)
LABELLED_BAD = "labelled_bad"
NOT_TEXT = "not_text"

Turns = list[dict[str, str]]
"""Messages, as chat_messages.py has them."""


@dataclass(frozen=True)
class ParsedConversation:
    """A conversation that ends with an assistant's turn that is learnt.

    num_cut: turns after that one, which were left out. not_learnt: positions of assistant's turns that the row does not
    want to be learnt. tools: those that the assistant may call, as Conversation has them. num_cut_before: turns before
    the first user's, which were left out; the system's stays. num_joined: turns that are one with the turn of the same
    role before them. refused: a reply stands where OpenAI's API has refusals. weights: as Conversation has them."""

    messages: Turns
    num_cut: int = 0
    not_learnt: tuple[int, ...] = ()
    tools: str = ""
    num_cut_before: int = 0
    weights: tuple[float, ...] = ()
    num_joined: int = 0
    refused: bool = False

    @property
    def text(self) -> str:
        """All that is said, the system's turn apart, which many rows have in common."""
        return text_of(self.messages)

    @property
    def replies(self) -> list[str]:
        """The assistant's turns that are learnt."""
        return [
            said(turn)
            for position, turn in enumerate(self.messages)
            if turn["role"] == "assistant" and position not in self.not_learnt
        ]


def text_of(messages: Turns) -> str:
    """The text of the turns and their calls, the system's apart."""
    return "\n".join(said(turn) for turn in messages if turn["role"] != "system")


def parse_conversation(
    record: Mapping[str, Any], *, keep_thoughts: bool = True, min_rating: float | None = None
) -> ParsedConversation | Problem:
    """Parses a record in any of the formats, or says what is wrong with it.

    keep_thoughts: whether thoughts (<think>…</think>, or beside the reply) stay. min_rating: rows with a lower rating
    are set aside, as those labelled bad are.

    >>> parse_conversation({"instruction": "Add", "input": "1, 2", "output": "3"}).messages
    [{'role': 'user', 'content': 'Add\\n\\n1, 2'}, {'role': 'assistant', 'content': '3'}]
    """
    row_format = record_formats.format_as(record, "conversations")
    if row_format is None:
        return _no_conversation(record)
    problem = media_problem(record, row_format) or _labelled_bad(record, row_format, min_rating)
    if problem is not None:
        return problem
    turns = turns_of_record(record, row_format, keep_thoughts=keep_thoughts)
    turns = turns if isinstance(turns, Problem) else _flagged_turns(record, row_format, turns)
    return turns if isinstance(turns, Problem) else _parsed(turns, tools_of_record(record, row_format))


def _flagged_turns(record: Mapping[str, Any], row_format: RowFormat, turns: list[Turn]) -> list[Turn] | Problem:
    """The turns, the assistant's with what the row says of all of them: whether they are learnt, what they weigh."""
    columns = row_format.columns_of("flag")
    flags, place = {name.lower(): record[name] for name in columns}, f"the row ({', '.join(columns)})"
    read: list[Turn] = []
    for turn in turns:
        one = flagged(flags, turn, place) if flags and turn.role == "assistant" else turn
        if isinstance(one, Problem):
            return one
        read.append(one)
    return read


def tools_of_record(record: Mapping[str, Any], row_format: RowFormat) -> str:
    """The tools that the assistant may call, as Conversation has them."""
    tools = cells.tools_of(record.get(row_format.column("tools") or ""))
    return json.dumps(tools, ensure_ascii=False) if tools else ""


def _parsed(read: list[Turn], tools: str) -> ParsedConversation | Problem:
    if not any(turn.role == "assistant" for turn in read):
        return Problem("no_reply", "a conversation without an assistant's turn; expected at least one to learn from")
    turns = from_first_user(read)
    replies = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    if not replies:
        text = "the assistant speaks only before any user's turn; expected a reply to one"
        return Problem("unprompted", text, by_rule=True)
    learnt = [index for index in replies if turns[index].learnt]
    if not learnt:
        text = "no assistant's turn is to be learnt: the weight, train, loss or label of each says so"
        return Problem("nothing_learnt", text, by_rule=True)
    end = learnt[-1] + 1
    kept = turns[:end]
    not_learnt = tuple(index for index in replies if index < end and not turns[index].learnt)
    weights = tuple(turn.weight if turn.learnt else 0.0 for turn in kept if turn.role == "assistant")
    if all(weight in (0, 1) for weight in weights):
        weights = ()
    messages, num_cut_before = [turn.message for turn in kept], num_turns(read) - num_turns(turns)
    return check_turns(kept) or ParsedConversation(
        messages, num_turns(turns[end:]), not_learnt, tools, num_cut_before, weights,
        sum(turn.num_joined for turn in kept), any(turn.refused and turn.learnt for turn in kept),
    )  # fmt: skip


def turns_of_record(record: Mapping[str, Any], row_format: RowFormat, *, keep_thoughts: bool) -> list[Turn] | Problem:
    """The turns of a conversation in one column, or of a prompt and its reply, after what stands beside them."""
    column = row_format.column("turns")
    if column is not None:
        turns = _dialogue_turns(record[column], column, keep_thoughts)
        return turns if isinstance(turns, Problem) else with_system(record, row_format, turns)
    if row_format.column("instances") is not None:
        turns = _instance_turns(record, row_format, keep_thoughts)
        return turns if isinstance(turns, Problem) else with_system(record, row_format, turns)
    prompt = prompt_turns(record, row_format, keep_thoughts=keep_thoughts)
    reply = _reply_turns(record, row_format, keep_thoughts=keep_thoughts)
    if isinstance(prompt, Problem):
        return prompt
    return reply if isinstance(reply, Problem) else [*prompt, *reply]


def _dialogue_turns(value: Any, column: str, keep_thoughts: bool) -> list[Turn] | Problem:
    """The turns of a column of whole conversations: turns, or texts that the user and the assistant say in turn."""
    texts = cells.turns_of_texts(value)
    if texts is None and cells.is_text_of_objects(value) and as_turns(value) is None:
        text = f"column {column!r} holds text that begins as a list of turns and is not JSON; expected a list of turns"
        return Problem("no_turn", text)
    return read_turns(texts or value, keep_thoughts=keep_thoughts)


def _instance_turns(record: Mapping[str, Any], row_format: RowFormat, keep_thoughts: bool) -> list[Turn] | Problem:
    """The exchanges of an instruction, one for each of its instances: it and the input, and the output."""
    turns: list[Turn] = []
    for instance in record[row_format.column("instances") or ""]:
        exchange = {key: instance.get(key) for key in column_names.INSTANCE_KEYS}
        exchange["instruction"] = record[row_format.column("prompt") or ""]
        its_format = record_formats.format_as(exchange, "conversations")
        assert its_format is not None, "an instruction is text, and a reply stands beside it"
        read = turns_of_record(exchange, its_format, keep_thoughts=keep_thoughts)
        if isinstance(read, Problem):
            return read
        turns += read
    return turns


def _reply_turns(record: Mapping[str, Any], row_format: RowFormat, *, keep_thoughts: bool) -> list[Turn] | Problem:
    """The reply: text, or turns; the thought of the column beside it is that of the assistant's last turn."""
    column = row_format.column("reply")
    assert column is not None, "a format without turns has a prompt and a reply"
    value = record[column]
    thought_column = row_format.column("thought")
    if column.lower() in column_names.CALL_COLUMNS:
        calls = cells.calls_of(value)
        if not calls:
            return Problem("no_reply", f"column {column!r} holds no call; expected one to learn from")
        turn = {"role": "assistant", "tool_calls": calls, "reasoning_content": record.get(thought_column or "")}
        return read_turns([turn], keep_thoughts=keep_thoughts)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool) and has_value(value):
        value = str(value)
    if not isinstance(value, str) and not has_value(value):
        return Problem("no_reply", f"column {column!r} holds {type_name(value)}; expected a reply to learn from")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return Problem("list_of_replies", f"column {column!r} holds a list of replies; expected one reply. Rows with "
                                          f"several are preferences, if each has a rating")  # fmt: skip
    if not isinstance(value, str | list | dict):
        return Problem("no_text", f"column {column!r} holds {type_name(value)}; expected a reply as text")
    if isinstance(value, str) and thought_column is not None and as_turns(value) is None:
        turn = {"role": "assistant", "content": value, "reasoning_content": record[thought_column]}
        return read_turns([turn], keep_thoughts=keep_thoughts)
    turns = read_turns(value, role="assistant", keep_thoughts=keep_thoughts)
    if isinstance(turns, Problem) or thought_column is None:
        return turns
    last = max((index for index, turn in enumerate(turns) if turn.role == "assistant"), default=None)
    if last is None:
        return turns
    place = f"column {column!r}"
    reply = with_thought(turns[last].content, record[thought_column], keep_thoughts=keep_thoughts, place=place)
    if isinstance(reply, Problem):
        return reply
    return [*turns[:last], replace(turns[last], content=reply), *turns[last + 1 :]]


def prompt_turns(
    record: Mapping[str, Any], row_format: RowFormat, *, keep_thoughts: bool, with_reply: bool = False
) -> list[Turn] | Problem:
    """The turns before a reply: the system's, those of `history`, and the prompt with what it is about.

    Assistant's turns of a prompt that is a list of turns are context, and not learnt. with_reply: the prompt may be a
    whole dialogue, of which the end is the reply."""
    column = row_format.column("prompt")
    assert column is not None, "a format without turns has a prompt"
    earlier = history_turns(record, row_format)
    if isinstance(earlier, Problem):
        return earlier
    value = record[column]
    turns = _transcript_turns(value, keep_thoughts, with_reply)
    if turns is not None:
        turns = turns if isinstance(turns, Problem) else _with_contexts(record, row_format, turns)
    elif isinstance(value, str) and as_turns(value) is None:
        text = _prompt_text(record, row_format, column)
        turns = text if isinstance(text, Problem) else [Turn("user", text)]
    else:
        turns = read_turns(value, keep_thoughts=keep_thoughts)
        turns = turns if isinstance(turns, Problem) else _with_contexts(record, row_format, turns)
    if isinstance(turns, Problem):
        return turns
    context = [replace(turn, learnt=False) if turn.role == "assistant" else turn for turn in turns]
    return with_system(record, row_format, one_system(earlier, context))


def _transcript_turns(value: Any, keep_thoughts: bool, with_reply: bool) -> list[Turn] | Problem | None:
    """The turns of a prompt in the spelling of hh-rlhf; None for a text that only begins as one.

    Such a prompt ends where the reply goes: after "Assistant:", or after the user's turn if the assistant spoke."""
    if not is_transcript(value) or value.lstrip().startswith("Assistant"):
        return None
    turns = turns_of_transcript(value, keep_thoughts)
    if isinstance(turns, Problem):
        return turns
    last = turns[-1]
    if not with_reply and (all(turn.role == "user" for turn in turns) or (last.role == "assistant" and last.content)):
        return None
    return turns[:-1] if last.role == "assistant" and not last.content else turns


def _prompt_text(record: Mapping[str, Any], row_format: RowFormat, column: str) -> str | Problem:
    """The user's text: the prompt and, after blank lines, what it is about."""
    texts = [record[column], *(record[name] for name in row_format.columns_of("context"))]
    for name, value in zip((column, *row_format.columns_of("context")), texts, strict=True):
        if has_value(value) and not isinstance(value, str | int | float):
            return Problem("no_text", f"column {name!r} holds {type_name(value)}; expected text, which may be empty")
    cleaned = [clean(str(text)) for text in texts if has_value(text)]
    return "\n\n".join(text for text in cleaned if text)


def _with_contexts(record: Mapping[str, Any], row_format: RowFormat, turns: list[Turn]) -> list[Turn] | Problem:
    """A prompt of turns, what it is about at the end of the last user's turn, where no reply ends the prompt."""
    contexts = [record[name] for name in row_format.columns_of("context") if has_value(record[name])]
    last = max((index for index, turn in enumerate(turns) if turn.role == "user"), default=None)
    if not contexts or last is None or turns[-1].role == "assistant":
        return turns
    text = "\n\n".join([turns[last].content, *(clean(str(value)) for value in contexts)])
    return [*turns[:last], replace(turns[last], content=text), *turns[last + 1 :]]


def with_system(record: Mapping[str, Any], row_format: RowFormat, turns: list[Turn]) -> list[Turn] | Problem:
    """The turns with what the system's column says before them."""
    system = system_turn(record, row_format)
    if isinstance(system, Problem) or system is None:
        return turns if system is None else system
    return one_system([system], turns)


def one_system(*parts: list[Turn]) -> list[Turn]:
    """The turns of all parts. The system's turns that parts begin with are one, at the beginning: what one of them says
    that another one does not stands in a paragraph of its own."""
    systems: list[Turn] = []
    turns: list[Turn] = []
    for part in parts:
        first = part[0] if part and part[0].role == "system" else None
        if first is not None and not any(has_lines(each.content, first.content) for each in systems):
            systems = [*(each for each in systems if not has_lines(first.content, each.content)), first]
        turns += part if first is None else part[1:]
    if not systems:
        return turns
    text = "\n\n".join(each.content for each in systems)
    return [replace(systems[0], content=text, num_joined=sum(each.num_joined for each in systems)), *turns]


def has_lines(text: str, part: str) -> bool:
    """Whether the lines of a part stand in a text as whole lines one after the other, blanks apart.

    >>> has_lines("Be kind.\\nUse tools.", "Use tools."), has_lines("Do not use tools.", "use tools.")
    (True, False)
    """
    lines, expected = ([" ".join(line.split()) for line in each.splitlines() if line.strip()] for each in (text, part))
    return not expected or "\n".join(["", *expected, ""]) in "\n".join(["", *lines, ""])


def system_turn(record: Mapping[str, Any], row_format: RowFormat) -> Turn | Problem | None:
    """The turn of the system's column; None where it is empty."""
    column = row_format.column("system")
    if column is None or not has_value(record[column]):
        return None
    value = record[column]
    if not isinstance(value, str | dict | list):
        return Problem("no_text", f"column {column!r} holds {type_name(value)}; expected text")
    turns = read_turns({**value, "role": "system"} if isinstance(value, dict) else {"role": "system", "content": value})
    return turns if isinstance(turns, Problem) else next((turn for turn in turns if turn.content), None)


def history_turns(record: Mapping[str, Any], row_format: RowFormat) -> list[Turn] | Problem:
    """The turns of the column `history`: [[prompt, reply], …], or turns."""
    column = row_format.column("history")
    history = record[column] if column is not None and has_value(record[column]) else []
    if as_turns(history) is not None:
        return read_turns(history)
    if not isinstance(history, list):
        return Problem("no_turn", f"column 'history' holds {type_name(history)}; expected a list of [prompt, reply]")
    turns: list[Turn] = []
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            return Problem("no_turn", f"history, entry {number}: {str(pair)[:60]!r}; expected [prompt, reply]")
        turns += [Turn("user", clean(pair[0])), Turn("assistant", clean(pair[1]))]
    return turns


def media_problem(record: Mapping[str, Any], row_format: RowFormat) -> Problem | None:
    """Why a row is set aside that has an image, a sound or a film beside its text."""
    column = next((name for name in row_format.columns_of("media") if has_value(record[name])), None)
    if column is None:
        return None
    text = f"column {column!r} belongs to the text; expected rows that can be understood without it"
    return Problem(NOT_TEXT, text, by_rule=True)


def _labelled_bad(record: Mapping[str, Any], row_format: RowFormat, min_rating: float | None) -> Problem | None:
    """Why a row is set aside whose reply is labelled bad, or rated below the bound."""
    good, bad = row_format.column("label"), row_format.column("bad_label")
    column = good or bad
    if column is not None and cells.verdict(record[column]) is (good is None):
        text = f"column {column!r} says {record[column]!r}; expected a good reply to learn from"
        return Problem(LABELLED_BAD, text, by_rule=True)
    rating = preference_formats.rating_of(record) if min_rating is not None else None
    if rating is None or min_rating is None or rating >= min_rating:
        return None
    return Problem(LABELLED_BAD, f"its rating is {rating:g}; min_rating is {min_rating:g}", by_rule=True)


def _no_conversation(record: Mapping[str, Any]) -> Problem:
    """Why a record is no conversation, from the columns it has."""
    row_format = record_formats.detect_format(record)
    if row_format is not None and row_format.rows == "preferences":
        text = f"holds a preference ({row_format.description}); such sources have rows: preferences"
        return Problem("not_a_conversation", text)
    name = next((name for name in column_names.TURN_LISTS if isinstance(record.get(name), list)), None)
    if name is not None and not record[name]:
        return Problem("no_reply", f"{name!r} is an empty list; expected turns, an assistant's among them")
    if name is not None:
        problem = read_turns(record[name])
        if isinstance(problem, Problem):
            return problem
    columns = record_formats.column_names(record)
    return Problem("not_a_conversation", f"no conversation (columns here: {columns}); expected {FORMATS}")
