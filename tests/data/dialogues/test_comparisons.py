"""Users' records as preference pairs: the spellings in use, and a clear reason for what is no pair."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.dialogues.comparisons import Comparison, comparison
from pipelines.data.sources.bad_rows import Problem

ASKED = [{"role": "user", "content": "Why?"}]
SYSTEM = {"role": "system", "content": "Be kind."}


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def from_value(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


GOOD, BAD = said("assistant", "Because."), said("assistant", "No.")


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
        {"question": "Why?", "chosen": "Because. ", "rejected": "No."},
        {"instruction": "Why?", "input": "", "chosen": "Because.", "rejected": "No."},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
        {"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": " Because.", "rejected": " No."},
        {"chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
        {"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Why?", "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},  # the prompt twice
        {"messages": ASKED, "chosen": GOOD, "rejected": BAD},
        {
            "conversations": [from_value("human", "Why?")],
            "chosen": from_value("gpt", "Because."),
            "rejected": from_value("gpt", "No."),
        },
    ],
)
def test_every_spelling_gives_the_same_pair(record: dict[str, Any]) -> None:
    assert comparison(record) == Comparison(ASKED, "Because.", "No.")


def test_earlier_turns_are_part_of_the_prompt() -> None:
    before = "\n\nHuman: Hi\n\nAssistant: Hello. Human: is a word.\n\nHuman: Why?\n\nAssistant:"
    told = comparison({"chosen": before + " Because.", "rejected": before + " No."})
    assert isinstance(told, Comparison)
    assert [turn["role"] for turn in told.prompt] == ["user", "assistant", "user"]
    assert told.prompt[1]["content"] == "Hello. Human: is a word."


@pytest.mark.parametrize(
    "record",
    [
        {"system": "Be kind.", "question": "Why?", "chosen": "Because.", "rejected": "No."},
        {"system": "Be kind.", "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
        {"chosen": [SYSTEM, *ASKED, GOOD], "rejected": [SYSTEM, *ASKED, BAD]},
        {"messages": [SYSTEM, *ASKED], "chosen": GOOD, "rejected": BAD},
    ],
)
def test_a_systems_turn_comes_first(record: dict[str, Any]) -> None:
    assert comparison(record) == Comparison([SYSTEM, *ASKED], "Because.", "No.")


def hh(*turns: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[n % 2]}: {turn}" for n, turn in enumerate(turns))


@pytest.mark.parametrize(
    ("record", "reason", "told"),
    [
        ({"prompt": "Why?", "chosen": "No.", "rejected": " No."}, "equal_sides", "say the same"),
        ({"chosen": hh("Why?", "No."), "rejected": hh("Why?", "No.")}, "equal_sides", "say the same"),
        ({"chosen": hh("Why?", "A", "B?", "C"), "rejected": hh("Why?", "D", "B?", "E")}, "sides_apart", "before"),
        ({"chosen": hh("Why?"), "rejected": hh("How?")}, "no_prompt", "nothing is asked"),
        ({"chosen": "Because.", "rejected": "No."}, "no_prompt", "nothing is asked"),
        ({"prompt": ASKED, "chosen": [said("user", "x")], "rejected": [BAD]}, "turn_order", "ends with the user"),
        ({"prompt": [*ASKED, GOOD], "chosen": [GOOD], "rejected": [BAD]}, "turn_order", "turn 3 is the assistant's"),
        ({"prompt": "Why?", "chosen": "Because.", "rejected": ""}, "no_text", "'rejected' holds nothing"),
        ({"prompt": "Why?", "chosen": 1, "rejected": "No."}, "no_text", "'chosen' holds int"),
        ({"prompt": "Why?", "chosen": "\u200b", "rejected": "No."}, "empty_turn", "turn 2"),
        ({"prompt": None, "chosen": "Because.", "rejected": "No."}, "no_turn", "turn 1 holds null"),
        ({"prompt": "Why?", "response": "No."}, "not_a_pair", "columns here: prompt, response"),
    ],
)  # fmt: skip
def test_what_is_no_pair_has_a_reason(record: dict[str, Any], reason: str, told: str) -> None:
    problem = comparison(record)
    assert isinstance(problem, Problem)
    assert (problem.reason, told in problem.text) == (reason, True), problem


@pytest.mark.parametrize(("name", "least"), [("hh_en", 0.99), ("dpo_en", 1), ("dpo_zh", 1)])
def test_real_pairs_are_understood(data_dir: Path, name: str, least: float) -> None:
    with gzip.open(data_dir / f"preference_{name}.jsonl.gz") as lines:
        told = [comparison(json.loads(line)) for line in lines]
    reasons = Counter(one.reason for one in told if isinstance(one, Problem))
    assert 1 - reasons.total() / len(told) >= least, reasons
