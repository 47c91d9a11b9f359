"""Calls of tools in users' rows, in the spellings that data sets use."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.data.dialogues.conversation_records import ParsedConversation, parse_conversation
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.record_formats import columns_not_used

ARGUMENTS = {"port": "Wick", "day": {"of": "May", "number": 1}}
CALL = {"type": "function", "function": {"name": "tide", "arguments": ARGUMENTS}}
AS_TEXT = {"type": "function", "function": {"name": "tide", "arguments": json.dumps(ARGUMENTS)}}
AT_SIX = {"role": "assistant", "content": "At six."}
CALLS_ONLY = {"role": "assistant", "content": None}
RESULT = {"role": "tool", "content": "6"}
HELLO = [{"role": "user", "content": "Hello"}]


def said_with(calls: list[dict[str, Any]], *results: dict[str, str], content: str = "") -> list[dict[str, str]]:
    """HELLO's prompt, a turn with calls, their results, of the tool `tide` where they do not say, and the reply."""
    turn = {"role": "assistant", "content": content, "tool_calls": json.dumps(calls, ensure_ascii=False)}
    return [HELLO[0], turn, *({"role": "tool", "name": "tide", **result} for result in results), AT_SIX]


XLAM_TOOL = {"name": "tide", "parameters": {"port": {"type": "str", "default": "Wick"}}}


@pytest.mark.parametrize("as_text", [True, False])
def test_calls_that_answer_a_query_are_the_reply(as_text: bool) -> None:
    cells: dict[str, Any] = {"tools": [XLAM_TOOL], "answers": [{"name": "tide", "arguments": ARGUMENTS}]}
    cells = {name: json.dumps(cell) if as_text else cell for name, cell in cells.items()}
    record = {"id": 1, "query": "Hello", **cells}
    expected = [HELLO[0], {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])}]
    tools = json.dumps([{"type": "function", "function": XLAM_TOOL}])
    assert parse_conversation(record) == ParsedConversation(expected, tools=tools)
    assert columns_not_used(record, "conversations") == ("id",)
    parsed = parse_conversation({**record, "reasoning": "High water."})
    assert isinstance(parsed, ParsedConversation)
    assert parsed.messages[1]["content"] == "<think>\nHigh water.\n</think>"
    for nothing in ("[]", []):  # none of the tools helps
        problem = parse_conversation({**record, "answers": nothing})
        assert isinstance(problem, Problem) and (problem.reason, problem.by_rule) == ("no_reply", False)


IDS = [{"id": "c1", **CALL}, {"id": "c2", "type": "function", "function": {"name": "wind", "arguments": {}}}]


@pytest.mark.parametrize(
    ("turns_between", "expected"),
    [
        ([{**CALLS_ONLY, "tool_calls": [CALL]}, RESULT], said_with([CALL], {"content": "6"})),
        (  # arguments as JSON text, null cells of a table
            [{**CALLS_ONLY, "tool_calls": [{**AS_TEXT, "index": None}]}, {**RESULT, "name": None}],
            said_with([CALL], {"content": "6"}),
        ),
        (  # a column that is null beside the one that is used
            [{**CALLS_ONLY, "tool_calls": [{"name": "tide", "arguments": None, "parameters": ARGUMENTS}]}, RESULT],
            said_with([CALL], {"content": "6"}),
        ),
        (  # of OpenAI before 2024
            [{**CALLS_ONLY, "function_call": AS_TEXT["function"]}, {**RESULT, "role": "function", "name": "tide"}],
            said_with([CALL], {"content": "6", "name": "tide"}),
        ),
        (  # two calls in one turn; results by their ids, one of them an object, the other empty
            [{"role": "assistant", "content": "I look.", "tool_calls": IDS},
             {"role": "tool", "tool_call_id": "c2", "content": {"knots": 3}},
             {"role": "tool", "tool_call_id": "c1", "content": ""}],
            said_with(IDS, {"content": '{"knots": 3}', "tool_call_id": "c2", "name": "wind"},
                      {"content": "", "tool_call_id": "c1"}, content="I look."),
        ),
    ],
)  # fmt: skip
def test_calls_of_tools_are_kept_in_the_form_of_openais_api(
    turns_between: list[dict[str, Any]], expected: list[dict[str, str]]
) -> None:
    record = {"messages": [HELLO[0], *turns_between, AT_SIX]}
    assert parse_conversation(record) == ParsedConversation(expected)
    assert columns_not_used(record, "conversations") == ()
    assert parse_conversation({"messages": expected}) == ParsedConversation(expected)


