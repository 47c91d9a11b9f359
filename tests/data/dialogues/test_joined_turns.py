"""Turns in a row of one role, refusals beside the content, and what several flags say of a turn or a row."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.data.dialogues.conversation_records import ParsedConversation, parse_conversation
from pipelines.data.dialogues.outliers import OutlierRules
from pipelines.data.dialogues.preference_records import ParsedPreferences, parse_preferences
from pipelines.data.dialogues.source_rows import system_text
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.record_formats import columns_not_used
from serve.gateway.conversation import InvalidPrompt, parse_messages


def turn(role: str, content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASK, REPLY = turn("user", "Why?"), turn("assistant", "It floats.")
BRIEF = turn("system", "Be brief.")
CALL = [{"id": "1", "type": "function", "function": {"name": "tide", "arguments": "{}"}}]
SEVERAL = [
    ([turn("system", "Be kind."), turn("system", "Be brief."), ASK, REPLY], 1, ["Be kind.\nBe brief."]),
    ([turn("user", "Hi"), turn("user", "Are you there?"), turn("user", "?"), REPLY], 2, ["Hi\nAre you there?\n?"]),
    ([ASK, REPLY, turn("assistant", "It is light.")], 1, ["Why?", "It floats.\nIt is light."]),
    ([ASK, REPLY, turn("assistant", "Is it?"), ASK, ASK, REPLY], 2, ["Why?", "It floats.\nIs it?", "Why?\nWhy?"]),
    ([turn("system", "Be kind."), ASK, REPLY, BRIEF, ASK, REPLY], 0, ["Be kind.", "Why?", "It floats.", "Be brief."]),
    ([ASK, BRIEF, BRIEF, REPLY, ASK, BRIEF, ASK, REPLY], 1, ["Why?", "Be brief.\nBe brief.", "It floats."]),
]


@pytest.mark.parametrize(("messages", "num_joined", "texts"), SEVERAL)
def test_turns_in_a_row_are_one_in_training_as_in_serving(
    messages: list[dict[str, Any]], num_joined: int, texts: list[str]
) -> None:
    parsed = parse_conversation({"messages": messages})
    assert isinstance(parsed, ParsedConversation) and parsed.num_joined == num_joined
    assert [message["content"] for message in parsed.messages][: len(texts)] == texts
    assert parsed.messages == parse_messages(messages)
    *context, last = messages
    pair = parse_preferences({"chosen": messages, "rejected": [*context, {**last, "content": "No."}]})
    assert isinstance(pair, ParsedPreferences)
    chosen = pair.pairs[0]
    assert chosen.prompt == parsed.messages[:-1] and chosen.chosen == parsed.messages[-1]["content"]
    assert pair.num_joined >= num_joined
    *prompt, _ = messages
    columns = {"prompt": prompt, "chosen": messages, "rejected": [*prompt, {**last, "content": "No."}]}
    assert last is not REPLY or parse_preferences(columns) == pair


def test_the_systems_turns_before_the_first_user_are_one() -> None:
    parsed = parse_conversation({"messages": [turn("system", "Be kind."), REPLY, BRIEF, ASK, REPLY]})
    assert isinstance(parsed, ParsedConversation) and parsed.num_cut_before == 1
    assert parsed.messages == [turn("system", "Be kind.\nBe brief."), ASK, REPLY]
    parsed = parse_conversation({"messages": [BRIEF, BRIEF, REPLY, BRIEF, ASK, REPLY]})
    assert isinstance(parsed, ParsedConversation) and (parsed.num_cut_before, parsed.num_joined) == (1, 2)


def test_a_system_turn_between_a_call_and_its_result_is_refused_in_training_as_in_serving() -> None:
    calling, result = turn("assistant", None, tool_calls=CALL), turn("tool", "6", tool_call_id="1")
    for after in ([BRIEF], [BRIEF, result]):
        problem = parse_conversation({"messages": [ASK, calling, *after, REPLY]})
        assert isinstance(problem, Problem) and problem.reason == "turn_order" and "turn 3 is the sys" in problem.text
        with pytest.raises(InvalidPrompt, match="no result follows"):
            parse_messages([ASK, calling, *after], calls_tools=True)
    messages = [ASK, calling, result, BRIEF, REPLY]
    parsed = parse_conversation({"messages": messages})
    assert isinstance(parsed, ParsedConversation) and parsed.messages == parse_messages(messages, calls_tools=True)


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_later_system_turn_without_text_is_left_out_in_training_as_in_serving(text: str) -> None:
    for messages in ([ASK, REPLY, turn("system", text), ASK, REPLY], [ASK, turn("system", text), ASK, REPLY]):
        parsed = parse_conversation({"messages": messages})
        assert isinstance(parsed, ParsedConversation) and parsed.messages == parse_messages(messages)
        assert all(message["role"] != "system" for message in parsed.messages)


def test_rows_that_differ_in_a_late_system_turn_are_no_repeats() -> None:
    rows = [[ASK, REPLY, turn("system", text), ASK, REPLY] for text in ("Be kind.", "Be brief.")]
    assert len({system_text(row) for row in rows}) == 2


def test_joined_turns_of_all_replies_of_a_row_count() -> None:
    several = [[turn("assistant", f"{number}."), turn("assistant", "Yes.")] for number in range(3)]
    rated = {"prompt": [ASK, ASK], "responses": several, "scores": [1, 2, 3]}
    texts = [f"\n\nHuman: Why?\n\nHuman: Why?\n\nAssistant: {n}.\n\nAssistant: Yes." for n in range(3)]
    for record, num_pairs in ((rated, 3), ({"chosen": texts[0], "rejected": texts[1:]}, 2)):
        parsed = parse_preferences(record)
        assert isinstance(parsed, ParsedPreferences) and (len(parsed.pairs), parsed.num_joined) == (num_pairs, 4)


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff", "\u2060", "\u00a0", " \t"])
def test_a_role_may_have_blanks_and_invisible_characters_around_it(blank: str) -> None:
    record = {"messages": [{**each, "role": f"{blank}{each['role']}{blank}"} for each in (BRIEF, ASK, REPLY)]}
    parsed = parse_conversation(record)
    assert isinstance(parsed, ParsedConversation) and parsed.messages == [BRIEF, ASK, REPLY]
    assert columns_not_used(record, "conversations") == ()


def test_calls_in_turns_of_their_own_are_one_turn_in_training_as_in_serving() -> None:
    second = [{**CALL[0], "id": "2"}]
    calls = [turn("assistant", None, tool_calls=CALL), turn("assistant", "", tool_calls=second)]
    messages = [ASK, *calls, turn("tool", "6", tool_call_id="1"), turn("tool", "7", tool_call_id="2"), REPLY]
    parsed = parse_conversation({"messages": messages})
    assert isinstance(parsed, ParsedConversation) and parsed.num_joined == 0
    served = parse_messages(messages, calls_tools=True)
    assert served == parsed.messages
    assert [each.get("name") for each in served[2:4]] == ["tide", "tide"]


def test_thoughts_of_replies_in_a_row_open_the_one_reply() -> None:
    first, second = turn("assistant", "<think>a</think>x"), turn("assistant", "y", reasoning_content="b")
    parsed = parse_conversation({"messages": [ASK, first, second]})
    assert isinstance(parsed, ParsedConversation) and parsed.replies == ["<think>\na\n\nb\n</think>\n\nx\ny"]
    removed = parse_conversation({"messages": [ASK, first, second]}, keep_thoughts=False)
    assert isinstance(removed, ParsedConversation) and removed.replies == ["x\ny"]


def test_a_turn_that_says_nothing_or_only_thinks_joins_the_next_one_of_its_role() -> None:
    thought = turn("assistant", "<think>a</think>")
    for keep, reply in ((True, "<think>a</think>\nHello."), (False, "Hello.")):
        parsed = parse_conversation({"messages": [ASK, thought, turn("assistant", "Hello.")]}, keep_thoughts=keep)
        assert isinstance(parsed, ParsedConversation) and parsed.replies == [reply]
    messages = [turn("user", "Hi "), turn("user", " "), turn("user", " there"), turn("assistant", "")]
    assert parse_messages([*messages, REPLY])[0]["content"] == "Hi\nthere"
    parsed = parse_conversation({"messages": [*messages, REPLY]})
    assert isinstance(parsed, ParsedConversation) and parsed.messages == parse_messages([*messages, REPLY])


def test_a_call_joins_the_text_before_it_and_no_text_joins_a_call() -> None:
    result = turn("tool", "6:10", tool_call_id="1", name="tide")
    messages = [ASK, turn("assistant", "I look."), turn("assistant", None, tool_calls=CALL), result, REPLY, ASK]
    parsed = parse_conversation({"messages": messages})
    assert isinstance(parsed, ParsedConversation) and parsed.num_joined == 0
    served = parse_messages([{k: v for k, v in each.items() if k != "name"} for each in messages], calls_tools=True)
    assert [m["role"] for m in served][:4] == [m["role"] for m in parsed.messages] == ["user", "assistant", "tool",
                                                                                      "assistant"]  # fmt: skip
    assert [m["content"] for m in served][:4] == [m["content"] for m in parsed.messages]
    problem = parse_conversation({"messages": [ASK, turn("assistant", None, tool_calls=CALL), REPLY]})
    assert isinstance(problem, Problem) and problem.reason == "turn_order"


def test_a_question_may_follow_the_result_of_a_call_and_results_stay_apart() -> None:
    messages = [ASK, turn("assistant", None, tool_calls=CALL), turn("tool", "6"), turn("tool", "7"), ASK, REPLY]
    parsed = parse_conversation({"messages": messages})
    assert isinstance(parsed, ParsedConversation) and parsed.num_joined == 0
    assert [message["role"] for message in parsed.messages] == [message["role"] for message in messages]


@pytest.mark.parametrize(
    "reply",
    [
        turn("assistant", None, refusal="That is off the table."),
        turn("assistant", "", refusal="That is off the table."),
        turn("assistant", [{"type": "refusal", "refusal": "That is off the table."}]),  # pyright: ignore
        {"role": "assistant", "refusal": "That is off the table."},
    ],
)
def test_a_refusal_beside_the_content_is_the_reply_and_refuses(reply: dict[str, Any]) -> None:
    record = {"messages": [ASK, reply]}
    parsed = parse_conversation(record)
    assert isinstance(parsed, ParsedConversation) and parsed.refused and parsed.replies == ["That is off the table."]
    assert columns_not_used(record, "conversations") == ()
    rules = OutlierRules(max_characters=1000, drop_refusals=True)
    problem = rules.problem(parsed.text, parsed.replies, refused=parsed.refused)
    assert problem is not None and problem.reason == "refusal"
    assert rules.problem(parsed.text, parsed.replies) is None
    assert parse_messages([ASK, reply, ASK])[1]["content"] == "That is off the table."
    pair = parse_preferences({"prompt": [ASK], "chosen": [reply], "rejected": [REPLY]})
    assert isinstance(pair, ParsedPreferences) and pair.refused


def test_a_refusal_that_is_no_text_is_none() -> None:
    messages = [ASK, turn("assistant", None, tool_calls=CALL, refusal=None), turn("tool", "6"),
                turn("assistant", "At six.", refusal=False)]  # fmt: skip
    parsed = parse_conversation({"messages": messages})
    assert isinstance(parsed, ParsedConversation) and not parsed.refused and parsed.replies[-1] == "At six."


@pytest.mark.parametrize(
    ("flags", "row", "weights"),
    [
        ({"weight": 0, "loss": 1}, {}, None),
        ({"weight": 1, "loss": 0}, {}, None),
        ({"weight": 0.5, "loss": 3}, {}, (1.5,)),
        ({"loss": 0.5, "weight": 1, "train": True}, {}, (0.5,)),
        ({"weight": 0.5, "train": False}, {}, None),
        ({"weight": None}, {"weight": "0.25"}, (0.25,)),
        ({"weight": 0.5}, {"weight": 0.5}, (0.25,)),
        ({}, {"weight": 72.5, "train": 3}, ()),
        ({}, {"weight": -1}, ()),
        ({}, {"weight": 0}, None),
        ({}, {"train": False, "weight": 1}, None),
        ({}, {"weight": 1, "train": "yes"}, ()),
        ({}, {"weight": None, "train": "a.jsonl"}, ()),
        ({}, {"loss": 2.31}, ()),
    ],
)
def test_each_flag_of_a_turn_and_of_its_row_counts(
    flags: dict[str, Any], row: dict[str, Any], weights: tuple[float, ...] | None
) -> None:
    record = {"messages": [ASK, {**REPLY, **flags}], **row}
    for each in (record, {"prompt": "Why?", "completion": "It floats.", **row} if not flags else record):
        parsed = parse_conversation(each)
        if weights is None:
            assert isinstance(parsed, Problem) and (parsed.reason, parsed.by_rule) == ("nothing_learnt", True)
        else:
            assert isinstance(parsed, ParsedConversation) and parsed.weights == weights
    unread = {name for name, value in row.items() if name == "loss" or value in ("a.jsonl", 72.5, 3, -1)}
    assert set(columns_not_used(record, "conversations")) == unread


def test_a_weight_beyond_the_bound_is_a_bad_row() -> None:
    problem = parse_conversation({"messages": [ASK, {**REPLY, "weight": 50, "loss": 3}]})
    assert isinstance(problem, Problem) and (problem.reason, problem.by_rule) == ("turn_weight", False)


def test_pairs_have_no_weights_and_the_column_is_named() -> None:
    for record in ({"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "completion": "b", "label": True}):
        assert columns_not_used({**record, "weight": 0.5}, "preferences") == ("weight",)
