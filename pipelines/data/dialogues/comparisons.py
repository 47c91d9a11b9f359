"""Records of users' files as preference pairs: a prompt, the reply that was preferred, and the other one.

hh-rlhf     chosen, rejected: "\\n\\nHuman: …\\n\\nAssistant: …", alike up to the last turn
columns     prompt (or question, instruction + input, query; system), chosen, rejected: text
lists       chosen, rejected: turns, alike up to the last one; or prompt: turns, and chosen, rejected the last turn
ShareGPT    conversations: turns; chosen, rejected: {from, value}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pipelines.data.dialogues import messages
from pipelines.data.dialogues.answers import normalised
from pipelines.data.dialogues.messages import Turns
from pipelines.data.sources import sniffing
from pipelines.data.sources.bad_rows import Problem

SPEAKERS = re.compile(r"(?:^|\n\n)(Human|Assistant):")  # as hh-rlhf writes turns
SPELLINGS = (
    "chosen and rejected, as whole dialogues (hh-rlhf, lists of turns) or as replies to a prompt in one of: "
    f"{', '.join((*sniffing.PROMPT_COLUMNS, *sniffing.TURN_LISTS))}"
)


@dataclass(frozen=True)
class Comparison:
    """Two replies to a prompt that ends with a user's turn."""

    prompt: Turns
    chosen: str
    rejected: str


def comparison(record: Mapping[str, Any]) -> Comparison | Problem:
    """A record as a pair, whatever its spelling, or what is wrong with it.

    >>> comparison({"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}).prompt
    [{'role': 'user', 'content': '1 + 1?'}]
    """
    shape = sniffing.detect_format(record)
    if shape is None or shape.rows != "preferences":
        columns = ", ".join(map(str, record)) or "none"
        return Problem("not_a_pair", f"no pair (columns here: {columns}); expected {SPELLINGS}")
    sides = [_side(record[name], name) for name in ("chosen", "rejected")]
    for side in sides:
        if isinstance(side, Problem):
            return side
    chosen, rejected = (side for side in sides if isinstance(side, list))
    shared = [one for one, other in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))]
    shared = shared[: min(len(chosen), len(rejected)) - 1]  # where the sides are equal
    asked = _asked(record, shape.columns[:-2], shared)
    if isinstance(asked, Problem):
        return asked
    prompt, chosen, rejected = asked + shared, chosen[len(shared) :], rejected[len(shared) :]
    return _problem(prompt, chosen, rejected) or Comparison(prompt, chosen[0]["content"], rejected[0]["content"])


def _problem(prompt: Turns, chosen: Turns, rejected: Turns) -> Problem | None:
    """What is wrong with a prompt and what each side says after it."""
    if not prompt:
        return Problem("no_prompt", f"nothing is asked; expected {SPELLINGS}")
    if len(chosen) != 1 or len(rejected) != 1:
        return Problem("sides_apart", "chosen and rejected differ before their last turn; expected two replies to one "
                                      "prompt")  # fmt: skip
    for side in (chosen, rejected):
        if side[0]["role"] != "assistant":
            return Problem("turn_order", f"a side ends with the {side[0]['role']}'s turn; expected an assistant's")
        wrong = messages.check([*prompt, *side])
        if wrong is not None:
            return wrong
    if normalised(chosen[0]["content"]) == normalised(rejected[0]["content"]):
        return Problem("equal_sides", "chosen and rejected say the same; expected two different replies")
    return None


def _side(value: Any, name: str) -> Turns | Problem:
    """Turns of one side, the last of them its reply."""
    if isinstance(value, str) and SPEAKERS.match(value):
        return _spoken(value)
    if not value or not isinstance(value, str | list | dict):
        found = "nothing" if not value else f"{type(value).__name__}"
        return Problem("no_text", f"column {name!r} holds {found}; expected text or turns")
    return messages.turns_of(value, speaker="assistant")


def _asked(record: Mapping[str, Any], columns: tuple[str, ...], shared: Turns) -> Turns | Problem:
    """What is asked in columns of its own; what the sides share already begins the dialogue if it asks."""
    if not columns or (shared and shared[0]["role"] != "assistant"):
        return [] if shared and shared[0]["role"] == "system" else _system(record)
    value = record[columns[0]]
    if isinstance(value, str) and SPEAKERS.match(value):
        turns = _spoken(value)
        return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns
    earlier = messages.before(record)
    if isinstance(earlier, Problem) or not isinstance(value, str):
        turns = messages.turns_of(value)
        return earlier if isinstance(earlier, Problem) else _joined(earlier, turns)
    said = messages.asked_text(record, columns[0])
    return said if isinstance(said, Problem) else [*earlier, {"role": "user", "content": said}]


def _system(record: Mapping[str, Any]) -> Turns:
    """The system's turn of a column, for dialogues whose sides are whole."""
    text = record.get("system")
    said = messages.clean(text) if isinstance(text, str) else ""
    return [{"role": "system", "content": said}] if said else []


def _joined(earlier: Turns, turns: Turns | Problem) -> Turns | Problem:
    if isinstance(turns, Problem) or (turns and turns[0]["role"] == "system"):
        return turns
    return earlier + turns


def _spoken(text: str) -> Turns:
    """The turns of hh-rlhf's text."""
    _, *pieces = SPEAKERS.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[speaker], "content": messages.clean(said)}
        for speaker, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
