"""Turns of a conversation: what a thought beside or within a reply becomes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pipelines.data.dialogues.conversation_records import ParsedConversation, parse_conversation
from pipelines.data.dialogues.turns import read_turns, turns_of_transcript
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.record_formats import columns_not_used

HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]


def turns(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [HELLO[0], {**HELLO[1], "reasoning_content": "A greeting."}]},
        {"messages": [HELLO[0], {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHi!"}]},
        {"prompt": "Hello", "response": "Hi!", "reasoning": "A greeting."},
        {
            "conversations": [
                {"from": "user", "value": "Hello"},
                {
                    "from": "assistant",
                    "value": "<|begin_of_thought|>\n\nA greeting.\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n"
                    "Hi!\n\n<|end_of_solution|>",
                },
            ]
        },
        {
            "messages": [
                HELLO[0],
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "A greeting."}, {"type": "text", "text": "Hi!"}],
                },
            ]
        },
    ],
)
def test_thoughts_are_kept_whole_or_removed(record: dict[str, Any]) -> None:
    kept, removed = (parse_conversation(record, keep_thoughts=keep) for keep in (True, False))
    assert isinstance(kept, ParsedConversation)
    assert kept.messages[1]["content"] == "<think>\nA greeting.\n</think>\n\nHi!"
    assert removed == ParsedConversation(HELLO)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Hello", "response": "<think>A greeting.</think>Hi!", "reasoning": "No greeting."},
        {"messages": [HELLO[0], {"role": "assistant", "content": "<think>A</think>Hi!", "reasoning": "B"}]},
        {
            "messages": [
                HELLO[0],
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "A"}, {"type": "text", "text": "Hi!"}],
                    "reasoning": "B",
                },
            ]
        },
    ],
)
def test_two_thoughts_of_one_reply_are_a_problem_where_they_are_kept(record: dict[str, Any]) -> None:
    problem = parse_conversation(record)
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.by_rule) == ("two_thoughts", False)
    assert parse_conversation(record, keep_thoughts=False) == ParsedConversation(HELLO)


@pytest.mark.parametrize("own", ["<think>\n\n</think>\n\n", "<think>\nA greeting.\n</think>\n\n"])
def test_a_thought_in_the_reply_goes_before_one_beside_it(own: str) -> None:
    parsed = parse_conversation({"prompt": "Hello", "response": f"{own}Hi!", "reasoning": "A  greeting."})
    assert isinstance(parsed, ParsedConversation)
    assert " ".join(parsed.replies[0].split()) == "<think> A greeting. </think> Hi!"


@pytest.mark.parametrize("keep", [True, False])
def test_a_thought_beside_several_turns_is_that_of_the_last_reply(keep: bool) -> None:
    record = {"prompt": "a", "completion": turns("", "b", "c", "d", "e")[1:], "reasoning": "A letter."}
    parsed = parse_conversation(record, keep_thoughts=keep)
    last = "<think>\nA letter.\n</think>\n\nd" if keep else "d"
    assert parsed == ParsedConversation(turns("a", "b", "c", last), num_cut=1)
    assert columns_not_used(record, "conversations") == ()
    in_one_column = {"messages": turns("a", "b"), "reasoning": "A letter."}
    assert columns_not_used(in_one_column, "conversations") == ("reasoning",)


@pytest.mark.parametrize(
    "text",
    ["<think>" * 100_000, "</think>" * 100_000 + "<think>" * 100_000, "<think>" + "`</think>`" * 100_000,
     "<think></think>" * 100_000 + "<think>\n", "a </think>" * 100_000 + "\n<think>"],
)  # fmt: skip
def test_thoughts_are_found_in_linear_time(text: str) -> None:
    start = time.process_time()
    parsed = parse_conversation({"prompt": "Hello", "response": text})
    is_text = text.startswith("a")
    assert isinstance(parsed, ParsedConversation) if is_text else (
        isinstance(parsed, Problem) and parsed.reason == "half_a_thought"
    )  # fmt: skip
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "text",
    [
        "You open `<think>` and close it with `</think>`.",
        "You open <think> and close it with </think>.",
        "You close it with </think>.",
        "用</think>结束思考。",
        "As text:\n\n```xml\n<think>\nWhy?\n</think>\n```\nAnd so on.",
        "```\n</think>\n```",
        "It has a tag. </think> closes it.",
        "It ends with foo()</think>.",
        "Write x</think>, then y.",
        "The marks are `<think>` and\n`</think>`.",
    ],
)
@pytest.mark.parametrize("keep", [True, False])
def test_a_reply_may_write_about_the_marks_of_thoughts(text: str, keep: bool) -> None:
    for own in ("", "<think>\nAbout `</think>`.\n</think>\n\n"):
        parsed = parse_conversation({"prompt": "Hello", "response": own + text}, keep_thoughts=keep)
        assert isinstance(parsed, ParsedConversation)
        assert parsed.replies == [own + text if keep else text]
    beside = parse_conversation({"prompt": "Hello", "response": text, "reasoning": "Why?"}, keep_thoughts=keep)
    assert isinstance(beside, ParsedConversation)
    assert beside.replies == [f"<think>\nWhy?\n</think>\n\n{text}" if keep else text]


@pytest.mark.parametrize(
    "text",
    ["<think>a</think>\n<think>b</think>answer", "<think>\na\n</think>\n\n<think> b </think>\n\nanswer",
     "<think>a</think><think></think><think>b</think></think>answer", "Is it a?\n</think>\n<think>b</think>answer"],
)  # fmt: skip
def test_all_thoughts_that_open_a_reply_are_thoughts(text: str) -> None:
    kept, removed = (parse_conversation({"prompt": "Hello", "response": text}, keep_thoughts=k) for k in (True, False))
    assert isinstance(kept, ParsedConversation) and isinstance(removed, ParsedConversation)
    first = "Is it a?" if text.startswith("Is") else "a"
    assert kept.replies == [f"<think>\n{first}\n\nb\n</think>\n\nanswer"] and removed.replies == ["answer"]


@pytest.mark.parametrize("own", ["", "<think>a</think>"])
def test_a_mark_that_opens_a_thought_and_is_never_closed_is_no_text(own: str) -> None:
    for beside in (None, "a"):
        record = {"prompt": "Hello", "response": f"{own}<think> opens a thought.", "reasoning": beside}
        problem = parse_conversation(record)
        assert isinstance(problem, Problem) and problem.reason == "half_a_thought"


@pytest.mark.parametrize(
    "text",
    ["Okay, a greeting.\n</think>\n\nHi!", "Okay, a greeting.</think>Hi!", "Okay, a greeting.\n</think>Hi!",
     "\nOkay, a greeting. </think>\n\nHi!"],
)  # fmt: skip
def test_a_thought_that_the_prompt_opened_is_one(text: str) -> None:
    """Replies of models whose template opens the thought, as engines without a reasoning parser save them."""
    kept, removed = (parse_conversation({"prompt": "Hello", "response": text}, keep_thoughts=k) for k in (True, False))
    assert isinstance(kept, ParsedConversation) and isinstance(removed, ParsedConversation)
    assert kept.replies == ["<think>\nOkay, a greeting.\n</think>\n\nHi!"] and removed.replies == ["Hi!"]


def test_an_empty_thought_that_the_prompt_opened_is_none() -> None:
    parsed = parse_conversation({"prompt": "Hello", "response": "\n</think>\n\nHi!"})
    assert parsed == ParsedConversation(HELLO)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_transcripts_are_divided_at_blank_lines_of_any_line_ends(end: str) -> None:
    text = f"{end}{end}Human: Hi{end}Human: is no turn{end}{end}Assistant: Hello!"
    read = turns_of_transcript(text, keep_thoughts=True)
    assert not isinstance(read, Problem)
    assert [(turn.role, turn.content) for turn in read] == [
        ("user", "Hi\nHuman: is no turn"), ("assistant", "Hello!"),
    ]  # fmt: skip


def test_blanks_around_a_role_say_nothing() -> None:
    read = read_turns([{"role": " User ", "content": "Hi"}, {"role": "ASSISTANT\n", "content": "Hello!"}])
    assert not isinstance(read, Problem)
    assert [turn.role for turn in read] == ["user", "assistant"]
