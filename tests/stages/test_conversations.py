"""The stage `conversations`: the splits that it makes of users' files and of the built-in tasks."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.data.dialogues import conversations
from pipelines.errors import UserError
from pipelines.stages import STAGES
from tests.stages.single import Made, jsonl, make, prompts, talk


def test_builtin_tasks_alone(tmp_path: Path) -> None:
    made = make("conversations", tmp_path, rows_per_task=100)
    train, held_out = (conversations.read(made.out / name) for name in (conversations.TRAIN, conversations.HELD_OUT))
    assert made.facts["conversations/train"] == len(train)
    assert made.facts["conversations/held_out"] == len(held_out) >= 400
    assert made.facts["conversations/train_reading_en"] == made.facts["conversations/train_reading_zh"] == 100
    assert made.facts["conversations/held_out_choosing_zh"] == 64
    assert made.facts["conversations/rejected"] == 0 and made.rejected == []
    assert not prompts(train) & prompts(held_out)
    assert all(each.messages[-1]["role"] == "assistant" and each.wrong for each in held_out if each.answer)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    jsonl(tmp_path / "mine.jsonl", [talk(f"Question {n}?", f"Answer {n}.") for n in range(50)])
    files = {"mine": {"path": "mine.jsonl"}}
    first, same, other = (
        make("conversations", tmp_path, seed=seed, rows_per_task=40, files=files) for seed in (7, 7, 8)
    )
    assert first.digests == same.digests
    assert first.digests != other.digests


def test_users_rows_are_split_by_prompt_however_it_is_spelled(tmp_path: Path) -> None:
    spellings = ("what is {}?", "What is {}?", "WHAT IS {}", " what  is {} ?")
    rows = [talk(spelling.format(n), f"It is {k}.") for n in range(60) for k, spelling in enumerate(spellings)]
    rows += [talk(f"{n}是什么？", "是数字。") for n in range(60)] + [rows[0]]
    jsonl(tmp_path / "mine.jsonl", rows)
    files = {"mine": {"path": "mine.jsonl", "language": "auto"}}
    made = make("conversations", tmp_path, builtin_tasks=False, held_out=0.2, files=files)
    train, held_out = (conversations.read(made.out / name) for name in (conversations.TRAIN, conversations.HELD_OUT))
    assert not prompts(train) & prompts(held_out)
    assert len(train) + len(held_out) == 300
    assert made.facts["conversations/dropped_duplicate"] == made.facts["rows/not_used_duplicate"] == 1
    assert (made.facts["rows/read"], made.facts["rows/used"]) == (301, 300)
    assert {(each.language, each.task, each.source) for each in held_out} == {
        ("en", "open", "mine"),
        ("zh", "open", "mine"),
    }
    assert made.facts["conversations/held_out_open_zh"] == 12
    assert made.facts["conversations/held_out_open_en"] == pytest.approx(48, abs=4)
    few = make("conversations", tmp_path, builtin_tasks=False, held_out=0.2, max_held_out=8, files=files)
    assert few.facts["conversations/held_out_open_zh"] == 8


def test_a_prompt_of_a_builtin_task_stays_on_its_side(tmp_path: Path) -> None:
    first = make("conversations", tmp_path, rows_per_task=40)
    train, held_out = (conversations.read(first.out / name) for name in (conversations.TRAIN, conversations.HELD_OUT))
    texts = [each.prompt[0]["content"].upper() for each in (train[0], held_out[0])]
    jsonl(
        tmp_path / "mine.jsonl", [talk(text, "Mine.") for text in texts] + [talk(f"{n}?", "Mine.") for n in range(20)]
    )
    made = make("conversations", tmp_path, builtin_tasks=True, rows_per_task=40, files={"mine": {"path": "mine.jsonl"}})
    train_texts, held_out_texts = (
        [each.prompt[0]["content"] for each in conversations.read(made.out / name) if each.source == "mine"]
        for name in (conversations.TRAIN, conversations.HELD_OUT)
    )
    assert texts[0] in train_texts and texts[1] in held_out_texts


BAD = [
    talk("a", "b"),
    "{not json",
    talk("c", ""),
    {"messages": [{"role": "user", "content": "d"}]},
    {"messages": [{"role": "user", "content": "e"}, {"role": "narrator", "content": "f"}]},
    {"title": "g"},
    {"messages": [{"role": role, "content": "h"} for role in ("user", "assistant", "user")]},
]


def test_bad_rows_are_counted_kept_and_reported(tmp_path: Path) -> None:
    jsonl(tmp_path / "mine.jsonl", BAD)
    options = {"builtin_tasks": False, "held_out": 0, "max_bad_rows": 100}
    made = make("conversations", tmp_path, **options, files={"mine": {"path": "mine.jsonl"}})
    assert made.facts["conversations/train"] == 2
    assert made.facts["turns/cut"] == 1
    assert made.facts["conversations/rejected"] == 5
    reasons = ("unreadable", "empty_turn", "no_reply", "unknown_role", "not_a_conversation")
    assert [made.facts[f"conversations/rejected_{reason}"] for reason in reasons] == [1] * 5
    assert [made.facts[f"rows/not_used_{reason}"] for reason in reasons] == [1] * 5
    assert (made.facts["rows/read"], made.facts["rows/used"]) == (7, 2)
    assert [(row["row"], row["reason"]) for row in made.rejected] == list(zip(range(2, 7), reasons, strict=True))
    assert made.rejected[1]["where"] == "mine.jsonl" and "turn 2" in made.rejected[1]["problem"]
    assert "'instruction': 'c'" in made.rejected[1]["raw"]


def test_a_dump_whose_rows_begin_with_the_assistants_turn_is_learnt(tmp_path: Path) -> None:
    """Half of the rows are the later parts of chats that were cut, as in raw ShareGPT; one has nothing else."""
    values = [
        {"conversations": [{"from": "gpt", "value": "As I said."}] * (number % 2)
                          + [{"from": "human", "value": f"What is {number} + {number}?"},
                             {"from": "gpt", "value": f"It is {2 * number}."}]}
        for number in range(40)
    ]  # fmt: skip
    jsonl(tmp_path / "mine.jsonl", [*values, {"conversations": [{"from": "gpt", "value": "As I said."}]}])
    made = make("conversations", tmp_path, builtin_tasks=False, held_out=0, near_duplicates=None,
                files={"mine": {"path": "mine.jsonl"}})  # fmt: skip
    assert (made.facts["rows/used"], made.facts["turns/cut_before"]) == (40, 20)
    assert made.facts["rows/not_used_unprompted"] == 1 and made.facts["conversations/train"] == 40


def test_too_many_bad_rows_stop_the_stage_and_name_the_first(tmp_path: Path) -> None:
    jsonl(tmp_path / "mine.jsonl", BAD)
    message = r"^mine.jsonl:2: not JSON .*first of 3 bad rows .* max_bad_rows allows 2: .* of the conversations; they"
    with pytest.raises(UserError, match=message):
        make("conversations", tmp_path, max_bad_rows=2, files={"mine": {"path": "mine.jsonl"}})


def test_no_conversations_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no conversations; the recipe has no sources .* and builtin_tasks is false"):
        make("conversations", tmp_path, builtin_tasks=False)


def read_train(made: Made) -> list[conversations.Conversation]:
    return conversations.read(made.out / conversations.TRAIN)


def make_of(tmp_path: Path, rows: list[Any], **options: Any) -> Made:
    """Conversations of these rows alone, none held out."""
    jsonl(tmp_path / "mine.jsonl", rows)
    source = {"path": "mine.jsonl", **options.pop("source", {})}
    options = {"builtin_tasks": False, "held_out": 0, "max_bad_rows": 100, **options}
    return make("conversations", tmp_path, **options, files={"mine": source})


def test_replies_labelled_bad_are_set_aside_and_are_no_bad_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "completion": f"{n}.", "label": n % 2 == 0} for n in range(6)]
    made = make_of(tmp_path, rows, max_bad_rows=0)
    assert [each.reply for each in read_train(made)] == ["0.", "2.", "4."]
    assert made.facts["rows/not_used_labelled_bad"] == made.facts["conversations/rejected"] == 3
    assert [row["row"] for row in made.rejected] == [2, 4, 6]
    with pytest.raises(UserError, match=r"no conversations; all rows .* were set aside \(3 labelled_bad\), see"):
        make_of(tmp_path, rows[1::2])


def test_columns_that_are_not_used_are_named_with_their_rows(tmp_path: Path) -> None:
    rows = [{**talk(f"{n}?", f"{n}."), "id": n, "topic": "a", "refusal": "x" if n == 3 else ""} for n in range(5)]
    made = make_of(tmp_path, [*rows, {**talk("", ""), "other": 1}], source={"group": None})
    assert made.facts["rows/columns_not_used"] == "id (5 rows), topic (5 rows), refusal (1 row)"
    assert made.notes == ["columns not used: id (5 rows), topic (5 rows), refusal (1 row)"]


def test_tools_are_kept_with_their_conversation(tmp_path: Path) -> None:
    tool = {"name": "tide", "parameters": {"type": "object"}}
    call = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Wick"}}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    user, reply = {"role": "user", "content": "When?"}, {"role": "assistant", "content": "At six."}
    rows: list[dict[str, Any]] = [
        talk("When?", "At six."),
        {**talk("When?", "At six."), "tools": json.dumps([tool])},
        {"messages": [user, calling, {"role": "tool", "content": "6"}, reply]},
    ]
    made = make_of(tmp_path, [*rows, rows[1]])
    (without, with_tool, with_call) = read_train(made)  # the same turns with other tools are another row
    assert without.tools == "" and json.loads(with_tool.tools) == [{"type": "function", "function": tool}]
    assert [turn.get("tool_calls") for turn in with_call.messages] == [None, json.dumps([call]), None, None]
    assert made.facts["rows/not_used_duplicate"] == 1 and "rows/columns_not_used" not in made.facts
    table = pq.read_table(made.out / conversations.TRAIN).drop_columns("tools")  # of an earlier version
    pq.write_table(table, tmp_path / "old.parquet")
    assert [each.tools for each in conversations.read(tmp_path / "old.parquet")] == ["", "", ""]


def test_columns_can_be_named_by_hand(tmp_path: Path) -> None:
    rows = [{"frage": f"{n}?", "daten": {"antwort": f"{n}."}, "system": "Be kind."} for n in range(2)]
    made = make_of(tmp_path, rows, source={"columns": {"prompt": "frage", "reply": "daten.antwort"}})
    assert [[turn["content"] for turn in each.messages] for each in read_train(made)] == [["0?", "0."], ["1?", "1."]]
    assert made.facts["rows/columns_not_used"] == "system (not in columns) (2 rows)"
    with pytest.raises(ValueError, match="answer"):
        make_of(tmp_path, rows, source={"columns": {"answer": "antwort"}})


def test_older_recipes_call_the_builtin_tasks_embedded() -> None:
    assert STAGES["conversations"].options.model_validate({"embedded": False}).model_dump()["builtin_tasks"] is False
    assert STAGES["preferences"].options.model_validate({"embedded": False}).model_dump()["builtin_tasks"] is False


@pytest.mark.parametrize("language", ["en", "auto"])
def test_rows_in_other_languages_are_set_aside(tmp_path: Path, language: str) -> None:
    german = talk(
        "Wie bekomme ich einen Rotweinfleck aus einem weißen Leinenhemd?",
        "Tupfe den Fleck ab, gieße kochendes Wasser von hinten durch den Stoff und wasche das Hemd dann wie gewohnt.",
    )
    translation = talk("Translate this sentence into German, please: I do not know where the station is.",
                       "Ich weiß nicht, wo der Bahnhof ist.")  # fmt: skip
    made = make_of(tmp_path, [talk("Is it raining?", "No."), german, translation], source={"language": language})
    assert [each.id for each in read_train(made)] == ["mine/0/1", "mine/0/3"]
    assert made.facts["rows/not_used_language"] == made.facts["conversations/other_language_de"] == 1


LONG = " ".join(f"word{n}" for n in range(60))


def test_near_duplicates_are_set_aside_and_counted(tmp_path: Path) -> None:
    rows = [
        talk("Tell me about it.", LONG),
        talk("Tell me about it.", f"{LONG} indeed"),
        talk("Tell me about it.", " ".join(f"term{n}" for n in range(60))),
        {**talk("Tell me about it.", LONG), "system": "Answer like a pirate."},
        talk("tell me about it", LONG),
        talk("Tell me about it.", LONG),
    ]
    made = make_of(tmp_path, rows)
    assert [each.id for each in read_train(made)] == ["mine/0/1", "mine/0/3", "mine/0/4"]
    assert made.facts["rows/not_used_near_duplicate"] == 2
    assert made.facts["rows/not_used_duplicate"] == made.facts["conversations/dropped_duplicate"] == 1
    assert made.facts["rows/used"] == 3
    assert [(row["where"], row["row"], row["reason"]) for row in made.rejected] == [
        ("mine.jsonl", 6, "duplicate"), ("mine.jsonl", 2, "near_duplicate"), ("mine.jsonl", 5, "near_duplicate"),
    ]  # fmt: skip
    assert max(len(row["raw"]) for row in made.rejected) <= 500
    assert make_of(tmp_path, rows, near_duplicates=None).facts["conversations/train"] == 5


def test_rows_that_begin_with_one_instruction_are_compared_by_what_follows_it(tmp_path: Path) -> None:
    """A long instruction is nearly all of such rows; each of them is another one for all that."""
    instruction = {"instruction": f"Name the number. {LONG}"}
    rows = [{**instruction, "input": f"number {n}", "output": f"It is {n}."} for n in range(10)]
    rows.append({**instruction, "input": LONG, "output": "Many."})
    rows.append({**instruction, "input": f"{LONG} and so on", "output": "Many."})
    made = make_of(tmp_path, rows)
    assert (made.facts["rows/used"], made.facts["rows/not_used_near_duplicate"]) == (11, 1)
    assert made.rejected[0]["row"] == 12


def test_a_task_file_is_learnt_with_its_definition_and_its_examples_are_no_bad_rows(tmp_path: Path) -> None:
    examples = [{"input": str(n), "output": str(n + 1), "explanation": "One more."} for n in range(9)]
    instances = [{"input": f"{n} apples", "output": [f"{n + 1} apples"]} for n in range(3)]
    task = {"Definition": ["Add one apple."], "Positive Examples": examples, "Instances": instances}
    (tmp_path / "task.json").write_text(json.dumps(task))
    made = make("conversations", tmp_path, builtin_tasks=False, held_out=0, files={"task": {"path": "task.json"}})
    assert [each.prompt[0]["content"] for each in read_train(made)] == [
        f"Add one apple.\n\n{n} apples" for n in range(3)
    ]
    assert (made.facts["rows/read"], made.facts["rows/used"], made.facts["rows/not_used_example"]) == (12, 3, 9)
    assert len(made.rejected) == 9


def test_outliers_are_set_aside_by_reason(tmp_path: Path) -> None:
    rows = [
        talk("Long?", LONG * 9),
        talk("Short?", "x"),
        talk("Again?", "the same few words over and over again, " * 20),
        talk("Run?", "ha" + "a" * 200),
        talk("Bad?", "I'm sorry, but I can't help with that."),
        talk("Song?", "La la la, la la la."),
    ]
    made = make_of(tmp_path, rows, max_characters=2000, min_reply_characters=2, refusals="drop", max_bad_rows=0)
    assert [row["reason"] for row in made.rejected] == ["too_long", "too_short", "repetition", "repetition", "refusal"]
    assert [each.reply for each in read_train(made)] == ["La la la, la la la."]
    kept = make_of(tmp_path, rows[4:])
    assert kept.facts["conversations/refusals"] == 1
    assert kept.facts["conversations/train"] == 2


def test_turns_with_weight_0_are_kept_as_context(tmp_path: Path) -> None:
    turns = [
        {"role": role, "content": text, "weight": weight}
        for role, text, weight in (
            ("user", "a", None),
            ("assistant", "b", 0),
            ("user", "c", None),
            ("assistant", "d", 1),
        )
    ]
    made = make_of(tmp_path, [{"messages": turns}])
    (conversation,) = read_train(made)
    assert conversation.not_learnt == (1,)
    assert made.facts["turns/not_learnt"] == 1
    assert conversation.messages == [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def test_weights_of_turns_are_kept_and_counted(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0.5},
             {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]  # fmt: skip
    made = make_of(tmp_path, [{"messages": turns}, talk("Which?", "This one.")])
    assert sorted(conversation.weights for conversation in read_train(made)) == [(), (0.5, 1)]
    assert made.facts["turns/weighted"] == 1


@pytest.mark.parametrize("language", ["en", "zh"])
def test_real_instructions(data_dir: Path, tmp_path: Path, language: str) -> None:
    """A third of the rows, from everywhere in the file."""
    with gzip.open(data_dir / f"instruct_{language}.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = file.readlines()[::3]
    (tmp_path / "mine.jsonl").write_text("".join(lines), encoding="utf-8")
    files = {"mine": {"path": "mine.jsonl", "language": language}}
    made = make("conversations", tmp_path, builtin_tasks=False, files=files)
    # A few of them repeat themselves, are in French or Spanish, or say what an earlier row says.
    reasons = {each["reason"] for each in made.rejected}
    assert reasons <= {"language", "repetition", "duplicate"}
    assert len(made.rejected) == made.facts["conversations/rejected"] and len(made.rejected) < 8
    train, held_out = (conversations.read(made.out / name) for name in (conversations.TRAIN, conversations.HELD_OUT))
    assert len(train) + len(held_out) + len(made.rejected) == len(lines) > 3000
    assert len(held_out) == pytest.approx(0.05 * len(lines), rel=0.15)
    assert not prompts(held_out) & prompts(train)


def test_a_recipe_without_labelled_sources_keeps_its_identity() -> None:
    options = STAGES["conversations"].options
    assert "safety" not in options().identity()
    assert options.model_validate({"safety": {"attacks": "unsafe"}}).identity()["safety"] == {"attacks": "unsafe"}
