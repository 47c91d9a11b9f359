"""Parsing of users' records into conversations: three formats, and a clear reason for what cannot be used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.dialogues.conversation_records import ParsedConversation, parse_conversation
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.record_formats import columns_not_used

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


@pytest.mark.parametrize("nothing", ["", " ", None])
def test_a_system_turn_that_says_nothing_is_none(nothing: str | None) -> None:
    for turn in ({"role": "system", "content": nothing}, {"from": "system", "value": nothing}):
        assert parse_conversation({"messages": [turn, *HELLO]}) == ParsedConversation(HELLO)
        assert parse_conversation({"messages": [turn, *HELLO], "system": "Be kind."}) == ParsedConversation(
            [SYSTEM, *HELLO]
        )


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
        ({"messages": [*HELLO, {"role": "narrator", "content": "3"}]}, "unknown_role", "the role 'narrator'"),
        ({"messages": [{"role": None, "content": "3"}]}, "unknown_role", "has the role None"),
        ({"messages": [HELLO[0], {"role": "assistant", "content": None}]}, "no_text", "turn 2 .* holds null"),
        ({"messages": [HELLO[0], "Hi!"]}, "no_turn", "turn 2 holds text"),
        ({"messages": '[{"role": "user", "cont'}, "no_turn", "column 'messages' holds text that begins as a list"),
        ({"turns": ["Name a bird.", "And another."]}, "no_turn", "turn 1 holds text"),  # two prompts, as MT-Bench has
        ({"prompt": "a", "response": float("nan")}, "no_reply", "column 'response' holds a number"),
        ({"messages": [*HELLO, {**HELLO[1], "weight": 0.5}]}, "turn_order", "turn 3 is the assistant's; expected"),
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


def turns(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        ({"instruction": "Add", "input": None, "output": "3"}, ["Add", "3"]),
        ({"instruction": "Add", "input": "<noinput>", "output": 3}, ["Add", "3"]),
        ({"instruction": "Who?", "context": "Ann came.", "response": "Ann."}, ["Who?\n\nAnn came.", "Ann."]),
        ({"system_prompt": "Be kind.", "question": "Who?", "response": "Ann."}, ["Be kind.", "Who?", "Ann."]),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
            ["s", "a", "b"],
        ),
        ({"conversation": [{"human": "a", "assistant": "b"}, {"human": "c", "assistant": "d"}]}, ["a", "b", "c", "d"]),
        ({"prompt": "a", "completion": turns("x", "b")[1:]}, ["a", "b"]),
        ({"prompt": turns("a"), "completion": turns("x", "b", "c", "d")[1:]}, ["a", "b", "c", "d"]),
        ({"messages": json.dumps(turns("a", "b"))}, ["a", "b"]),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}, *turns("", "c")[1:]]},
            ["a\nb", "c"],
        ),
        (
            {"contents": [{"role": "user", "parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}]},
            ["a", "b"],
        ),
        ({"prompt": "a", "completion": "b", "label": 1}, ["a", "b"]),
        ({"prompt": "a", "completion": "b", "thumbs": "up"}, ["a", "b"]),
        ({"messages": str(turns("What's up?", "b"))}, ["What's up?", "b"]),  # as pandas writes lists to a CSV
        (
            {"messages": "\n ".join(["[" + str(turns("a")[0]), str(turns("", "b")[1]) + "]"])},
            ["a", "b"],
        ),  # as numpy does
        ({"conversations": ["a", "b", "c", "d"], "source": "x"}, ["a", "b", "c", "d"]),  # LIMA
        ({"id": "7", "data": ["a", "b"]}, ["a", "b"]),  # UltraChat
        ({"conversation": [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]}, ["a", "b", "c", "d"]),
        ({"kind": "poem", "input": "a", "target": "b"}, ["a", "b"]),  # Firefly
        ({"指令": "翻译", "输入": "早", "输出": "Morning"}, ["翻译\n\n早", "Morning"]),
        ({"系统": "s", "问题": "a", "回答": "b"}, ["s", "a", "b"]),
        ({"对话": [{"role": "用户", "content": "a"}, {"role": "助手", "content": "b"}]}, ["a", "b"]),
        (
            {"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "completion": " d"},
            ["a", "b", "c", "d"],
        ),
        ({"system": [{"type": "text", "text": "s"}], "messages": turns("a", "b")}, ["s", "a", "b"]),
        ({"systemInstruction": {"parts": [{"text": "s"}]}, "contents": turns("a", "b")}, ["s", "a", "b"]),
        ({"question": "1 / 2?", "answer": 0.5}, ["1 / 2?", "0.5"]),
        ({"question": "Who?", "answer": ["Ann."]}, ["Who?", "Ann."]),
        (
            {"instruction": "Human:a\nAssistant:b\nHuman:c\nc\nAssistant:", "input": "", "output": "d"},
            ["a", "b", "c\nc", "d"],
        ),  # BELLE
        ({"id": "x", "items": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, ["a", "b"]),
        ({"chat_messages": [{"sender": "human", "text": "a"}, {"sender": "assistant", "text": "b"}]}, ["a", "b"]),
        ({"messages": [{"role": "human", "content": "a"}, {"role": "ai", "content": "b"}]}, ["a", "b"]),
        ({"对话": [{"角色": "人类", "内容": "a"}, {"角色": "机器人", "内容": "b"}]}, ["a", "b"]),
        ({"问": "a", "答": "b"}, ["a", "b"]),
        ({"Question": "a", "Complex_CoT": "t", "Response": "b"}, ["a", "<think>\nt\n</think>\n\nb"]),
        ({"question": "a", "answer": "<think>t</think> b", "cot": False}, ["a", "<think>t</think> b"]),
        ({"问题": "a", "思考过程": "t", "回答": "b"}, ["a", "<think>\nt\n</think>\n\nb"]),
        (
            {"conversation": [{"system": "s", "input": "a", "output": "b"}, {"input": "c", "output": "d"}]},
            ["s", "a", "b", "c", "d"],
        ),  # XTuner
        (
            {
                "conversation": [
                    {"system": "s", "input": "a", "output": "b"},
                    {"system": "s", "input": "c", "output": "d"},
                ]
            },
            ["s", "a", "b", "c", "d"],
        ),
        (
            {"system": "Be kind.", "messages": [{"role": "system", "content": "Be brief."}, *turns("a", "b")]},
            ["Be kind.\n\nBe brief.", "a", "b"],
        ),
        (
            {
                "system": "Be kind.",
                "messages": [{"role": "system", "content": "Be kind.\nBe brief."}, *turns("a", "b")],
            },
            ["Be kind.\nBe brief.", "a", "b"],
        ),
        (
            {"system": "Use tools", "messages": [{"role": "system", "content": "Do not Use tools"}, *turns("a", "b")]},
            ["Use tools\n\nDo not Use tools", "a", "b"],
        ),
        (
            {"system": "Be kind.", "messages": [{"role": "system", "content": "Kind."}, *turns("a", "b")]},
            ["Be kind.\n\nKind.", "a", "b"],
        ),
        (
            {
                "system": "s",
                "history": [{"role": "system", "content": "t"}, *turns("a", "b")],
                "prompt": [{"role": "system", "content": "u"}, *turns("c")],
                "completion": "d",
            },
            ["s\n\nt\n\nu", "a", "b", "c", "d"],
        ),
        ({"id": "seed_task_0", "instruction": "a", "instances": [{"input": "", "output": "b"}]}, ["a", "b"]),
        (
            {
                "instruction": "Add",
                "instances": [{"input": "1, 2", "output": "3"}, {"input": "2, 2", "output": 4}],
                "system": "s",
            },
            ["s", "Add\n\n1, 2", "3", "Add\n\n2, 2", "4"],
        ),
    ],
)
def test_published_spellings_give_their_turns(record: dict[str, Any], texts: list[str]) -> None:
    parsed = parse_conversation(record)
    assert isinstance(parsed, ParsedConversation), parsed
    assert [turn["content"] for turn in parsed.messages] == texts
    assert all(turn.keys() == {"role", "content"} for turn in parsed.messages)


@pytest.mark.parametrize(
    ("record", "reason", "by_rule"),
    [
        ({"prompt": "a", "completion": "b", "label": False}, "labelled_bad", True),
        ({"prompt": "a", "completion": "b", "label": "0"}, "labelled_bad", True),
        ({"prompt": "a", "completion": "b", "thumbs": "down"}, "labelled_bad", True),
        ({"messages": HELLO, "kto_tag": False}, "labelled_bad", True),
        ({"prompt": "a", "completion": "b", "thumbs_down": True}, "labelled_bad", True),
        ({"messages": HELLO, "is_good": False}, "labelled_bad", True),
        ({"messages": [HELLO[0], {"role": "tool", "content": "3"}, HELLO[1]]}, "turn_order", False),
        ({"messages": [{**HELLO[0], "tool_calls": [{"name": "tide"}]}, HELLO[1]]}, "tool_call", False),
        ({"messages": [HELLO[0], {"role": "assistant", "content": [{"type": "tool_use"}]}]}, "tools", True),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, HELLO[1]]}, "not_text", True),
        (
            {"image": "a.jpg", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            "not_text",
            True,
        ),
        ({"instruction": "Rank", "output": ["a", "b"]}, "list_of_replies", False),
        ({"prompt": "a", "response": None}, "no_reply", False),
        (
            {"instruction": "a", "instances": [{"input": "b", "output": "c"}, {"input": "d", "output": None}]},
            "no_reply",
            False,
        ),
        ({"instruction": "a", "instances": [{"output": "b"}], "label": False}, "labelled_bad", True),
        ({"instruction": "a", "instances": [{"output": "b"}], "thumbs_down": 1}, "labelled_bad", True),
        ({"instruction": "a", "instances": [{"output": "b"}], "image": "a.jpg"}, "not_text", True),
        ({"prompt": "a", "response": "half \ud83d"}, "half_a_character", False),
        ({"prompt": "a", "response": "<think>b"}, "half_a_thought", False),
        ({"prompt": "a", "response": "<think>`</think>`"}, "half_a_thought", False),
        ({"messages": [HELLO[0], {**HELLO[1], "weight": -0.5}]}, "turn_weight", False),
        ({"messages": [HELLO[0], {**HELLO[1], "weight": 1e40}]}, "turn_weight", False),
        ({"messages": [HELLO[0], {**HELLO[1], "weight": "some"}]}, "turn_weight", False),
        ({"conversations": [{"from": "gpt", "value": "b"}]}, "unprompted", True),
        ({"conversations": [{"from": "gpt", "value": "b"}], "system": "Be kind."}, "unprompted", True),
        ({"messages": [HELLO[1], HELLO[0]]}, "unprompted", True),
        ({"messages": [HELLO[0]]}, "no_reply", False),
        ({"messages": [HELLO[0], {**HELLO[1], "train": False}]}, "nothing_learnt", True),
        ({"messages": [HELLO[0], {**HELLO[1], "weight": 1e-50}]}, "nothing_learnt", True),  # 0 in float32
    ],
)
def test_rows_that_shall_not_be_learnt_have_a_reason(record: dict[str, Any], reason: str, by_rule: bool) -> None:
    problem = parse_conversation(record)
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.by_rule) == (reason, by_rule)


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}, {"loss": "false"}, {"label": 0}, {"weight": "0.0"}])
def test_turns_that_a_flag_leaves_out_are_context(flag: dict[str, Any]) -> None:
    first, second = turns("a", "b"), turns("c", "d")
    parsed = parse_conversation({"messages": [first[0], {**first[1], **flag}, *second]})
    assert parsed == ParsedConversation([*first, *second], not_learnt=(1,))
    in_sharegpt = [{"from": each["role"], "value": each["content"]} for each in (*first, *second)]
    assert (
        parse_conversation({"conversations": [in_sharegpt[0], {**in_sharegpt[1], **flag}, *in_sharegpt[2:]]}) == parsed
    )
    # Nothing after the last turn that is learnt can be learnt.
    parsed = parse_conversation({"messages": [*first, second[0], {**second[1], **flag}]})
    assert parsed == ParsedConversation(first, num_cut=2)


def test_weights_of_turns_are_kept() -> None:
    said = [{"from": each["role"], "value": each["content"]} for each in turns("a", "b", "c", "d", "e", "f")]
    flags: list[Any] = [{}, {"weight": "0.5"}, {}, {"train": False}, {}, {"loss": 2}]
    parsed = parse_conversation({"conversations": [turn | flag for turn, flag in zip(said, flags, strict=True)]})
    expected = turns("a", "b", "c", "d", "e", "f")
    assert parsed == ParsedConversation(expected, not_learnt=(3,), weights=(0.5, 0, 2))
    parsed = parse_conversation({"turns": [{"prompt": "a", "response": "b", "weight": 0.7}]})
    assert parsed == ParsedConversation(turns("a", "b"), weights=(0.7,))


def test_the_weight_of_a_turn_that_is_context_does_not_matter() -> None:
    context = {"role": "assistant", "content": "b", "weight": 0.5}
    record = {"prompt": [*turns("a"), context, *turns("c")], "completion": [{"role": "assistant", "content": "d"}]}
    assert parse_conversation(record) == ParsedConversation(turns("a", "b", "c", "d"), not_learnt=(1,))
    user = {"messages": [{**HELLO[0], "weight": 0.5}, HELLO[1]]}
    assert parse_conversation(user) == ParsedConversation(HELLO)
    assert columns_not_used({"messages": [{**HELLO[0], "weight": "some"}, HELLO[1]]}, "conversations") == (
        "messages.weight",
    )


@pytest.mark.parametrize(
    "first",
    [
        [{"from": "gpt", "value": "Hello!"}],
        [{"from": "system", "value": "Be kind."}, {"from": "gpt", "value": "Hello!"}],
        [{"from": "gpt", "value": "Hello!"}, {"from": "gpt", "value": "Still there?"}],
        [{"from": "function_call", "value": '{"name": "t", "arguments": {}}'}, {"from": "observation", "value": "6"}],
        [{"from": "observation", "value": "6"}, {"from": "gpt", "value": "At six."}],
    ],
    ids=["greeting", "after_system", "two", "call", "result"],
)  # fmt: skip
def test_turns_before_the_first_of_the_user_are_left_out(first: list[dict[str, Any]]) -> None:
    """As raw dumps of ShareGPT have them, whose long chats are cut into several."""
    said = turns("a", "b", "c", "d")
    rest: list[dict[str, Any]] = [{"from": each["role"], "value": each["content"]} for each in said]
    rest[1]["weight"] = 0
    system = [{"role": "system", "content": "Be kind."}] if first[0]["from"] == "system" else []
    parsed = parse_conversation({"conversations": [*first, *rest]})
    num_cut = len(first) - len(system)
    assert parsed == ParsedConversation([*system, *said], not_learnt=(len(system) + 1,), num_cut_before=num_cut)


def test_what_stands_beside_an_exchange_belongs_to_its_reply() -> None:
    record = {"conversation": [{"human": "a", "assistant": "b", "weight": 0},
                               {"human": "c", "assistant": "d", "reasoning": "e"}]}  # fmt: skip
    for flag in ({"weight": 0}, {"output_with_loss": False}):
        parsed = parse_conversation({"conversation": [{"input": "a", "output": "b", **flag}, *turns("c", "d")]})
        assert parsed == ParsedConversation(turns("a", "b", "c", "d"), not_learnt=(1,))
    parsed = parse_conversation(record)
    assert parsed == ParsedConversation(turns("a", "b", "c", "<think>\ne\n</think>\n\nd"), not_learnt=(1,))
    parsed = parse_conversation({"conversation": [{"human": "a", "assistant": "", "text": "c"}]})
    assert isinstance(parsed, Problem)
    assert parsed.reason == "empty_turn"


@pytest.mark.parametrize(
    "prompt",
    [
        "Human: a short history of a species",
        "Human: hi\n\nAssistant: Sure, the answer is",
        "Human: hi\nAssistant: Sure, the answer is",
        "Human: a line\nHuman: and another",
    ],
)
def test_a_text_that_only_begins_as_a_transcript_is_the_users(prompt: str) -> None:
    assert parse_conversation({"prompt": prompt, "response": "b"}) == ParsedConversation(turns(prompt, "b"))


def test_a_prompt_of_turns_is_context() -> None:
    parsed = parse_conversation({"messages": turns("a", "b", "c"), "system": "s", "response": "d"})
    system = {"role": "system", "content": "s"}
    assert parsed == ParsedConversation([system, *turns("a", "b", "c", "d")], not_learnt=(2,))
    parsed = parse_conversation({"prompt": turns("a", "b", "c"), "completion": turns("", "d")[1:]})
    assert parsed == ParsedConversation(turns("a", "b", "c", "d"), not_learnt=(1,))


FUNCTION = {"name": "tide", "description": "High water", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}


@pytest.mark.parametrize(
    "tools", [[TOOL], json.dumps([TOOL]), [FUNCTION], json.dumps([FUNCTION]), [{**TOOL, "strict": None}]]
)
def test_tools_beside_turns_are_kept_in_the_form_of_openais_api(tools: Any) -> None:
    for record in ({"messages": HELLO}, {"prompt": "Hello", "response": "Hi!"}):
        parsed = parse_conversation({**record, "tools": tools})
        assert isinstance(parsed, ParsedConversation) and parsed.messages == HELLO
        assert json.loads(parsed.tools) == [TOOL]
        assert columns_not_used({**record, "tools": tools}, "conversations") == ()


@pytest.mark.parametrize("tools", ["x", "[{", [], None, [{"type": "function"}], [TOOL, 7], {"tide": TOOL}])
def test_what_is_no_list_of_tools_is_not_used(tools: Any) -> None:
    record = {"messages": HELLO, "tools": tools}
    assert parse_conversation(record) == ParsedConversation(HELLO)
    assert columns_not_used(record, "conversations") == (("tools",) if tools else ())


def test_ratings_below_the_bound_are_set_aside() -> None:
    record = {"prompt": "a", "response": "b", "rating": 2}
    assert isinstance(parse_conversation(record), ParsedConversation)
    assert isinstance(parse_conversation(record, min_rating=2), ParsedConversation)
    problem = parse_conversation(record, min_rating=3)
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.text) == ("labelled_bad", "its rating is 2; min_rating is 3")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_real_instructions_are_parsed(data_dir: Path, language: str) -> None:
    with gzip.open(data_dir / f"instruct_{language}.jsonl.gz") as lines:
        parsed = [parse_conversation(json.loads(line)) for _, line in zip(range(2000), lines, strict=False)]
    assert len(parsed) == 2000
    assert all(isinstance(each, ParsedConversation) for each in parsed)
