"""Reads the turns of a conversation from the spellings that data sets use: who speaks, the text, whether it is learnt.

    {role, content} | {from, value} | text ──► Turn(role, content, learnt, calls) | Problem

Text parts are joined by a line break. A thought beside the content stands before it as <think>…</think>, where
thoughts are kept. Calls of tools and their results are read by tool_calls.py. What is no text (images) is a Problem,
never left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from pipelines.data.dialogues import tool_calls
from pipelines.data.sources import cells, column_names
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.cells import has_value
from pipelines.data.sources.column_names import CALL_ROLES, REFUSAL, RESULT_ROLES, ROLES
from pipelines.data.sources.encodings import encodable
from pipelines.data.sources.files import type_name
from pipelines.data.text.normalise import normalise
from pipelines.data.tokens.chat_messages import TEXT_PARTS, join_parts, joined, runs, text_of_part
from pipelines.data.tokens.thoughts import divide, with_thoughts

SPEAKERS = re.compile(r"(?:^\s*|(?:\r?\n|\r(?!\n)){2})(Human|Assistant)[:：]")  # how hh-rlhf marks turns
SPEAKERS_OF_LINES = re.compile(r"(?:^\s*|\r?\n|\r)(Human|Assistant)[:：]")  # how BELLE does
SPEAKER_ROLES = {"Human": "user", "Assistant": "assistant"}
TOOL_PARTS = ("tool_use", "tool_result", "tool_call", "tool_calls", "function_call")
THOUGHT_PARTS = ("thinking", "reasoning")
MAX_WEIGHT = 100  # of a turn's loss; more is a mistake, and could make a loss infinite
MIN_WEIGHT = 1e-6  # less is 0, as it would be in float32 sooner or later
# How OpenThoughts and others mark a thought and the reply after it.
THOUGHT_AND_SOLUTION = re.compile(
    r"<\|begin_of_thought\|>(.*?)<\|end_of_thought\|>\s*<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>)?",
    re.DOTALL,
)
TOOLS = "holds a part that calls a tool or is its result; expected calls under tool_calls, results as turns of tool"


@dataclass(frozen=True)
class Turn:
    """A turn of a conversation. learnt: whether the row wants an assistant's turn to be learnt; weight: what its loss
    is multiplied with then. refused: its text stands where OpenAI's API has refusals. num_joined: turns of the row that
    are one with it."""

    role: str  # system, user, assistant or tool
    content: str
    learnt: bool = True
    weight: float = 1.0
    calls: str = ""  # of an assistant's turn: the tools that it calls, as Message has them
    call_id: str = ""  # of a tool's turn: the call that it answers, where the row says so
    name: str = ""  # of a tool's turn: the tool, where the row says so
    refused: bool = False
    num_joined: int = 0

    @property
    def message(self) -> dict[str, str]:
        """The turn as a Message."""
        beside = {"tool_calls": self.calls, "tool_call_id": self.call_id, "name": self.name}
        return {"role": self.role, "content": self.content} | {key: text for key, text in beside.items() if text}


def read_turns(value: Any, *, role: str = "user", keep_thoughts: bool = True) -> list[Turn] | Problem:
    """The turns of a column's value: a list of turns, a single turn, or text, which is one turn of `role`."""
    items = cells.as_turns(value) or (value if isinstance(value, list) else [value])
    if isinstance(value, str) and items == [value]:
        items = [{"role": role, "content": value}]
    turns: list[Turn] = []
    for number, item in enumerate(items, 1):
        turn = _turn(item, number, keep_thoughts)
        if isinstance(turn, Problem):
            return turn
        if turn.role == "system" and not turn.content:
            continue  # it says nothing
        turns.append(turn)
    marks = [(turn.learnt, turn.weight) for turn in turns]  # one turn has one weight
    return [_joined(turns[start:end]) for start, end in runs([turn.message for turn in turns], marks)]


def is_transcript(value: Any) -> TypeGuard[str]:
    """Whether a value is a dialogue in the spelling of hh-rlhf."""
    return isinstance(value, str) and SPEAKERS.match(value) is not None


