"""Parsing of users' records into conversations: three formats, and a clear reason for what cannot be used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.dialogues.conversation_records import ParsedConversation, parse_conversation
from pipelines.data.sources.bad_rows import Problem

HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Hello", "input": "", "output": "Hi!"},
        {"instruction": "Hello", "output": " Hi!\r\n"},
        {"prompt": "Hello", "response": "Hi!"},
        {"question": "Hello", "answer": "Hi!"},
        {"messages": HELLO},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}, HELLO[1]]},
        {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]},
        {"conversation": [{"from": "USER", "value": "Hello"}, {"from": "Assistant", "value": "Hi!"}], "id": 7},
    ],
)
def test_every_format_gives_the_same_turns(record: dict[str, Any]) -> None:
    assert parse_conversation(record) == ParsedConversation(HELLO)


def test_alpacas_input_follows_the_instruction() -> None:
    parsed = parse_conversation({"instruction": "翻译成英文", "input": "你好", "output": "Hello"})
    assert isinstance(parsed, ParsedConversation)
    assert parsed.messages[0]["content"] == "翻译成英文\n\n你好"


def test_a_system_turn_and_earlier_exchanges_come_first() -> None:
    columns = {"system": "Be kind.", "history": [["1?", "2."]], "instruction": "Hello", "output": "Hi!"}
    parsed = parse_conversation(columns)
    assert isinstance(parsed, ParsedConversation)
    assert [turn["role"] for turn in parsed.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert parse_conversation(
        {"messages": [{"role": "developer", "content": "Be kind."}, *HELLO]}
    ) == ParsedConversation([SYSTEM, *HELLO])


def test_turns_after_the_last_reply_are_cut_and_counted() -> None:
    more = [{"role": "user", "content": "And you?"}]
    assert parse_conversation({"messages": HELLO + more}) == ParsedConversation(HELLO, num_cut=1)


@pytest.mark.parametrize(
    ("record", "reason", "message"),
    [
        ({"messages": HELLO[:1]}, "no_reply", "without an assistant's turn"),
        ({"messages": []}, "no_reply", "'messages' is an empty list"),
        ({"instruction": "Hello", "output": " "}, "empty_turn", r"turn 2 \(assistant\) is empty"),
        ({"messages": [{"role": "user", "content": "\u200b"}, HELLO[1]]}, "empty_turn", r"turn 1 \(user\) is empty"),
        ({"messages": [*HELLO, {"role": "tool", "content": "3"}]}, "unknown_role", "turn 3 has the role 'tool'"),
        ({"messages": [{"role": None, "content": "3"}]}, "unknown_role", "has the role None"),
        ({"messages": [HELLO[0], {"role": "assistant", "content": None}]}, "no_text", "turn 2 .* holds null"),
        ({"messages": [HELLO[0], "Hi!"]}, "no_turn", "turn 2 holds text"),
        ({"messages": [HELLO[1], *HELLO]}, "turn_order", "turn 1 is the assistant's; expected the user's"),
        ({"messages": [HELLO[0], *HELLO]}, "turn_order", "turn 2 is the user's; expected the assistant's"),
        ({"messages": [*HELLO, SYSTEM, *HELLO]}, "turn_order", "turn 3 is the system's"),
        ({"instruction": "a", "output": "b", "history": "c"}, "no_turn", "'history' holds text"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "no_turn", "history, entry 1"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "not_a_conversation", "rows: preferences"),
        ({"title": "A tale", "text": "Once"}, "not_a_conversation", r"columns here: title, text\); expected Alpaca"),
        ({}, "not_a_conversation", "columns here: none"),
    ],
)
def test_what_cannot_be_used_has_a_reason(record: dict[str, Any], reason: str, message: str) -> None:
    problem = parse_conversation(record)
    assert isinstance(problem, Problem)
    assert problem.reason == reason
    with pytest.raises(ValueError, match=message):
        raise ValueError(problem.text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_real_instructions_are_parsed(data_dir: Path, language: str) -> None:
    with gzip.open(data_dir / f"instruct_{language}.jsonl.gz") as lines:
        parsed = [parse_conversation(json.loads(line)) for _, line in zip(range(2000), lines, strict=False)]
    assert len(parsed) == 2000
    assert all(isinstance(each, ParsedConversation) for each in parsed)
