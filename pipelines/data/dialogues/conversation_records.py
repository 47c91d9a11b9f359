"""Parses records of users' files into conversations: system, user and assistant turns, from the three usual formats.

    record ──detect_format──► Alpaca | OpenAI | ShareGPT ──turns──► checked, cut after the last reply | Problem

What cannot be read without guessing is a Problem with a reason to count it by. Nothing is repaired silently except
spaces and invisible characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.sources import record_formats
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.files import type_name
from pipelines.data.text.normalise import normalise

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
FORMATS = (
    "Alpaca (instruction, input, output), columns of prompt and reply (prompt, response; question, answer; …), OpenAI "
    "(messages of role and content) or ShareGPT (conversations of from and value)"
)

Turns = list[dict[str, str]]
"""[{"role": system | user | assistant, "content": text}]"""


@dataclass(frozen=True)
class ParsedConversation:
    """A conversation that ends with an assistant turn. num_cut: turns after that one, which were left out."""

    messages: Turns
    num_cut: int = 0


def parse_conversation(record: Mapping[str, Any]) -> ParsedConversation | Problem:
    """Parses a record in any of the formats, or says what is wrong with it.

    >>> parse_conversation({"instruction": "Add", "input": "1, 2", "output": "3"}).messages
    [{'role': 'user', 'content': 'Add\\n\\n1, 2'}, {'role': 'assistant', 'content': '3'}]
    """
    shape = record_formats.detect_format(record)
    if shape is None or shape.rows != "conversations":
        return _no_conversation(record, shape)
    first, *others = shape.columns
    turns = _turns_of_columns(record, first, others[-1]) if others else turns_of(record[first])
    if isinstance(turns, Problem):
        return turns
    replies = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not replies:
        return Problem("no_reply", "a conversation without an assistant's turn; expected at least one to learn from")
    end = replies[-1] + 1
    return check_turns(turns[:end]) or ParsedConversation(turns[:end], num_cut=len(turns) - end)


def check_turns(turns: Turns) -> Problem | None:
    """The first problem of a sequence of turns: an empty turn, a late system turn, two turns in a row of one role."""
    expected = "user"
    for number, turn in enumerate(turns, 1):
        if not turn["content"]:
            return Problem("empty_turn", f"turn {number} ({turn['role']}) is empty; expected text in every turn")
        if turn["role"] == "system" and number == 1:
            continue
        if turn["role"] != expected:
            text = (
                f"turn {number} is the {turn['role']}'s; expected the {expected}'s, for user and assistant take turns"
            )
            return Problem("turn_order", text)
        expected = "assistant" if expected == "user" else "user"
    return None


def turns_of(value: Any, *, role: str = "user") -> Turns | Problem:
    """The turns of a column's value: a list of turns, a single turn, or text, which is one turn of `role`."""
    if isinstance(value, str):
        return [{"role": role, "content": clean(value)}]
    turns: Turns = []
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        turn = _turn(item, number)
        if isinstance(turn, Problem):
            return turn
        turns.append(turn)
    return turns


def _turn(turn: Any, number: int) -> dict[str, str] | Problem:
    """{role, content} from {role, content} or {from, value}."""
    if not isinstance(turn, dict):
        text = f"turn {number} holds {type_name(turn)}; expected role and content, or from and value"
        return Problem("no_turn", text)
    role_key, content_key = ("role", "content") if "role" in turn else ("from", "value")
    role, content = turn.get(role_key), turn.get(content_key)
    if not isinstance(role, str) or role.lower() not in ROLES:
        known = ", ".join(ROLES)
        return Problem("unknown_role", f"turn {number} has the {role_key} {role!r}; expected one of: {known}")
    if isinstance(content, list):  # OpenAI's content parts
        content = _text_of_parts(content)
    if not isinstance(content, str):
        text = f"turn {number} ({role}) has a {content_key} that holds {type_name(content)}; expected text"
        return Problem("no_text", text)
    return {"role": ROLES[role.lower()], "content": clean(content)}


def _text_of_parts(parts: Sequence[Any]) -> str | None:
    """The text of OpenAI's content parts; None unless all of them are text."""
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        return None
    return "\n".join(str(text) for text in texts)


def _turns_of_columns(record: Mapping[str, Any], prompt_column: str, reply_column: str) -> Turns | Problem:
    """Turns from a column of prompts and one of replies, after those of the columns `system` and `history`."""
    earlier, prompt = earlier_turns(record), prompt_text(record, prompt_column)
    if isinstance(earlier, Problem):
        return earlier
    if isinstance(prompt, Problem):
        return prompt
    reply = clean(record[reply_column])
    return [*earlier, {"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]


def prompt_text(record: Mapping[str, Any], column: str) -> str | Problem:
    """The user's text: the prompt column and, after a blank line, Alpaca's `input`."""
    extra = record.get("input") if column == "instruction" else None
    if extra is not None and not isinstance(extra, str):
        return Problem("no_text", f"column 'input' holds {type_name(extra)}; expected text, which may be empty")
    return "\n\n".join(text for text in (clean(record[column]), clean(extra or "")) if text)


def earlier_turns(record: Mapping[str, Any]) -> Turns | Problem:
    """The turns before the prompt: those of the columns `system` and `history` ([[prompt, reply], …])."""
    turns: Turns = []
    system = record.get("system")
    if isinstance(system, str) and clean(system):
        turns.append({"role": "system", "content": clean(system)})
    history = record.get("history") or []
    if not isinstance(history, list):
        return Problem("no_turn", f"column 'history' holds {type_name(history)}; expected a list of [prompt, reply]")
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            return Problem("no_turn", f"history, entry {number}: {str(pair)[:60]!r}; expected [prompt, reply]")
        prompt, reply = pair
        turns.append({"role": "user", "content": clean(prompt)})
        turns.append({"role": "assistant", "content": clean(reply)})
    return turns


def clean(text: str) -> str:
    """Normalised text without spaces around it."""
    return normalise(text).strip()


def _no_conversation(record: Mapping[str, Any], shape: record_formats.RowFormat | None) -> Problem:
    """Why a record is no conversation, from the columns it has."""
    if shape is not None and shape.rows == "preferences":
        text = "holds a preference pair; such sources have rows: preferences"
        return Problem("not_a_conversation", text)
    turns = next((name for name in record_formats.TURN_LISTS if isinstance(record.get(name), list)), None)
    if turns is not None and not record[turns]:
        return Problem("no_reply", f"{turns!r} is an empty list; expected turns, an assistant's among them")
    columns = ", ".join(map(str, record)) or "none"
    return Problem("not_a_conversation", f"no conversation (columns here: {columns}); expected {FORMATS}")