def turns_of_transcript(text: str, keep_thoughts: bool) -> list[Turn] | Problem:
    """The turns of hh-rlhf's "\\n\\nHuman: …\\n\\nAssistant: …", or of BELLE's "Human: …\\nAssistant: …"."""
    _, *pieces = SPEAKERS.split(text)  # speaker, text, speaker, text, …
    if len(pieces) == 2:
        _, *of_lines = SPEAKERS_OF_LINES.split(text)
        takes_turns = of_lines[::2] == ["Human", "Assistant"] * (len(of_lines) // 4)
        pieces = of_lines if takes_turns else pieces
    turns = [
        {"role": SPEAKER_ROLES[speaker], "content": content}
        for speaker, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return read_turns(turns, keep_thoughts=keep_thoughts)


def _joined(run: Sequence[Turn]) -> Turn:
    """Turns that are one, as people write several messages in a row, and some data sets give each call, and the text
    beside it, a turn of its own. A call is a part of the turn before it, and does not count as joined."""
    if len(run) == 1:
        return run[0]
    message = joined([turn.message for turn in run])
    num_joined = sum(turn.num_joined for turn in run) + sum(turn.content != "" for turn in run[1:])
    return replace(run[0], content=message["content"], calls=message.get("tool_calls", ""), num_joined=num_joined,
                   refused=any(turn.refused for turn in run))  # fmt: skip


def _with_tool_names(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with the tool's name at results without it, for templates that write it: of the call with the result's
    id, or, where either has none, of the first call without a result. A server names them alike."""
    named: list[Turn] = []
    calls: list[dict[str, Any]] = []
    for turn in turns:
        if turn.role != "tool":
            calls = json.loads(turn.calls or "[]")
        elif (place := _answered(turn, calls)) is not None:
            call = calls.pop(place)
            turn = replace(turn, name=turn.name or call["function"]["name"])
        named.append(turn)
    return named


def _answered(result: Turn, calls: Sequence[Mapping[str, Any]]) -> int | None:
    """The place of the call that a result answers; None where it answers none."""
    places = (place for place, call in enumerate(calls) if result.call_id in ("", call.get("id", result.call_id)))
    return next(places, None)


FOLLOWING = {
    "": ("user",),
    "system": ("user", "assistant"),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool", "user"),
}  # the system's may follow any but itself and a call without its result


def check_turns(turns: Sequence[Turn]) -> Problem | None:
    """The first problem of a sequence of turns: an empty turn, two in a row of one role that are not one, a tool's
    result that no assistant's turn is before, a system turn between a call and its result."""
    last, calls = "", ""
    for number, turn in enumerate(turns, 1):
        if not (turn.content or turn.calls or turn.role == "tool"):
            return Problem("empty_turn", f"turn {number} ({turn.role}) is empty; expected text in every turn")
        if not encodable([turn.content, turn.calls, turn.call_id, turn.name]):
            text = f"turn {number} ({turn.role}) holds half of a surrogate pair; expected text that UTF-8 can write"
            return Problem("half_a_character", text)
        if turn.role not in FOLLOWING[last] and (turn.role != "system" or last == "system" or calls):
            expected = " or the ".join(f"{role}'s" for role in FOLLOWING[last])
            text = f"turn {number} is the {turn.role}'s; expected the {expected}, for user and assistant take turns"
            return Problem("turn_order", text)
        last, calls = turn.role, turn.calls
    return None


def from_first_user(turns: Sequence[Turn]) -> list[Turn]:
    """All turns of a row without those of the assistant, and of its tools, before the first user's: what they answer is
    not in the row, as where a long chat was cut into several. Results have the names of their tools."""
    first = next((position for position, turn in enumerate(turns) if turn.role == "user"), len(turns))
    systems = [turn for turn in turns[:first] if turn.role == "system"]
    return _with_tool_names([*([_joined(systems)] if systems else []), *turns[first:]])


def num_turns(turns: Sequence[Turn]) -> int:
    """Number of turns as the row has them: those that are one count each."""
    return sum(1 + turn.num_joined for turn in turns)


def clean(text: str) -> str:
    """Normalised text without spaces around it."""
    return normalise(text).strip()


def with_thought(content: str, thought: Any, *, keep_thoughts: bool, place: str = "the reply") -> str | Problem:
    """A reply and the thought beside it, or without its thought; a Problem where a thought is half, or two differ.

    A thought that the reply's prompt opened is opened here, and several that open the reply are one.

    >>> with_thought("4", "2 + 2", keep_thoughts=True), with_thought("<think>2 + 2</think>4", None, keep_thoughts=False)
    ('<think>\\n2 + 2\\n</think>\\n\\n4', '4')
    """
    beside = clean(str(thought)) if has_value(thought) else ""
    reply = divide(content)
    if reply.is_half:
        text = f"{place} opens a thought (<think>) and does not close it; expected </think> after it"
        return Problem("half_a_thought", text)
    text = reply.text.strip()
    if not keep_thoughts:
        return text
    within = "\n\n".join(reply.thoughts)
    if within and beside and within.split() != beside.split():
        return _two_thoughts(place)
    if reply.is_plain or not (within or beside or reply.is_given):
        return content
    thought = within or beside
    return with_thoughts([thought], text) if thought and text else text or content


def _turn(item: Any, number: int, keep_thoughts: bool) -> Turn | Problem:
    """A turn from an object with the keys of any of the spellings."""
    if not isinstance(item, dict):
        text = f"turn {number} holds {type_name(item)}; expected role and content, or from and value"
        return Problem("no_turn", text)
    role_key, content_key = cells.key_of(item, column_names.ROLE_KEYS), cells.content_key(item)
    speaker, role = item.get(role_key), cells.role_of(item)
    place = f"turn {number} ({speaker})"
    if role in (*CALL_ROLES, *RESULT_ROLES):
        return _tool_turn(item, role, item.get(content_key), place)
    if role not in ROLES:
        known = ", ".join((*ROLES, *CALL_ROLES, *RESULT_ROLES))
        return Problem("unknown_role", f"turn {number} has the {role_key} {speaker!r}; expected one of: {known}")
    content, thought = item.get(content_key), _first_value(item, column_names.THOUGHT_COLUMNS)
    parts = content if isinstance(content, list) else []
    refused = ROLES[role] == "assistant" and (content_key == REFUSAL or any(map(_is_refusal, parts)))
    if isinstance(content, list):
        beside, thought = thought, _thought_of_parts(content) or thought
        if keep_thoughts and has_value(beside) and str(thought).split() != str(beside).split():
            return _two_thoughts(place)
        content = _text_of_parts(content, place)
    if isinstance(content, Problem):
        return content
    calls = tool_calls.beside(item, ROLES[role], place)
    if isinstance(calls, Problem):
        return calls
    if content is None and (calls or ROLES[role] == "system"):
        content = ""
    if not isinstance(content, str):
        text = f"{place} has a {content_key} that holds {type_name(content)}; expected text"
        return Problem("no_text", text)
    turn = _turn_of_text(item, ROLES[role], clean(content), thought, place, keep_thoughts)
    if isinstance(turn, Problem):
        return turn
    if calls and keep_thoughts and has_value(thought) and not turn.content:  # a thought and a call without a text
        turn = replace(turn, content=with_thoughts([clean(str(thought))], ""))
    return replace(turn, calls=calls, refused=refused)


def _tool_turn(item: Mapping[str, Any], role: str, content: Any, place: str) -> Turn | Problem:
    """The turn of a role that only calls tools, or that holds the result of a call."""
    if role in CALL_ROLES:
        calls = tool_calls.read(content, place)
        return calls if isinstance(calls, Problem) else flagged(item, Turn("assistant", "", calls=calls), place)
    if isinstance(content, list) and all(text_of_part(part) is not None for part in content):
        content = _text_of_parts(content, place)
    if isinstance(content, Problem):
        return content
    text = clean(tool_calls.result_text(content))
    return Turn("tool", text, call_id=str(item.get("tool_call_id") or ""), name=str(item.get("name") or ""))


def _turn_of_text(
    item: Mapping[str, Any], role: str, content: str, thought: Any, place: str, keep_thoughts: bool
) -> Turn | Problem:
    """A turn of which role and text are known: with its thought, and whether it is learnt."""
    if role != "assistant":
        return Turn(role, content)
    marked = THOUGHT_AND_SOLUTION.fullmatch(content)
    if marked and not has_value(thought):
        thought, content = clean(marked[1]), clean(marked[2])
    reply = with_thought(content, thought, keep_thoughts=keep_thoughts, place=place)
    if isinstance(reply, Problem):
        return reply
    return flagged(item, Turn(role, reply), place)


def _is_refusal(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == REFUSAL


def flagged(item: Mapping[str, Any], turn: Turn, place: str) -> Turn | Problem:
    """An assistant's turn, with whether its keys, or the row's, want it to be learnt. Each of several has to; what they
    weigh is multiplied."""
    learnt, weight = turn.learnt, turn.weight
    for key in column_names.FLAG_KEYS:
        flag = item.get(key)
        if not has_value(flag):
            continue
        verdict = cells.verdict(flag)
        if verdict is None and key != "label":
            number = cells.number_of(flag)
            if number is None or not 0 <= number <= MAX_WEIGHT:
                text = f"{place} has the {key} {flag!r}; expected true, false, or a number from 0 to {MAX_WEIGHT}"
                return Problem("turn_weight", text)
            weight *= number
        learnt = learnt and verdict is not False and weight >= MIN_WEIGHT
    if learnt and weight > MAX_WEIGHT:
        text = f"{place} weighs {weight:g}, all its weights multiplied; expected at most {MAX_WEIGHT}"
        return Problem("turn_weight", text)
    return replace(turn, learnt=learnt, weight=weight if learnt else 1.0)


def _two_thoughts(place: str) -> Problem:
    """Two thoughts of one reply, of which neither can be told to be the one."""
    return Problem("two_thoughts", f"{place} holds a thought, and another one stands beside it; expected one of them")


def _text_of_parts(parts: Sequence[Any], place: str) -> str | Problem:
    """The text of content parts, joined by line breaks; thoughts are read apart."""
    texts: list[str] = []
    for part in parts:
        kind, text = part.get("type") or "text" if isinstance(part, dict) else "text", text_of_part(part)
        if kind in THOUGHT_PARTS:
            continue
        if kind in TOOL_PARTS:
            return Problem("tools", f"{place} {TOOLS}", by_rule=True)
        if text is None:
            holds = part.get("text") if isinstance(part, dict) else part
            name = kind if kind not in TEXT_PARTS else type_name(holds)
            return Problem("not_text", f"{place} has a part that holds {name}; expected parts of text", by_rule=True)
        texts.append(text)
    return join_parts(texts)


def _thought_of_parts(parts: Sequence[Any]) -> str:
    """The text of the parts that are thoughts."""
    thoughts = [part for part in parts if isinstance(part, dict) and part.get("type") in THOUGHT_PARTS]
    return "\n".join(str(_first_value(part, (*THOUGHT_PARTS, "text")) or "") for part in thoughts)


def _first_value(item: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((item[key] for key in keys if has_value(item.get(key))), None)
