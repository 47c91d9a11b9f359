"""The stage `conversations`: the splits that it makes of users' files and of the built-in tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.data.dialogues import conversations
from pipelines.errors import UserError
from tests.stages.single import jsonl, make, prompts, talk


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
    assert made.facts["conversations/dropped_duplicate"] == 1
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
    {"messages": [{"role": "user", "content": "e"}, {"role": "tool", "content": "f"}]},
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


def test_too_many_bad_rows_stop_the_stage_and_name_the_first(tmp_path: Path) -> None:
    jsonl(tmp_path / "mine.jsonl", BAD)
    message = r"^mine.jsonl:2: not JSON .*first of 3 bad rows .* max_bad_rows allows 2: .* of the conversations; they"
    with pytest.raises(UserError, match=message):
        make("conversations", tmp_path, max_bad_rows=2, files={"mine": {"path": "mine.jsonl"}})


def test_no_conversations_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no conversations; the recipe has no sources .* and builtin_tasks is false"):
        make("conversations", tmp_path, builtin_tasks=False)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_real_instructions(data_dir: Path, tmp_path: Path, language: str) -> None:
    files = {"mine": {"path": str(data_dir / f"instruct_{language}.jsonl.gz"), "language": language}}
    made = make("conversations", tmp_path, builtin_tasks=False, files=files)
    assert made.facts["conversations/rejected"] == 0
    assert len(conversations.read(made.out / conversations.TRAIN)) > 9000
    held_out = conversations.read(made.out / conversations.HELD_OUT)
    assert len(held_out) == pytest.approx(500, rel=0.05)
    assert not prompts(held_out) & prompts(conversations.read(made.out / conversations.TRAIN))
