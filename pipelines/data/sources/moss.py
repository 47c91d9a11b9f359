"""Reads conversations as MOSS's data has them: an object of numbered turns, or one text, both with marks.

    {"turn_1": {"Human": "<|Human|>: Hi<eoh>", "Commands": "<|Commands|>: None<eoc>", "MOSS": "<|MOSS|>: Hello!<eom>"}}
    [Human]: Hi<eoh> [MOSS]: Hello!<eoa>
        ──marks taken out──► [{human, assistant, and what else says something}]

Inner thoughts, commands and results of tools are keys beside the reply, which nothing reads, so that they are named.
"""

from __future__ import annotations

import re
from typing import Any

NUMBERED = re.compile(r"turn_?(\d{1,9})", re.IGNORECASE)
SPEAKER = re.compile(r"(?:^|<eo[a-z]>)\s*(?:<\|([A-Z][\w ]*)\|>|\[(Human|MOSS)\])\s*:")  # of a text
FIRST_MARK = re.compile(r"(?:<\|[A-Z][\w ]*\|>|\[(?:Human|MOSS)\])\s*:")  # of a turn
LAST_MARK = re.compile(r"<eo[a-z]>\Z")
FIRST_MARKS = ("[Human]", "<|Human|>")
NAMES = {"human": "human", "moss": "assistant"}


def exchanges(value: Any) -> list[dict[str, Any]] | None:
    """The exchanges of a conversation in a spelling of MOSS; None for anything else.

    >>> exchanges("[Human]: Hi<eoh> [MOSS]: Hello!<eoa>")
    [{'human': 'Hi', 'assistant': 'Hello!'}]
    """
    if isinstance(value, str) and value.lstrip().startswith(FIRST_MARKS):
        return _of_text(value)
    if not isinstance(value, dict) or not value:
        return None
    numbered = sorted((int(match[1]), turn) for name, turn in value.items() if (match := NUMBERED.fullmatch(str(name))))
    turns = [turn for _, turn in numbered if turn is not None]  # a table has a cell for every turn of any row
    if len(numbered) < len(value) or not turns or not all(isinstance(turn, dict) for turn in turns):
        return None
    return [_exchange(turn) for turn in turns]


def _of_text(text: str) -> list[dict[str, Any]] | None:
    """The exchanges of a text; each begins with the user's turn."""
    _, *pieces = SPEAKER.split(text)
    names = [first or second for first, second in zip(pieces[::3], pieces[1::3], strict=True)]
    turns: list[dict[str, str]] = []
    for name, said in zip(names, pieces[2::3], strict=True):
        if name == "Human" or not turns:
            turns.append({})
        turns[-1][name] = said
    return [_exchange(turn) for turn in turns] if "MOSS" in names else None


def _exchange(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn of the user and of MOSS without marks; of what stands beside them, what is more than None."""
    said = {str(name): _without_marks(text) if isinstance(text, str) else text for name, text in turn.items()}
    return {
        NAMES.get(name.lower(), name): text for name, text in said.items() if name.lower() in NAMES or text != "None"
    }


def _without_marks(text: str) -> str:
    text = text.strip()
    first = FIRST_MARK.match(text)
    return LAST_MARK.sub("", text[first.end() :] if first else text).strip()
