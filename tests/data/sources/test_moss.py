"""Conversations in the spellings of MOSS: turns without their marks, and what stands beside them named."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pipelines.data.dialogues.conversation_records import ParsedConversation, parse_conversation
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.cells import as_turns
from pipelines.data.sources.record_formats import columns_not_used, detect_format

HOURS = [
    {"role": "user", "content": "When does the mill open?\nAnd on Sunday?"},
    {"role": "assistant", "content": "At nine.\n\nNever on Sunday."},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "Any time."},
]
SYSTEM = {"role": "system", "content": "You are the miller."}


def turn(human: str, reply: str, **beside: str) -> dict[str, str]:
    """A turn of MOSS 003, whose other fields say nothing unless they are given."""
    others = {"Inner_Thoughts": "eot", "Commands": "eoc", "Tool_Responses": "eor"}
    fields = {
        name.replace("_", " "): f"<|{name.replace('_', ' ')}|>: {beside.get(name, 'None')}<{end}>\n"
        for name, end in others.items()
    }
    return {"Human": f"<|Human|>: {human}<eoh>\n", **fields, "MOSS": f"<|MOSS|>: {reply}<eom>\n"}


def parsed(record: dict[str, Any]) -> list[dict[str, str]]:
    result = parse_conversation(record)
    assert isinstance(result, ParsedConversation), result
    return result.messages


TURNS = {"turn_1": turn(HOURS[0]["content"], HOURS[1]["content"]), "turn_2": turn("Thanks", "Any time.")}
TEXT = (
    "[Human]: When does the mill open?\nAnd on Sunday?<eoh> [MOSS]: At nine.\n\nNever on Sunday.<eoa> "
    "[Human]: Thanks<eoh> [MOSS]: Any time.<eoa>"
)


@pytest.mark.parametrize(
    "record",
    [
        {"meta_instruction": "You are the miller.\n", "chat": TURNS},
        {"meta_instruction": "You are the miller.\n", "chat": {**dict(reversed(TURNS.items())), "turn_3": None}},
        {"prefix": "You are the miller.", "plain_text": TEXT},
        {"prefix": "You are the miller.", "plain_text": f"\n{TEXT.replace('[Human]', '<|Human|>')}\n"},
    ],
    ids=["turns", "any_order", "text", "text_with_other_marks"],
)
def test_turns_have_no_marks_and_the_system_comes_first(record: dict[str, Any]) -> None:
    assert parsed(record) == [SYSTEM, *HOURS]
    assert columns_not_used(record, "conversations") == ()
    row_format = detect_format(record)
    assert row_format is not None and row_format.description.startswith("MOSS: ")


def test_what_is_said_beside_a_reply_is_named() -> None:
    with_tool = turn("How deep?", "Two.", Inner_Thoughts="Look it up.", Commands='Search("weir")', Tool_Responses="2 m")
    record = {"chat": {"turn_1": turn("Hi", "Hello!"), "turn_2": with_tool}, "num_turns": 2, "category": "Other"}
    assert parsed(record)[-1] == {"role": "assistant", "content": "Two."}
    beside = ["Inner Thoughts", "Commands", "Tool Responses"]
    assert columns_not_used(record, "conversations") == ("num_turns", "category", *(f"chat.{name}" for name in beside))
    said = {"plain_text": "<|Human|>: Hi<eoh>\n<|Inner Thoughts|>: Be quick.<eot>\n<|MOSS|>: Hello!<eom>"}
    assert parsed(said)[-1]["content"] == "Hello!"
    assert columns_not_used(said, "conversations") == ("plain_text.Inner Thoughts",)


def test_marks_within_a_turn_are_text() -> None:
    text = "[Human]: What does [MOSS]: mean?<eoh> [MOSS]: It begins a turn, as [Human]: does.<eoa>"
    assert [each["content"] for each in parsed({"plain_text": text})] == [
        "What does [MOSS]: mean?", "It begins a turn, as [Human]: does.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"chat": {"turn_1": turn("Hi", "")}}, "empty_turn"),
        ({"plain_text": "[MOSS]: Hello!<eoa>"}, "not_a_conversation"),
        ({"plain_text": "[Human]: Hi<eoh>"}, "not_a_conversation"),
        ({"chat": {"turn_1": {"Human": "Hi"}}}, "not_a_conversation"),
    ],
)
def test_what_is_no_conversation_is_a_bad_row(record: dict[str, Any], reason: str) -> None:
    result = parse_conversation(record)
    assert isinstance(result, Problem) and result.reason == reason


@pytest.mark.parametrize("record", [{"prefix": "un", "plain_text": "A text as any other."}, {"chat": {"turn_1": 3}}])
def test_other_values_under_these_names_are_no_turns(record: dict[str, Any]) -> None:
    row_format = detect_format(record)
    assert row_format is None or row_format.rows == "text"


@pytest.mark.parametrize("name", ["turn_" + "1" * 5000, "1" * 5000])
def test_a_number_of_thousands_of_digits_is_no_turn(name: str) -> None:
    assert as_turns({name: {"Human": "Hi", "MOSS": "Hello!", "role": "user", "content": "Hi"}}) is None


def test_keys_that_are_numbers_are_no_turn() -> None:
    assert as_turns({"turn_1": {1: "Hi"}}) is None


def test_a_long_run_of_spaces_is_read_in_one_go() -> None:
    said = "a" + " " * 100_000 + "b"
    started = time.process_time()
    turns = as_turns({"turn_1": {"Human": f"<|Human|>: {said}<eoh>", "MOSS": "<|MOSS|>: Yes<eom>"}})
    assert turns is not None and turns[0]["content"] == said
    assert time.process_time() - started < 1  # by a step for each pair of them: minutes
