"""Parsing of users' records into preference pairs: the formats in use, and a clear reason for what is no pair."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.dialogues.preference_records import ParsedPair, parse_pair
from pipelines.data.sources.bad_rows import Problem

PROMPT = [{"role": "user", "content": "Why?"}]
SYSTEM = {"role": "system", "content": "Be kind."}


def turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def from_value(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


GOOD, BAD = turn("assistant", "Because."), turn("assistant", "No.")


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
        {"question": "Why?", "chosen": "Because. ", "rejected": "No."},
        {"instruction": "Why?", "input": "", "chosen": "Because.", "rejected": "No."},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
        {"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": " Because.", "rejected": " No."},
        {"chosen": [*PROMPT, GOOD], "rejected": [*PROMPT, BAD]},
        {"prompt": PROMPT, "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Why?", "chosen": [*PROMPT, GOOD], "rejected": [*PROMPT, BAD]},  # the prompt twice
        {"messages": PROMPT, "chosen": GOOD, "rejected": BAD},
        {
            "conversations": [from_value("human", "Why?")],
            "chosen": from_value("gpt", "Because."),
            "rejected": from_value("gpt", "No."),
        },
    ],
)
def test_every_format_gives_the_same_pair(record: dict[str, Any]) -> None:
    assert parse_pair(record) == ParsedPair(PROMPT, "Because.", "No.")


def test_earlier_turns_are_part_of_the_prompt() -> None:
    earlier = "\n\nHuman: Hi\n\nAssistant: Hello. Human: is a word.\n\nHuman: Why?\n\nAssistant:"
    pair = parse_pair({"chosen": earlier + " Because.", "rejected": earlier + " No."})
    assert isinstance(pair, ParsedPair)
    assert [each["role"] for each in pair.prompt] == ["user", "assistant", "user"]
    assert pair.prompt[1]["content"] == "Hello. Human: is a word."


@pytest.mark.parametrize(
    "record",
    [
        {"system": "Be kind.", "question": "Why?", "chosen": "Because.", "rejected": "No."},
        {"system": "Be kind.", "chosen": [*PROMPT, GOOD], "rejected": [*PROMPT, BAD]},
        {"chosen": [SYSTEM, *PROMPT, GOOD], "rejected": [SYSTEM, *PROMPT, BAD]},
        {"messages": [SYSTEM, *PROMPT], "chosen": GOOD, "rejected": BAD},
    ],
)
def test_a_system_turn_comes_first(record: dict[str, Any]) -> None:
    assert parse_pair(record) == ParsedPair([SYSTEM, *PROMPT], "Because.", "No.")


def hh(*turns: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[n % 2]}: {turn}" for n, turn in enumerate(turns))


@pytest.mark.parametrize(
    ("record", "reason", "message"),
    [
        ({"prompt": "Why?", "chosen": "No.", "rejected": " No."}, "equal_sides", "say the same"),
        ({"chosen": hh("Why?", "No."), "rejected": hh("Why?", "No.")}, "equal_sides", "say the same"),
        ({"chosen": hh("Why?", "A", "B?", "C"), "rejected": hh("Why?", "D", "B?", "E")}, "sides_apart", "before"),
        ({"chosen": hh("Why?"), "rejected": hh("How?")}, "no_prompt", "no prompt; expected"),
        ({"chosen": "Because.", "rejected": "No."}, "no_prompt", "no prompt; expected"),
        ({"prompt": PROMPT, "chosen": [turn("user", "x")], "rejected": [BAD]}, "turn_order", "ends with the user"),
        ({"prompt": [*PROMPT, GOOD], "chosen": [GOOD], "rejected": [BAD]}, "turn_order", "turn 3 is the assistant's"),
        ({"prompt": "Why?", "chosen": "Because.", "rejected": ""}, "no_text", "'rejected' holds nothing"),
        ({"prompt": "Why?", "chosen": 1, "rejected": "No."}, "no_text", "'chosen' holds int"),
        ({"prompt": "Why?", "chosen": "\u200b", "rejected": "No."}, "empty_turn", "turn 2"),
        ({"prompt": None, "chosen": "Because.", "rejected": "No."}, "no_turn", "turn 1 holds null"),
        ({"prompt": "Why?", "response": "No."}, "not_a_pair", "columns here: prompt, response"),
    ],
)  # fmt: skip
def test_what_is_no_pair_has_a_reason(record: dict[str, Any], reason: str, message: str) -> None:
    problem = parse_pair(record)
    assert isinstance(problem, Problem)
    assert (problem.reason, message in problem.text) == (reason, True), problem


@pytest.mark.parametrize(("name", "min_fraction"), [("hh_en", 0.99), ("dpo_en", 1), ("dpo_zh", 1)])
def test_real_pairs_are_parsed(data_dir: Path, name: str, min_fraction: float) -> None:
    with gzip.open(data_dir / f"preference_{name}.jsonl.gz") as lines:
        parsed = [parse_pair(json.loads(line)) for line in lines]
    reasons = Counter(each.reason for each in parsed if isinstance(each, Problem))
    assert 1 - reasons.total() / len(parsed) >= min_fraction, reasons
