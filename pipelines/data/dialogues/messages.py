"""Records of users' files as conversations: turns of a system, a user and an assistant, in the three usual spellings.

    record ──sniffing.detect_format──► Alpaca | OpenAI | ShareGPT ──turns──► checked, cut after the last reply | Problem

What cannot be read without guessing is a Problem with a reason to count it by; nothing is mended silently but spaces
and invisible characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.sources import sniffing
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
SPELLINGS = (
    "Alpaca (instruction, input, output), asked and replied (prompt, response; question, answer; …), OpenAI (messages "
    "of role and content) or ShareGPT (conversations of from and value)"
)

Turns = list[dict[str, str]]
"""[{"role": system | user | assistant, "content": text}]"""


@dataclass(frozen=True)
class Dialogue:
    """A conversation that ends with an assistant's turn. num_cut: turns after that one, which were left out."""

    messages: Turns
    num_cut: int = 0


def dialogue(record: Mapping[str, Any]) -> Dialogue | Problem:
    """A record as a conversation, whatever its spelling, or what is wrong with it.

    >>> dialogue({"instruction": "Add", "input": "1, 2", "output": "3"}).messages
    [{'role': 'user', 'content': 'Add\\n\\n1, 2'}, {'role': 'assistant', 'content': '3'}]
    """
    shape = sniffing.detect_format(record)
    if shape is None or shape.rows != "conversations":
        return _no_conversation(record, shape)
    first, *others = shape.columns
    turns = exchange(record, first, others[-1]) if others else turns_of(record[first])
    if isinstance(turns, Problem):
        return turns
    last = max((place for place, turn in enumerate(turns) if turn["role"] == "assistant"), default=None)
    if last is None:
        return Problem("no_reply", "a conversation without an assistant's turn; expected at least one to learn from")
    return check(turns[: last + 1]) or Dialogue(turns[: last + 1], len(turns) - last - 1)


def check(turns: Turns) -> Problem | None:
    """What is wrong with a sequence of turns: an empty one, a system's that is not the first, two of one side."""
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


def turns_of(value: Any, *, speaker: str = "user") -> Turns | Problem:
    """Turns from a list of them, one of them, or text that `speaker` said."""
    if isinstance(value, str):
        return [{"role": speaker, "content": clean(value)}]
    turns: Turns = []
    for number, turn in enumerate(value if isinstance(value, list) else [value], 1):
        read = _turn(turn, number)
        if isinstance(read, Problem):
            return read
        turns.append(read)
    return turns


def _turn(turn: Any, number: int) -> dict[str, str] | Problem:
    """{role, content} of {role, content} or {from, value}."""
    if not isinstance(turn, dict):
        text = f"turn {number} holds {type_name(turn)}; expected role and content, or from and value"
        return Problem("no_turn", text)
    named, said = ("role", "content") if "role" in turn else ("from", "value")
    role, content = turn.get(named), turn.get(said)
    if not isinstance(role, str) or role.lower() not in ROLES:
        known = ", ".join(ROLES)
        return Problem("unknown_role", f"turn {number} has the {named} {role!r}; expected one of: {known}")
    if isinstance(content, list):  # OpenAI's parts
        content = _parts(content)
    if not isinstance(content, str):
        return Problem("no_text", f"turn {number} ({role}) has a {said} that holds {type_name(content)}; expected text")
    return {"role": ROLES[role.lower()], "content": clean(content)}


def _parts(parts: Sequence[Any]) -> str | None:
    """The text of a turn in parts, if all of them are text."""
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    whole = len(texts) == len(parts) and all(isinstance(text, str) for text in texts)
    return "\n".join(str(text) for text in texts) if whole else None


def exchange(record: Mapping[str, Any], asked: str, replied: str) -> Turns | Problem:
    """Turns from two columns, what is asked and what is replied; Alpaca's input may say more of what is asked.

    A system's turn and earlier exchanges may stand in columns `system` and `history`."""
    earlier, said = before(record), asked_text(record, asked)
    if isinstance(earlier, Problem):
        return earlier
    if isinstance(said, Problem):
        return said
    reply = clean(record[replied])
    return [*earlier, {"role": "user", "content": said}, {"role": "assistant", "content": reply}]


def asked_text(record: Mapping[str, Any], column: str) -> str | Problem:
    """What the user says: the column that asks and, below it, Alpaca's input."""
    more = record.get("input") if column == "instruction" else None
    if more is not None and not isinstance(more, str):
        return Problem("no_text", f"column 'input' holds {type_name(more)}; expected text, which may be empty")
    said = [text for text in (clean(record[column]), clean(more or "")) if text]
    return "\n\n".join(said)


def before(record: Mapping[str, Any]) -> Turns | Problem:
    """What stands before what is asked: a system's turn, earlier exchanges."""
    turns: Turns = []
    system = record.get("system")
    if isinstance(system, str) and clean(system):
        turns.append({"role": "system", "content": clean(system)})
    history = record.get("history") or []
    if not isinstance(history, list):
        return Problem("no_turn", f"column 'history' holds {type_name(history)}; expected a list of [asked, replied]")
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            return Problem("no_turn", f"history, entry {number}: {str(pair)[:60]!r}; expected [asked, replied]")
        turns += [{"role": role, "content": clean(t)} for role, t in zip(("user", "assistant"), pair, strict=True)]
    return turns


def clean(text: str) -> str:
    """Text in its one form, with nothing blank around it."""
    return normalise(text).strip()


def _no_conversation(record: Mapping[str, Any], shape: sniffing.RowFormat | None) -> Problem:
    if shape is not None and shape.rows == "preferences":
        text = "holds a preference pair; such sources have rows: preferences"
        return Problem("not_a_conversation", text)
    turns = next((name for name in sniffing.TURN_LISTS if isinstance(record.get(name), list)), None)
    if turns is not None and not record[turns]:
        return Problem("no_reply", f"{turns!r} is an empty list; expected turns, an assistant's among them")
    columns = ", ".join(map(str, record)) or "none"
    return Problem("not_a_conversation", f"no conversation (columns here: {columns}); expected {SPELLINGS}")
