"""Parses records of users' files into preference pairs: a prompt, the chosen reply and the rejected one.

hh-rlhf     chosen, rejected: "\\n\\nHuman: …\\n\\nAssistant: …", equal up to the last turn
columns     prompt (or question, instruction + input, query; system), chosen, rejected: text
lists       chosen, rejected: turns, equal up to the last one; or prompt: turns, and chosen, rejected the last turn
ShareGPT    conversations: turns; chosen, rejected: {from, value}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pipelines.data.dialogues import conversation_records
from pipelines.data.dialogues.answer_match import normalised
from pipelines.data.dialogues.conversation_records import Turns
from pipelines.data.sources import record_formats
from pipelines.data.sources.bad_rows import Problem

SPEAKERS = re.compile(r"(?:^|\n\n)(Human|Assistant):")  # how hh-rlhf marks turns
SPEAKER_ROLES = {"Human": "user", "Assistant": "assistant"}
FORMATS = (
    "chosen and rejected, as whole dialogues (hh-rlhf, lists of turns) or as replies to a prompt in one of: "
    f"{', '.join((*record_formats.PROMPT_COLUMNS, *record_formats.TURN_LISTS))}"
)


@dataclass(frozen=True)
class ParsedPair:
    """Two replies to a prompt that ends with a user turn."""

    prompt: Turns
    chosen: str
    rejected: str


def parse_pair(record: Mapping[str, Any]) -> ParsedPair | Problem:
    """Parses a record in any of the formats, or says what is wrong with it.

    >>> parse_pair({"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}).prompt
    [{'role': 'user', 'content': '1 + 1?'}]
    """
    shape = record_formats.detect_format(record)
    if shape is None or shape.rows != "preferences":
        columns = ", ".join(map(str, record)) or "none"
        return Problem("not_a_pair", f"no pair (columns here: {columns}); expected {FORMATS}")
    chosen, rejected = _side(record["chosen"], "chosen"), _side(record["rejected"], "rejected")
    if isinstance(chosen, Problem):
        return chosen
    if isinstance(rejected, Problem):
        return rejected
    equal = [turn for turn, _ in takewhile(lambda turns: turns[0] == turns[1], zip(chosen, rejected, strict=False))]
    common = equal[: min(len(chosen), len(rejected)) - 1]  # the last turn is a reply, even where both are equal
    earlier = _prompt_of_columns(record, shape.columns[:-2], common)
    if isinstance(earlier, Problem):
        return earlier
    prompt, chosen, rejected = earlier + common, chosen[len(common) :], rejected[len(common) :]
    return _problem(prompt, chosen, rejected) or ParsedPair(prompt, chosen[0]["content"], rejected[0]["content"])


def _problem(prompt: Turns, chosen: Turns, rejected: Turns) -> Problem | None:
    """What is wrong with a prompt and the turns of each side after it, if anything."""
    if not prompt:
        return Problem("no_prompt", f"no prompt; expected {FORMATS}")
    if len(chosen) != 1 or len(rejected) != 1:
        return Problem("sides_apart", "chosen and rejected differ before their last turn; expected two replies to one "
                                      "prompt")  # fmt: skip
    for side in (chosen, rejected):
        if side[0]["role"] != "assistant":
            return Problem("turn_order", f"a side ends with the {side[0]['role']}'s turn; expected an assistant's")
        problem = conversation_records.check_turns([*prompt, *side])
        if problem is not None:
            return problem
    if normalised(chosen[0]["content"]) == normalised(rejected[0]["content"]):
        return Problem("equal_sides", "chosen and rejected say the same; expected two different replies")
    return None


def _side(value: Any, column: str) -> Turns | Problem:
    """The turns of `chosen` or `rejected`, the last of which is the reply."""
    if isinstance(value, str) and SPEAKERS.match(value):
        return _turns_of_transcript(value)
    if not value or not isinstance(value, str | list | dict):
        content = type(value).__name__ if value else "nothing"
        return Problem("no_text", f"column {column!r} holds {content}; expected text or turns")
    return conversation_records.turns_of(value, role="assistant")


def _prompt_of_columns(record: Mapping[str, Any], columns: tuple[str, ...], common: Turns) -> Turns | Problem:
    """The turns of the prompt's columns; without the prompt's text where the common turns hold it already."""
    if not columns or (common and common[0]["role"] != "assistant"):
        return [] if common and common[0]["role"] == "system" else _system_turn(record)
    value = record[columns[0]]
    if isinstance(value, str) and SPEAKERS.match(value):
        turns = _turns_of_transcript(value)
        return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns
    earlier = conversation_records.earlier_turns(record)
    if isinstance(earlier, Problem):
        return earlier
    if isinstance(value, str):
        text = conversation_records.prompt_text(record, columns[0])
        return text if isinstance(text, Problem) else [*earlier, {"role": "user", "content": text}]
    turns = conversation_records.turns_of(value)
    if isinstance(turns, Problem) or (turns and turns[0]["role"] == "system"):
        return turns
    return earlier + turns


def _system_turn(record: Mapping[str, Any]) -> Turns:
    """The turn of the column `system`, for records whose sides are whole dialogues."""
    value = record.get("system")
    text = conversation_records.clean(value) if isinstance(value, str) else ""
    return [{"role": "system", "content": text}] if text else []


def _turns_of_transcript(text: str) -> Turns:
    """The turns of hh-rlhf's "\\n\\nHuman: …\\n\\nAssistant: …"."""
    _, *pieces = SPEAKERS.split(text)  # speaker, text, speaker, text, …
    return [
        {"role": SPEAKER_ROLES[speaker], "content": conversation_records.clean(content)}
        for speaker, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]
