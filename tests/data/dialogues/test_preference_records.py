"""Parsing of users' records into preference pairs: the formats in use, and a clear reason for what is no pair."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.dialogues.preference_records import ParsedPreferences, parse_preferences
from pipelines.data.dialogues.rated_replies import ParsedPair, RatedReply
from pipelines.data.sources.bad_rows import Problem

PROMPT = [{"role": "user", "content": "Why?"}]
SYSTEM = {"role": "system", "content": "Be kind."}


def turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def from_value(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


def parse_pair(record: dict[str, Any]) -> ParsedPair | Problem:
    """The one pair of a record."""
    parsed = parse_preferences(record)
    if isinstance(parsed, Problem):
        return parsed
    (pair,) = parsed.pairs
    return pair


GOOD, BAD = turn("assistant", "Because."), turn("assistant", "No.")


@pytest.mark.parametrize(
    "record",
    [
        {"chosen": [turn("assistant", "Hi!"), *PROMPT, GOOD], "rejected": [turn("assistant", "Hi!"), *PROMPT, BAD]},
        {"conversations": [from_value("gpt", "Hi!"), from_value("human", "Why?")],
         "chosen": from_value("gpt", "Because."), "rejected": from_value("gpt", "No.")},
        {"prompt": [turn("assistant", "Hi!"), *PROMPT], "responses": ["Because.", "No."], "scores": [2, 1]},
    ],
    ids=["dialogues", "sharegpt", "rated"],
)  # fmt: skip
def test_turns_before_the_first_of_the_user_are_left_out(record: dict[str, Any]) -> None:
    parsed = parse_preferences(record)
    assert isinstance(parsed, ParsedPreferences) and parsed.num_cut_before == 1
    (pair,) = parsed.pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (PROMPT, "Because.", "No.")


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
        {"question": "Why?", "chosen": "Because. ", "rejected": "No."},
        {"instruction": "Why?", "input": "", "chosen": "Because.", "rejected": "No."},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
        {"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": " Because.", "rejected": " No."},
        {
            "chosen": [*PROMPT, turn("assistant", "Because.")],
            "rejected": [*PROMPT, turn("assistant", "No.")],
            "history": "session 12",
            "items": "3",
            "chat": "a7",
        },
        {"messages": PROMPT[0], "chosen": "Because.", "rejected": "No."},
        {"chosen": "\r\n\r\nHuman: Why?\r\n\r\nAssistant: Because.", "rejected": "Human: Why?\r\n\r\nAssistant: No."},
        {"chosen": " \nHuman： Why?\n\nAssistant： Because.", "rejected": "\nHuman: Why?\n\nAssistant: No."},
        {"chosen": "Human: Why?\nAssistant: Because.", "rejected": "Human: Why?\nAssistant: No."},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "Human: Why?\n\nAssistant: No.", "turns": 1},
        {"chosen": str([*PROMPT, GOOD]), "rejected": str([*PROMPT, BAD])},
        {"chosen": [*PROMPT, GOOD], "rejected": [*PROMPT, BAD]},
        {"prompt": PROMPT, "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Why?", "chosen": [*PROMPT, GOOD], "rejected": [*PROMPT, BAD]},  # the prompt twice
        {"messages": PROMPT, "chosen": GOOD, "rejected": BAD},
        {
            "conversations": [from_value("human", "Why?")],
            "chosen": from_value("gpt", "Because."),
            "rejected": from_value("gpt", "No."),
        },
        {"history": "Why?", "human_ref_A": "No.", "human_ref_B": "Because.", "labels": 0, "score_A": 2, "score_B": 5},
        {"question": "Why?", "answer_0": "Because.", "answer_1": "No.", "score_0": 0.5, "score_1": -0.5},
        {"prompt": "Why?", "response_1": "Because.", "response_2": "No.", "preference_strength": -2},
        {"context": PROMPT, "response1": "No.", "response2": "Because.", "overall_preference": 1},
        {
            "question": "Why?",
            "answers": [{"text": "No.", "pm_score": 1}, {"text": "Because.", "pm_score": 3, "selected": True}],
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


DIALOGUES = {"chosen": [*PROMPT, GOOD], "rejected": [*PROMPT, BAD]}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"prompt": "Why?", "context": "It rains.", "history": [["Hi", "Ho"]]},
         [turn("user", "Hi"), turn("assistant", "Ho"), turn("user", "Why?\n\nIt rains.")]),
        ({"prompt": "Why?", "history": [["Hi", "Ho"]]}, [turn("user", "Hi"), turn("assistant", "Ho"), *PROMPT]),
        ({"prompt": None, "history": [["Hi", "Ho"]]}, [turn("user", "Hi"), turn("assistant", "Ho"), *PROMPT]),
        ({"prompt": "", "context": "It rains."}, [turn("user", "Why?\n\nIt rains.")]),
        ({"prompt": "Why?", "system": "Be kind."}, [SYSTEM, *PROMPT]),
        ({"prompt": [SYSTEM, *PROMPT]}, [SYSTEM, *PROMPT]),
        ({"prompt": "\n\nHuman: Why?\n\nAssistant:", "system": "Be kind."}, [SYSTEM, *PROMPT]),
        ({"prompt": "Human: Why?"}, PROMPT),
        ({"prompt": "\n\nHuman: Why?\n\nAssistant: Because."}, PROMPT),
        ({"messages": [*PROMPT, GOOD]}, PROMPT),
    ],
)  # fmt: skip
def test_columns_beside_whole_dialogues_are_added(columns: dict[str, Any], expected: list[dict[str, str]]) -> None:
    assert parse_pair({**columns, **DIALOGUES}) == ParsedPair(expected, "Because.", "No.")


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": "Why?", "system": "Be brief."},
        {"system": "Be brief."},
        {"prompt": [turn("system", "Be brief."), *PROMPT]},
    ],
)
def test_systems_of_columns_and_of_sides_are_joined(columns: dict[str, Any]) -> None:
    pair = parse_pair({**columns, "chosen": [SYSTEM, *PROMPT, GOOD], "rejected": [SYSTEM, *PROMPT, BAD]})
    assert pair == ParsedPair([turn("system", "Be brief.\n\nBe kind."), *PROMPT], "Because.", "No.")


def test_what_whole_dialogues_say_already_is_not_added_again() -> None:
    turns = [SYSTEM, turn("user", "Hi"), turn("assistant", "Ho"), turn("user", "It rains.\nWhy?")]
    sides = {"chosen": [*turns, GOOD], "rejected": [*turns, BAD]}
    columns = {"system": "Be kind.", "prompt": "Why?", "context": "It rains.", "history": [["Hi", "Ho"]]}
    for record in (columns, {"prompt": "Hi"}, {"prompt": turns}, {"prompt": "It rains. Why?"}):
        assert parse_pair({**record, **sides}) == ParsedPair(turns, "Because.", "No.")
    alone = {"prompt": "Why?", "chosen": [SYSTEM, GOOD], "rejected": [SYSTEM, BAD]}
    assert parse_pair(alone) == ParsedPair([SYSTEM, *PROMPT], "Because.", "No.")


def test_what_whole_dialogues_only_seem_to_say_is_added() -> None:
    turns = [SYSTEM, turn("user", "Answer in 15 words.\nWhy?")]
    columns = {"system": "kind", "prompt": "Why?", "context": "5"}
    pair = parse_pair({**columns, "chosen": [*turns, GOOD], "rejected": [*turns, BAD]})
    expected = [turn("system", "kind\n\nBe kind."), turn("user", "Answer in 15 words.\nWhy?\n\n5")]
    assert pair == ParsedPair(expected, "Because.", "No.")


@pytest.mark.parametrize("verdict", [{"label": True}, {"rating": 4}])
def test_several_exchanges_of_an_instruction_have_no_rating(verdict: dict[str, Any]) -> None:
    problem = parse_preferences({"instruction": "Do", "instances": [{"input": "1", "output": "3"}], **verdict})
    assert isinstance(problem, Problem)
    assert problem.reason == "not_a_pair"


def test_a_prompt_of_one_text_follows_its_system_and_history() -> None:
    record = {"system": "Be kind.", "prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": "Because.", "rejected": "No."}
    assert parse_pair(record) == ParsedPair([SYSTEM, *PROMPT], "Because.", "No.")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"prompt": "How?"}, "sides_apart"),
        ({"prompt": "Why?", "context": ["It rains."]}, "no_text"),
    ],
)
def test_columns_that_contradict_the_sides_are_problems(columns: dict[str, Any], reason: str) -> None:
    problem = parse_pair({**columns, "chosen": [SYSTEM, *PROMPT, GOOD], "rejected": [SYSTEM, *PROMPT, BAD]})
    assert isinstance(problem, Problem) and problem.reason == reason


def hh(*turns: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[n % 2]}: {turn}" for n, turn in enumerate(turns))


def test_thoughts_in_transcripts_are_kept_or_removed() -> None:
    record = {"chosen": hh("Why?", "<think>t</think>Because."), "rejected": hh("Why?", "No.")}
    assert pairs(record) == [("<think>t</think>Because.", "No.")]
    assert pairs(record, keep_thoughts=False) == [("Because.", "No.")]
    problem = parse_pair({**record, "rejected": hh("Why?", "<think>No.")})
    assert isinstance(problem, Problem) and problem.reason == "half_a_thought"


@pytest.mark.parametrize(
    ("record", "reason", "message"),
    [
        ({"prompt": "Why?", "chosen": "No.", "rejected": " No."}, "equal_sides", "say the same"),
        ({"chosen": hh("Why?", "No."), "rejected": hh("Why?", "No.")}, "equal_sides", "say the same"),
        ({"chosen": hh("Why?", "A", "B?", "C"), "rejected": hh("Why?", "D", "B?", "E")}, "sides_apart", "before"),
        ({"chosen": hh("Why?"), "rejected": hh("How?")}, "no_prompt", "no prompt; expected"),
        ({"chosen": "Because.", "rejected": "No."}, "no_prompt", "no prompt; expected"),
        ({"prompt": [{"role": "system", "content": "Hm."}], "chosen": "a", "rejected": "b"}, "no_prompt", "user's"),
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


def pairs(record: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
    parsed = parse_preferences(record, **options)
    assert isinstance(parsed, ParsedPreferences), parsed
    return [(pair.chosen, pair.rejected) for pair in parsed.pairs]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"prompt": "Why?", "chosen": "Because.", "rejected": ["No.", "Go!"]},
            [("Because.", "No."), ("Because.", "Go!")],
        ),
        (
            {"prompt": "Why?", "responses": ["a", "b", "c"], "rank": [2, 3, 1]},
            [("c", "b"), ("c", "a"), ("a", "b")],
        ),
        ({"prompt": "Why?", "answers": ["a", "b"], "scores": ["1.5", 4]}, [("b", "a")]),
        (
            {
                "instruction": "Why?",
                "completions": [{"response": "a", "overall_score": 5}, {"response": "b", "overall_score": 8}],
            },
            [("b", "a")],
        ),
        ({"question": "Why?", "response_j": "a", "response_k": "b"}, [("a", "b")]),
        ({"prompt": "Why?", "response_0": "a", "response_1": "b", "better_response_id": 1}, [("b", "a")]),
        ({"prompt": "Why?", "response_0": "a", "response_1": "b", "better_response_id": 1.0}, [("b", "a")]),
        ({"prompt": "Why?", "response_0": "a", "response_1": "b", "better_response_id": "0.0"}, [("a", "b")]),
        (
            {"prompt": "Why?", "responses": [{**from_value("gpt", each), "score": len(each)} for each in ("a", "bc")]},
            [("bc", "a")],
        ),
        (
            {"conversation_a": [*PROMPT, GOOD], "conversation_b": [*PROMPT, BAD], "winner": "model_b"},
            [("No.", "Because.")],
        ),
        ({"prompt": "Why?", "response1": "a", "response2": "b", "winner": "response1"}, [("a", "b")]),
        ({"instruction": "Why?", "input": "", "response1": "a", "response2": "b", "label": 2}, [("b", "a")]),
        ({"instruction": "Why?", "response1": "a", "response2": "b", "label": "1"}, [("a", "b")]),
        ({"prompt": "Why?", "response_0": "a", "response_1": "b", "label": 0}, [("a", "b")]),
        (
            {"prompt": "Why?", "response_1": "a", "response_2": "b", "score_0": 9, "score_1": 2, "score_2": 5},
            [("b", "a")],
        ),
        (
            {"input": {"messages": PROMPT}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
            [("Because.", "No.")],
        ),
    ],
)
def test_several_replies_give_a_pair_for_each_difference(
    record: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert pairs(record) == expected


def test_pairs_of_a_row_are_limited() -> None:
    record = {"prompt": "Why?", "responses": list("abcd"), "scores": [1, 2, 3, 9]}
    parsed = parse_preferences(record, max_pairs=2)
    assert isinstance(parsed, ParsedPreferences)
    assert [(pair.chosen, pair.rejected) for pair in parsed.pairs] == [("d", "a"), ("d", "b")]
    assert parsed.num_beyond == 4


def test_the_pairs_of_many_lists_are_limited_before_they_are_made() -> None:
    record = {"prompt": "Why?", "chosen": [f"good {n}" for n in range(2000)], "rejected": list(map(str, range(2000)))}
    parsed = parse_preferences(record, max_pairs=3)
    assert isinstance(parsed, ParsedPreferences)
    assert [(pair.chosen, pair.rejected) for pair in parsed.pairs] == [("good 0", str(n)) for n in range(3)]
    assert parsed.num_beyond == 2000 * 2000 - 3
    for text, reason in (("1999.", "equal_sides"), ("", "no_text"), ("<think>x", "half_a_thought")):
        problem = parse_preferences({**record, "chosen": [*record["chosen"], text]}, max_pairs=3)
        assert isinstance(problem, Problem) and problem.reason == reason


@pytest.mark.parametrize(
    ("record", "reason", "by_rule"),
    [
        (
            {"prompt": "Why?", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2},
            "scores_disagree",
            True,
        ),
        ({"prompt": "Why?", "responses": ["a", "b"], "scores": [1, 1]}, "tied", True),
        ({"prompt": "Why?", "response_a": "a", "response_b": "b", "winner": "tie"}, "tied", True),
        ({"prompt": "Why?", "response_a": "a", "response_b": "b", "winner": "leftmost"}, "unknown_winner", False),
        ({"prompt": "Why?", "response_1": "a", "response_2": "b", "preference_strength": 0}, "tied", True),
        ({"prompt": "Why?", "answer_0": "a", "answer_1": "b", "score_0": 1, "score_1": None}, "unknown_winner", False),
        ({"system": "Be kind.", "responses": ["a", "b"], "scores": [1, 2]}, "not_a_pair", False),
        ({"prompt": "Why?", "responses": ["a", "b"], "scores": [1, "N/A"]}, "too_few_replies", False),
        ({"prompt": "Why?", "chosen": "a", "rejected": "\ud83d"}, "half_a_character", False),
        ({"prompt": "Why?", "chosen": "<think>a", "rejected": "b"}, "half_a_thought", False),
        ({"prompt": "Why?", "chosen": "a", "rejected": "b", "images": ["x.png"]}, "not_text", True),
        ({"instruction": "Rank", "output": ["a", "b", "c"]}, "not_a_pair", False),
    ],
)
def test_rows_without_a_preference_have_a_reason(record: dict[str, Any], reason: str, by_rule: bool) -> None:
    problem = parse_preferences(record)
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.by_rule) == (reason, by_rule)


def test_a_labelled_reply_is_read_with_its_label() -> None:
    parsed = parse_preferences({"prompt": "Why?", "completion": [BAD], "label": False})
    assert isinstance(parsed, ParsedPreferences)
    assert parsed.rated == RatedReply(PROMPT, "No.", 0)
    parsed = parse_preferences({"messages": [*PROMPT, GOOD], "score": 7.5})
    assert isinstance(parsed, ParsedPreferences)
    assert parsed.rated == RatedReply(PROMPT, "Because.", 7.5)


@pytest.mark.parametrize(("name", "min_fraction"), [("hh_en", 0.99), ("dpo_en", 1), ("dpo_zh", 1)])
def test_real_pairs_are_parsed(data_dir: Path, name: str, min_fraction: float) -> None:
    with gzip.open(data_dir / f"preference_{name}.jsonl.gz") as lines:
        parsed = [parse_pair(json.loads(line)) for line in lines]
    reasons = Counter(each.reason for each in parsed if isinstance(each, Problem))
    assert 1 - reasons.total() / len(parsed) >= min_fraction, reasons


# ---- calls of tools --------------------------------------------------------------------------------------------------

CALL = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Wick"}}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOOLS = [{"type": "function", "function": {"name": "tide"}}]
RESULT = turn("tool", "6")


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Why?", "chosen": [CALLING], "rejected": "No."},
        {"chosen": [*PROMPT, CALLING], "rejected": [*PROMPT, BAD]},
        {"prompt": PROMPT, "chosen": {"from": "function_call", "value": json.dumps(CALL)}, "rejected": BAD},
        {"prompt": "Why?", "response_0": "No.", "response_1": [CALLING], "better_response_id": 1},
        {"prompt": "Why?", "completions": [{"response": "No.", "rating": 1}, {"response": [CALLING], "rating": 2}]},
    ],
)
def test_a_reply_may_call_a_tool(record: dict[str, Any]) -> None:
    expected = ParsedPair(PROMPT, "", "No.", json.dumps([CALL]), "", json.dumps(TOOLS))
    assert parse_pair({**record, "tools": TOOLS}) == expected


def test_replies_with_different_calls_are_a_pair_and_with_equal_ones_none() -> None:
    other = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Oban"}}}
    pair = parse_pair({"prompt": "Why?", "chosen": [CALLING], "rejected": [{**CALLING, "tool_calls": [other]}]})
    assert pair == ParsedPair(PROMPT, "", "", json.dumps([CALL]), json.dumps([other]))
    problem = parse_pair({"prompt": "Why?", "chosen": [CALLING], "rejected": [CALLING]})
    assert isinstance(problem, Problem) and problem.reason == "equal_sides"


def test_a_prompt_may_end_with_the_result_of_a_call() -> None:
    calling = {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])}
    expected = ParsedPair([*PROMPT, calling, {**RESULT, "name": "tide"}], "Because.", "No.")
    turns = [*PROMPT, CALLING, RESULT]
    for end in range(4):  # of the prompt's column; the sides hold the rest
        sides = {"chosen": [*turns[end:], GOOD], "rejected": [*turns[end:], BAD]}
        assert parse_pair(sides | ({"prompt": turns[:end]} if end else {})) == expected


def test_a_labelled_reply_keeps_its_tools() -> None:
    parsed = parse_preferences({"prompt": PROMPT, "completion": [CALLING], "label": True, "tools": TOOLS})
    assert isinstance(parsed, ParsedPreferences)
    assert parsed.rated == RatedReply(PROMPT, "", 1.0, json.dumps([CALL]), json.dumps(TOOLS))
