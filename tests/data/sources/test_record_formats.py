"""Formats of records: what each is taken for, which of its columns are read, and which are named as not used."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pipelines.data.dialogues.turns import read_turns
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.cells import as_turns, number_of, verdict
from pipelines.data.sources.record_formats import columns_not_used, detect_format, format_as, main_format

USER, REPLY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
HUMAN, GPT = {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}


@pytest.mark.parametrize(
    ("record", "rows", "description"),
    [
        ({"instruction": "a", "input": None, "output": "b"}, "conversations", "Alpaca: instruction, input, output"),
        (
            {"instruction": "a", "context": "c", "response": "b"},
            "conversations",
            "Dolly: instruction, context, response",
        ),
        (
            {"system_prompt": "s", "question": "a", "response": "b"},
            "conversations",
            "prompt and reply: question, response, system_prompt",
        ),
        (
            {"conversations": [HUMAN, GPT], "system": "s", "tools": "[]"},
            "conversations",
            "ShareGPT: conversations of from and value, system",
        ),
        (
            {"conversation": [{"human": "a", "assistant": "b"}]},
            "conversations",
            "OpenAI: conversation of role and content",
        ),
        ({"messages": json.dumps([USER, REPLY])}, "conversations", "OpenAI: messages of role and content"),
        ({"messages": {"role": ["user"], "content": ["a"]}}, "conversations", "OpenAI: messages of role and content"),
        ({"prompt": [USER], "completion": [REPLY]}, "conversations", "prompt and reply: prompt, completion"),
        (
            {"prompt": "a", "completion": "b", "label": False},
            "conversations",
            "prompt, reply and label: prompt, completion, label",
        ),
        ({"Question": "a", "Answer": "b"}, "conversations", "prompt and reply: Question, Answer"),
        (
            {"prompt": "a", "chosen": [USER, REPLY], "rejected": [USER, REPLY], "messages": [USER, REPLY]},
            "preferences",
            "preference pairs: prompt, chosen, rejected",
        ),
        (
            {"instruction": "a", "completions": [{"response": "b", "overall_score": 4.0}]},
            "preferences",
            "rated replies: instruction, completions",
        ),
        (
            {"prompt": "a", "responses": ["b", "c"], "rank": [2, 1]},
            "preferences",
            "rated replies: prompt, responses, rank",
        ),
        (
            {"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 1},
            "preferences",
            "two replies and which is better: prompt, response_0, response_1, better_response_id",
        ),
        # Texts in turn are a conversation, but not where a prompt and its reply are about them.
        ({"id": "0", "data": ["a", "b"]}, "conversations", "dialogues: data of texts in turn"),
        ({"conversations": ["a", "b"], "source": "s"}, "conversations", "dialogues: conversations of texts in turn"),
        (
            {"instruction": "a", "dialogue": ["c", "d"], "output": "b"},
            "conversations",
            "Alpaca: instruction, output",
        ),
        (
            {"question": "a", "answer": "b", "data": ["geo", "europe"]},
            "conversations",
            "prompt and reply: question, answer",
        ),
        ({"title": "a page of things", "data": ["x", "y"]}, "text", "text: title"),
        # `a` is a reply beside `q`, and the first of several choices elsewhere.
        ({"q": "a", "a": "b"}, "conversations", "prompt and reply: q, a"),
        ({"question": "2 + 2?", "A": "3", "B": "4", "Correct": "B"}, "prompts", "prompts: question"),
        ({"q": "2 + 2?", "a": "3", "b": "4", "correct": "b"}, "text", "text: q"),
        # `items`, `chat` and turns of a `sender` may be anything: a conversation where there is no other, nor a text.
        ({"id": "0", "items": [HUMAN, GPT]}, "conversations", "ShareGPT: items of from and value"),
        (
            {"messages": [{"sender": "human", "text": "a"}, {"sender": "ai", "text": "b"}]},
            "conversations",
            "OpenAI: messages of role and content",
        ),
        *(
            ({"instruction": "a", "output": "b", name: items}, "conversations", "Alpaca: instruction, output")
            for name in ("items", "chat")
            for items in ('[{"sku": 1, "n": 2}]', [{"from": "a", "value": "b"}], [HUMAN, GPT])
        ),
        ({"text": "a", "items": '[{"sku": 1}]'}, "text", "text: text"),
        ({"text": "a", "items": [{"question": "b", "answer": "c"}]}, "text", "text: text"),
        ({"text": "a", "messages": [{"sender": "Ann", "text": "hi"}]}, "text", "text: text"),
        # `ai` is a reply to what a person says, and elsewhere says something of the row.
        ({"human": "a", "ai": "b"}, "conversations", "prompt and reply: human, ai"),
        ({"问题": "a", "回答": "b", "AI": "ChatGPT"}, "conversations", "prompt and reply: 问题, 回答"),
        ({"q": "a", "a": "b", "ai": "0"}, "conversations", "prompt and reply: q, a"),
        ({"prompt": "a", "text": "b", "ai": 1}, "text", "text: text"),
        ({"instruction": "a", "输出": "b", "ai": False}, "conversations", "Alpaca: instruction, 输出"),
        ({"question": "a", "ai": "ChatGPT"}, "prompts", "prompts: question"),
        # 提示 is a prompt where a reply stands beside it, and else may be a hint.
        ({"提示": "a", "回答": "b"}, "conversations", "prompt and reply: 提示, 回答"),
        ({"提示": "a", "chosen": "b", "rejected": "c"}, "preferences", "preference pairs: 提示, chosen, rejected"),
        ({"标题": "a", "提示": "b", "描述": "the longest"}, "text", "text: 描述"),
        ({"user": "bob", "message": "hello to all of you"}, "text", "text: message"),
        ({"prompt": "a", "responses": ["b", "c"]}, "prompts", "prompts: prompt"),
        # Turns that end with the user's are a prompt where a reply stands beside them.
        ({"messages": [USER], "response": "b"}, "conversations", "prompt and reply: messages, response"),
        ({"messages": [USER, REPLY], "response": "b"}, "conversations", "OpenAI: messages of role and content"),
        ({"messages": [USER], "response": None}, "conversations", "OpenAI: messages of role and content"),
        ({"messages": [USER], "ai": "b", "a": "c"}, "conversations", "OpenAI: messages of role and content"),
        # Answers are calls beside tools; a label is a choice beside replies that it can number.
        (
            {"query": "a", "tools": '[{"name": "x"}]', "answers": '[{"name": "x", "arguments": {}}]'},
            "conversations",
            "prompt and calls of tools: query, answers, tools",
        ),
        ({"query": "a", "answers": '[{"name": "x", "arguments": {}}]'}, "prompts", "prompts: query"),
        ({"query": "a", "tools": '[{"name": "x"}]', "answers": '["b", "c"]'}, "prompts", "prompts: query"),
        (
            {"instruction": "a", "instances": [{"input": "", "output": "b"}]},
            "conversations",
            "self-instruct: instruction, instances",
        ),
        ({"instruction": "a", "instances": [{"text": "b"}]}, "prompts", "prompts: instruction"),
        (
            {"instruction": "a", "input": "b", "response1": "c", "response2": "d", "label": 0},
            "preferences",
            "two replies and which is better: instruction, input, response1, response2, label",
        ),
        ({"prompt": "a", "response_a": "c", "response_b": "d", "label": 0}, "prompts", "prompts: prompt"),
    ],
)
def test_every_published_spelling_is_recognised(record: dict[str, Any], rows: str, description: str) -> None:
    row_format = detect_format(record)
    assert row_format is not None
    assert (row_format.rows, row_format.description) == (rows, description)


@pytest.mark.parametrize(
    ("record", "rows", "names"),
    [
        ({"id": 7, "prompt": "a", "response": "b", "tools": "", "note": None}, "conversations", ("id",)),
        ({"conversations": [HUMAN, GPT], "system": "s", "tools": '[{"name": "x"}]'}, "conversations", ()),
        ({"messages": [{**USER, "name": "Ann"}, REPLY]}, "conversations", ("messages.name",)),
        ({"messages": [USER, {**REPLY, "weight": 0, "tool_calls": None}]}, "conversations", ()),
        ({"prompt": "a", "response": "b", "score": float("nan")}, "conversations", ()),
        ({"prompt": "a", "response": "b", "label": "sports"}, "conversations", ("label",)),
        ({"prompt": "a", "completion": "b", "label": True}, "preferences", ()),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 2, "score_rejected": 1}, "preferences", ()),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "conversations", ("prompt", "chosen", "rejected")),
        (
            {
                "prompt": "a",
                "completions": [{"response": "b", "score": 1, "model": "x"}, {"response": "c", "score": 2}],
            },
            "preferences",
            ("completions.model",),
        ),
        ({"text": "a", "title": "b"}, "text", ("title",)),
        ({"meta": {"text": "a"}, "id": 1}, "text", ("meta", "id")),
        # Of several keys of one meaning one is read; a thought is the assistant's; a label that judges nothing is none.
        (
            {"messages": [{**USER, "text": "c"}, {**REPLY, "from": "d"}]},
            "conversations",
            ("messages.text", "messages.from"),
        ),
        (
            {"messages": [{**USER, "thinking": "c"}, {**REPLY, "thinking": "d"}]},
            "conversations",
            ("messages.thinking",),
        ),
        ({"messages": [USER, {**REPLY, "label": "sports"}]}, "conversations", ("messages.label",)),
        (
            {"conversation": [{"human": "a", "assistant": "b", "mood": "s"}]},
            "conversations",
            ("conversation.mood",),
        ),
        (
            {"conversation": [{"human": "a", "assistant": "b", "weight": 0.7}]},  # of the reply
            "conversations",
            (),
        ),
        (
            {
                "conversation": [
                    {"system": 5, "input": "a", "output": "b"},
                    {"system": "s", "input": "a", "output": "b"},
                ]
            },
            "conversations",
            ("conversation.system",),
        ),
        ({"messages": {"messages": [USER, REPLY], "tools": [{"name": "x"}]}}, "conversations", ("messages.tools",)),
        (
            {"messages": {"role": ["user", "assistant"], "content": ["a", "b"], "topic": "c"}},
            "conversations",
            ("messages.topic",),
        ),
        (
            {"prompt": "a", "completions": [{"response": "b", "text": "c", "score": 1}, {"response": "d", "score": 2}]},
            "preferences",
            ("completions.text",),
        ),
        ({"prompt": "a", "response": "b", "half \ud83d": 1}, "conversations", ("half \\ud83d",)),
        (
            {"instruction": "a", "instances": [{"input": "", "output": "b", "topic": "c"}], "is_classification": False},
            "conversations",
            ("is_classification", "instances.topic"),
        ),
        (
            {
                "instruction": "a",
                "instances": [{"input": "b", "output": "c", "label": False}],
                "tools": [{"name": "x"}],
                "input": "d",
                "history": [["e", "f"]],
                "reasoning": "g",
            },
            "conversations",
            ("input", "history", "reasoning", "instances.label"),
        ),
    ],
)
def test_what_is_not_read_is_named(record: dict[str, Any], rows: str, names: tuple[str, ...]) -> None:
    assert columns_not_used(record, rows) == names


def test_one_reply_with_a_rating_can_be_read_as_a_preference() -> None:
    row_format = format_as({"question": "a", "answer": "b", "score": "3.5"}, "preferences")
    assert row_format is not None
    assert row_format.column("rating") == "score"
    assert format_as({"question": "a", "answer": "b"}, "preferences") is None
    row_format = format_as({"question": "a", "dialogue": ["c", "d"], "answer": "b", "score": 3}, "preferences")
    assert row_format is not None
    assert row_format.columns == ("question", "answer", "score")


def test_rows_with_and_without_columns_beside_have_one_format() -> None:
    records = [{"prompt": "a", "answer": "b"}, {"prompt": "a", "answer": "b", "system": "s"}, {"text": "c"}]
    row_format, count = main_format(records)
    assert row_format is not None
    assert (row_format.columns, count) == (("prompt", "answer", "system"), 2)
    pairs = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"chosen": [USER, REPLY], "rejected": [USER, GPT]}]
    assert main_format(pairs)[1] == 2
    assert main_format([{"n": 1}]) == (None, 0)


TURN_TEXTS = ["[ \n " + json.dumps(USER) + "]", " [" + json.dumps(USER) + "]", json.dumps([USER], indent=1)]


@pytest.mark.parametrize("text", TURN_TEXTS)
def test_turns_as_json_text_of_any_layout(text: str) -> None:
    assert as_turns(text) == [USER]


def test_json_text_that_is_nested_too_deeply_holds_no_turns() -> None:
    assert as_turns('[{"a":' * 100_000) is None


def test_turns_as_an_object_of_lists() -> None:
    columns: dict[str, Any] = {"role": ["user", "assistant"], "content": ["a", "b"]}
    assert as_turns(columns | {"n": 1, "id": None, "topic": "tea"}) == [USER, REPLY]
    assert as_turns(columns | {"role": [*columns["role"], "user"]}) is None
    assert as_turns({"role": [], "content": []}) is None


def test_uneven_lists_of_turns_are_a_bad_row_and_lose_nothing_silently() -> None:
    turns = read_turns({"role": ["user", "assistant", "user", "assistant"], "content": ["a", "b"]})
    assert isinstance(turns, Problem)


def test_a_number_beyond_all_bounds_is_no_label_and_no_rating() -> None:
    assert verdict(10**400) is None
    assert number_of(10**400) is None
    assert number_of(-(10**400)) is None
    assert [verdict(value) for value in (1, 0.0, -1, math.nan, math.inf)] == [True, False, False, None, None]
    turns = read_turns([USER, REPLY | {"weight": 10**400}])
    assert isinstance(turns, Problem)
    assert turns.reason == "turn_weight"
