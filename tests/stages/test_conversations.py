"""The stage `conversations`: what it makes of users' files and of the embedded tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.data.dialogues import conversations
from pipelines.errors import UserError
from tests.stages.single import jsonl, make, prompts, talk


def test_embedded_tasks_alone(tmp_path: Path) -> None:
    made = make("conversations", tmp_path, rows_per_task=100)
    train, held_out = (conversations.read(made.out / name) for name in (conversations.TRAIN, conversations.HELD_OUT))
    assert made.facts["conversations/train"] == len(train)
    assert made.facts["conversations/held_out"] == len(held_out) >= 400
    assert made.facts["conversations/train_reading_en"] == made.facts["conversations/train_reading_zh"] == 100
    assert made.facts["conversations/held_out_choosing_zh"] == 64
    assert made.facts["conversations/rejected"] == 0 and made.rejected == []
    assert not prompts(train) & prompts(held_out)
    assert all(one.messages[-1]["role"] == "assistant" and one.wrong for one in held_out if one.answer)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    jsonl(tmp_path / "own.jsonl", [talk(f"Question {n}?", f"Answer {n}.") for n in range(50)])
    files = {"own": {"path": "own.jsonl"}}
    one, same, other = (make("conversations", tmp_path, seed=seed, rows_per_task=40, files=files) for seed in (7, 7, 8))
    assert one.digests == same.digests
    assert one.digests != other.digests


def test_users_rows_are_split_by_prompt_however_it_is_spelled(tmp_path: Path) -> None:
    spellings = ("what is {}?", "What is {}?", "WHAT IS {}", " what  is {} ?")
    rows = [talk(spelling.format(n), f"It is {k}.") for n in range(60) for k, spelling in enumerate(spellings)]
    rows += [talk(f"{n}是什么？", "是数字。") for n in range(60)] + [rows[0]]
    jsonl(tmp_path / "own.jsonl", rows)
    files = {"own": {"path": "own.jsonl", "language": "auto"}}
    made = make("conversations", tmp_path, embedded=False, held_out=0.2, files=files)
    train, held_out = (conversations.read(made.out / name) for name in (conversations.TRAIN, conversations.HELD_OUT))
    assert not prompts(train) & prompts(held_out)
    assert len(train) + len(held_out) == 300
    assert made.facts["conversations/dropped_duplicate"] == 1
    assert {(one.language, one.task, one.source) for one in held_out} == {("en", "open", "own"), ("zh", "open", "own")}
    assert made.facts["conversations/held_out_open_zh"] == 12
    assert made.facts["conversations/held_out_open_en"] == pytest.approx(48, abs=4)
    few = make("conversations", tmp_path, embedded=False, held_out=0.2, max_held_out=8, files=files)
    assert few.facts["conversations/held_out_open_zh"] == 8


def test_a_prompt_of_an_embedded_task_stays_on_its_side(tmp_path: Path) -> None:
    first = make("conversations", tmp_path, rows_per_task=40)
    train, held_out = (conversations.read(first.out / name) for name in (conversations.TRAIN, conversations.HELD_OUT))
    asked = [one.prompt[0]["content"].upper() for one in (train[0], held_out[0])]
    jsonl(tmp_path / "own.jsonl", [talk(text, "Mine.") for text in asked] + [talk(f"{n}?", "Mine.") for n in range(20)])
    made = make("conversations", tmp_path, rows_per_task=40, files={"own": {"path": "own.jsonl"}})
    own = [
        [one.prompt[0]["content"] for one in conversations.read(made.out / name) if one.source == "own"]
        for name in (conversations.TRAIN, conversations.HELD_OUT)
    ]
    assert asked[0] in own[0] and asked[1] in own[1]


BAD = [
    talk("a", "b"),
    "{not json",
    talk("c", ""),
    {"messages": [{"role": "user", "content": "d"}]},
    {"messages": [{"role": "user", "content": "e"}, {"role": "tool", "content": "f"}]},
    {"title": "g"},
    {"messages": [{"role": role, "content": "h"} for role in ("user", "assistant", "user")]},
]


def test_bad_rows_are_counted_kept_and_reported(tmp_path: Path) -> None:
    jsonl(tmp_path / "own.jsonl", BAD)
    made = make("conversations", tmp_path, embedded=False, held_out=0, files={"own": {"path": "own.jsonl"}})
    assert made.facts["conversations/train"] == 2
    assert made.facts["turns/cut"] == 1
    assert made.facts["conversations/rejected"] == 5
    reasons = ("unreadable", "empty_turn", "no_reply", "unknown_role", "not_a_conversation")
    assert [made.facts[f"conversations/rejected_{reason}"] for reason in reasons] == [1] * 5
    assert [(row["row"], row["reason"]) for row in made.rejected] == list(zip(range(2, 7), reasons, strict=True))
    assert made.rejected[1]["where"] == "own.jsonl" and "turn 2" in made.rejected[1]["problem"]
    assert "'instruction': 'c'" in made.rejected[1]["raw"]


def test_too_many_bad_rows_stop_the_stage_and_name_the_first(tmp_path: Path) -> None:
    jsonl(tmp_path / "own.jsonl", BAD)
    wanted = r"^own.jsonl:2: not JSON .* first of 3 bad rows .* max_bad_rows allows 2: .* of the conversations$"
    with pytest.raises(UserError, match=wanted):
        make("conversations", tmp_path, max_bad_rows=2, files={"own": {"path": "own.jsonl"}})


def test_nothing_to_learn_from_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no conversations; the recipe has no sources .* and embedded is false"):
        make("conversations", tmp_path, embedded=False)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_real_instructions(data_dir: Path, tmp_path: Path, language: str) -> None:
    files = {"own": {"path": str(data_dir / f"instruct_{language}.jsonl.gz"), "language": language}}
    made = make("conversations", tmp_path, embedded=False, files=files)
    assert made.facts["conversations/rejected"] == 0
    assert len(conversations.read(made.out / conversations.TRAIN)) > 9000
    held_out = conversations.read(made.out / conversations.HELD_OUT)
    assert len(held_out) == pytest.approx(500, rel=0.05)
    assert not prompts(held_out) & prompts(conversations.read(made.out / conversations.TRAIN))