def from_value(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


def test_calls_of_sharegpt_are_turns_of_their_own() -> None:
    call = json.dumps(CALL["function"])
    one = from_value(("human", "Hello"), ("function_call", call), ("observation", "6"), ("gpt", "At six."))
    assert parse_conversation(one) == ParsedConversation(said_with([CALL], {"content": "6"}))
    calls = (("human", "Hello"), ("gpt", "I look."), ("function_call", call), ("function_call", call))
    results = (("tool", "<tool_response>\n6\n</tool_response>"), ("observation", "7"))
    two = from_value(*calls, *results, ("gpt", "At six."))
    expected = said_with([CALL, CALL], {"content": "6"}, {"content": "7"}, content="I look.")
    assert parse_conversation(two) == ParsedConversation(expected)


def test_results_get_the_names_of_their_tools() -> None:
    no_ids = [{key: value for key, value in call.items() if key != "id"} for call in IDS]
    for calls, results, names in (
        (no_ids, [{}, {}], ["tide", "wind"]),  # in the order of the calls
        (no_ids, [{"tool_call_id": "c1"}, {"tool_call_id": "c2"}], ["tide", "wind"]),
        (IDS, [{"tool_call_id": "c2"}, {}], ["wind", "tide"]),
        (IDS, [{"name": "sea", "tool_call_id": "c1"}, {"tool_call_id": "c2"}], ["sea", "wind"]),
        (IDS, [{"tool_call_id": "c3"}, {"tool_call_id": "c1"}, {"tool_call_id": "c1"}], [None, "tide", None]),
    ):
        turns = [{"role": "assistant", "content": "", "tool_calls": calls},
                 *({"role": "tool", "content": "6", **result} for result in results)]  # fmt: skip
        parsed = parse_conversation({"messages": [HELLO[0], *turns, AT_SIX]})
        assert isinstance(parsed, ParsedConversation)
        assert [message.get("name") for message in parsed.messages if message["role"] == "tool"] == names


def test_a_call_without_a_result_ends_a_conversation() -> None:
    calling = {"role": "assistant", "content": "", "reasoning_content": "The tide.", "tool_calls": [CALL]}
    record = {"messages": [HELLO[0], calling, {"role": "tool", "content": "6"}]}
    parsed, without = (parse_conversation(record, keep_thoughts=keep) for keep in (True, False))
    assert isinstance(parsed, ParsedConversation) and isinstance(without, ParsedConversation)
    assert parsed.messages[1]["content"] == "<think>\nThe tide.\n</think>" and parsed.num_cut == 1
    assert without.messages == said_with([CALL])[:2]
    assert without.replies == [json.dumps([CALL])]


@pytest.mark.parametrize(
    "call",
    ["{", "[]", {"name": ""}, {"arguments": {}}, {"name": "tide", "arguments": "Wick"}, {"function": "tide"}, [7]],
)
def test_what_is_no_call_is_a_problem(call: Any) -> None:
    for turn in ({**CALLS_ONLY, "tool_calls": call}, {"role": "function_call", "content": call}):
        problem = parse_conversation({"messages": [HELLO[0], turn]})
        assert isinstance(problem, Problem) and problem.reason in ("tool_call", "no_text")
        assert "turn 2" in problem.text


def test_half_a_character_in_a_call_is_a_problem() -> None:
    problem = parse_conversation(
        {"messages": [HELLO[0], {"role": "function_call", "content": '{"name": "a", "arguments": {"b": "\\ud83d"}}'}]}
    )
    assert isinstance(problem, Problem) and problem.reason == "half_a_character"
    for key in ("tool_call_id", "name"):
        turns = said_with([CALL], {"content": "6", key: "\ud83d"})
        problem = parse_conversation({"messages": turns})
        assert isinstance(problem, Problem) and problem.reason == "half_a_character"
