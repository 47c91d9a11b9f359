"""The stage `preferences`: the pairs that it makes of users' files and of the built-in tasks' conversations."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.data.dialogues import conversations, preferences
from pipelines.data.dialogues.verifier import is_acceptable
from pipelines.errors import UserError
from pipelines.evaluator import EngineSettings, Evaluator
from pipelines.inference.reply import Reply
from pipelines.recipe import reader
from pipelines.stages import STAGES
from tests.stages.single import jsonl, make, prompts, talk
from tests.tiny_models import CONTEXT, Tiny

LONG = " ".join(f"word{n}" for n in range(60))


def pair(prompt: str, chosen: str = "Yes.", rejected: str = "No.") -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_pairs_of_builtin_tasks_stay_on_the_side_of_their_conversations(tmp_path: Path) -> None:
    talks = make("conversations", tmp_path, rows_per_task=100)
    made = make("preferences", tmp_path, talks=talks)
    train, held_out = (preferences.read(made.out / name) for name in (preferences.TRAIN, preferences.HELD_OUT))
    assert made.facts["pairs/held_out"] == len(held_out) >= 300
    assert not prompts(train) & prompts(held_out)
    assert prompts(held_out) <= prompts(conversations.read(talks.out / conversations.HELD_OUT))
    assert {each.rule for each in train} == {"correct_before_wrong", "decline_unsafe", "helpful_before_evasive"}
    sides = [made.facts[f"pairs/held_out_{side}_characters"] for side in ("chosen", "rejected")]
    assert sides[0] == pytest.approx(sides[1], rel=0.03)
    assert made.digests == make("preferences", tmp_path, talks=talks).digests
    assert made.digests != make("preferences", tmp_path, talks=talks, seed=8).digests


def test_model_replies_that_the_verifier_rejects_become_rejected_replies(
    tiny: Tiny, evaluator: Evaluator, tmp_path: Path
) -> None:
    """The model writes nonsense, so the verifier rejects every reply to a narrow task that ends by itself."""
    talks = make("conversations", tmp_path, rows_per_task=20)
    options = {"talks": talks, "model": tiny.first, "evaluator": evaluator, "model_replies": 2}
    made = make("preferences", tmp_path, **options)
    train, held_out = (preferences.read(made.out / name) for name in (preferences.TRAIN, preferences.HELD_OUT))
    from_model = [each for each in train if "/written-" in each.id]
    assert from_model
    by_id = {each.id: each for each in conversations.read(talks.out / conversations.TRAIN)}
    for each in from_model:
        conversation = by_id[each.id.rpartition("/")[0]]
        assert (each.prompt, each.chosen) == (conversation.prompt, conversation.reply)
        assert is_acceptable(conversation, each.chosen) and not is_acceptable(conversation, each.rejected)
    without = make("preferences", tmp_path, talks=talks)
    assert held_out == preferences.read(without.out / preferences.HELD_OUT)
    assert [each for each in train if each not in from_model] == preferences.read(without.out / preferences.TRAIN)
    assert made.digests == make("preferences", tmp_path, **options).digests


def test_prompts_that_get_no_model_replies_are_counted_by_reason(
    tiny: Tiny, evaluator: Evaluator, tmp_path: Path
) -> None:
    talks = make("conversations", tmp_path, rows_per_task=5)
    rows = conversations.read(talks.out / conversations.TRAIN)
    strict = shutil.copytree(tiny.first, tmp_path / "strict")
    file = strict / "chat_template.jinja"
    refusal = "{% if messages[-1].content | length is odd %}{{ raise_exception('even lengths only') }}{% endif %}"
    file.write_text(refusal + file.read_text(encoding="utf-8"), encoding="utf-8")
    # No prompt that the template takes has room in the context for a reply of this length, so none is generated.
    options = {"talks": talks, "model": strict, "evaluator": evaluator, "model_replies": 1, "max_new_tokens": CONTEXT}
    made = make("preferences", tmp_path, **options)
    num_odd = sum(len(each.prompt[-1]["content"]) % 2 for each in rows)
    assert made.facts["prompts/not_used_template_refuses"] == num_odd > 0
    assert made.facts["prompts/left_out"] == len(rows) - num_odd > 0
    refused, left_out = made.notes
    assert refused.startswith(
        f"{num_odd} of {len(rows)} prompts of the built-in tasks are set aside (template_refuses)"
    )
    assert left_out.startswith(f"{len(rows) - num_odd} prompts of the built-in tasks get no replies")
    assert made.digests == make("preferences", tmp_path, talks=talks).digests


def test_an_engine_for_replies_holds_the_longest_of_them_not_the_context(tiny: Tiny, tmp_path: Path) -> None:
    talks = make("conversations", tmp_path, rows_per_task=5)
    started: list[EngineSettings] = []
    asked: list[list[int]] = []

    def generate(prompts: list[list[int]], **_: object) -> list[Reply]:
        asked.extend(prompts)
        return [Reply([], np.zeros(0, np.float32), "length") for _ in prompts]

    fake: Any = SimpleNamespace(
        settings=None, load=lambda model, settings, notify: started.append(settings), generate=generate
    )
    options = {"talks": talks, "model": tiny.first, "evaluator": fake, "model_replies": 1, "max_new_tokens": 8}
    make("preferences", tmp_path, cluster={"gpus": 0}, **options)
    assert [settings.max_tokens for settings in started] == [max(map(len, asked)) + 8] and started[
        0
    ].max_tokens < CONTEXT


def test_model_replies_need_a_model(tmp_path: Path) -> None:
    text = "name: x\nstages:\n  conversations: {}\n  preferences: {model_replies: 1}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match="needs a model, and no earlier stage makes one"):
        reader.load(tmp_path / "recipe.yaml", STAGES)


def test_users_pairs_without_conversations(tmp_path: Path) -> None:
    rows = [pair(f"Is {n} a number?") for n in range(100)] + [
        pair(f"{n}是数字吗？", "是。", "不是。") for n in range(100)
    ]
    jsonl(tmp_path / "mine.jsonl", [*rows, rows[3], pair("Same?", "Yes", "yes."), "[]"])
    made = make("preferences", tmp_path, files={"mine": {"path": "mine.jsonl", "language": "auto"}})
    assert (made.facts["pairs/train_en"], made.facts["pairs/held_out_zh"]) == (90, 10)
    assert made.facts["pairs/dropped_duplicate"] == 1
    assert made.facts["pairs/rejected_equal_sides"] == made.facts["pairs/rejected_unreadable"] == 1
    assert {each.rule for each in preferences.read(made.out / preferences.TRAIN)} == {"given"}


def test_a_prompt_of_a_conversation_stays_on_its_side(tmp_path: Path) -> None:
    jsonl(tmp_path / "talks.jsonl", [talk(f"Question {n}?", "Yes.") for n in range(100)])
    jsonl(tmp_path / "pairs.jsonl", [pair(f"question {n}") for n in range(100)])
    talks = make("conversations", tmp_path, builtin_tasks=False, held_out=0.3, files={"talks": {"path": "talks.jsonl"}})
    made = make("preferences", tmp_path, talks=talks, files={"pairs": {"path": "pairs.jsonl"}})
    for name in (conversations.TRAIN, conversations.HELD_OUT):
        assert prompts(preferences.read(made.out / name)) == prompts(conversations.read(talks.out / name))


def test_labelled_replies_are_paired_by_their_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": prompt, "completion": reply, "label": label}
        for prompt, reply, label in (
            ("Capital of Portugal?", "Lisbon.", True),
            ("Capital of Portugal?", "Madrid.", False),
            ("Why?", "So.", True),
            ("Capital of Portugal?", "Porto.", False),
        )
    ]
    jsonl(tmp_path / "mine.jsonl", rows)
    made = make("preferences", tmp_path, held_out=0, max_bad_rows=0, files={"mine": {"path": "mine.jsonl"}})
    pairs = preferences.read(made.out / preferences.TRAIN)
    assert [(each.id, each.chosen, each.rejected) for each in pairs] == [
        ("mine/0/1/0", "Lisbon.", "Madrid."), ("mine/0/1/1", "Lisbon.", "Porto."),
    ]  # fmt: skip
    assert [(row["row"], row["reason"]) for row in made.rejected] == [(3, "unpaired")]
    assert (made.facts["rows/read"], made.facts["rows/used"]) == (4, 3)


def labelled(prompt: str, *replies: tuple[str, bool]) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "completion": reply, "label": label} for reply, label in replies]


def test_labelled_replies_beyond_the_limit_have_a_reason_of_their_own(tmp_path: Path) -> None:
    rows = labelled("Why?", *((f"Good {n}.", True) for n in range(5)), ("Bad.", False), ("Bad.", False), ("Bad.", True))
    jsonl(tmp_path / "mine.jsonl", [*rows, *labelled("How?", ("So.", True))])
    made = make("preferences", tmp_path, held_out=0, pairs_per_prompt=2, files={"mine": {"path": "mine.jsonl"}})
    assert {row["row"]: row["reason"] for row in made.rejected} == {
        3: "beyond_limit", 4: "beyond_limit", 5: "beyond_limit", 7: "duplicate", 8: "unpaired", 9: "unpaired",
    }  # fmt: skip
    assert (made.facts["rows/read"], made.facts["rows/used"], made.facts["pairs/beyond_limit"]) == (9, 3, 3)


def test_every_labelled_row_of_a_repeated_group_is_set_aside(tmp_path: Path) -> None:
    rows = [*labelled("Why is it so?", (LONG, True), ("No.", False)), *labelled("Why?", ("Because.", True))]
    again = labelled("why is it so?", (LONG, True), ("No.", False))
    jsonl(tmp_path / "mine.jsonl", [*rows, *again, pair("Why is it so?", LONG), pair("Why is it so?", LONG)])
    made = make("preferences", tmp_path, held_out=0, files={"mine": {"path": "mine.jsonl"}})
    assert made.facts["rows/used"] == int(made.facts["rows/read"]) - len(made.rejected) == 1
    assert sorted((row["row"], row["reason"], row["where"]) for row in made.rejected) == [
        (1, "duplicate", "mine.jsonl"), (2, "duplicate", "mine.jsonl"), (3, "unpaired", "mine.jsonl"),
        (4, "near_duplicate", "mine.jsonl"), (5, "near_duplicate", "mine.jsonl"), (7, "duplicate", "mine.jsonl"),
    ]  # fmt: skip


def test_rows_with_several_replies_give_several_pairs(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Name a boat.", "chosen": "Wren", "rejected": ["Titanic", "Boat", "No."], "meta": {"by": "Ann"}},
        {"prompt": "Name a car.", "responses": ["Bolt", "Car", "Auto", "X"], "scores": [4, 1, 2, None]},
        {"prompt": "Name a car.", "responses": ["Bolt", "Car"], "scores": [4, 1]},
    ]
    jsonl(tmp_path / "mine.jsonl", rows)
    made = make("preferences", tmp_path, held_out=0, pairs_per_prompt=2, files={"mine": {"path": "mine.jsonl"}})
    pairs = preferences.read(made.out / preferences.TRAIN)
    assert [(each.chosen, each.rejected) for each in pairs] == [
        ("Wren", "Titanic"), ("Wren", "Boat"), ("Bolt", "Car"), ("Bolt", "Auto"),
    ]  # fmt: skip
    assert (made.facts["pairs/beyond_limit"], made.facts["replies/left_out"]) == (2, 1)
    assert (made.facts["pairs/dropped_duplicate"], made.facts["rows/not_used_duplicate"]) == (1, 1)
    assert made.facts["rows/columns_not_used"] == "meta (1 row)"


def test_near_duplicate_pairs_are_set_aside(tmp_path: Path) -> None:
    rows = [pair("Why is it so?", LONG), pair("Why is it so?", f"{LONG} indeed"), pair("Why not?", "Because.")]
    jsonl(tmp_path / "mine.jsonl", rows)
    made = make("preferences", tmp_path, held_out=0, files={"mine": {"path": "mine.jsonl"}})
    assert [each.id for each in preferences.read(made.out / preferences.TRAIN)] == ["mine/0/1", "mine/0/3"]
    assert made.facts["rows/not_used_near_duplicate"] == 1


def test_no_pairs_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pairs; the recipe has no sources with rows: preferences"):
        make("preferences", tmp_path)


@pytest.mark.parametrize(("name", "min_pairs"), [("hh_en", 1100), ("dpo_zh", 140)])
def test_real_pairs(data_dir: Path, tmp_path: Path, name: str, min_pairs: int) -> None:
    made = make("preferences", tmp_path, files={"mine": {"path": str(data_dir / f"preference_{name}.jsonl.gz")}})
    assert int(made.facts["pairs/read"]) >= min_pairs
    assert len(made.rejected) == made.facts["pairs/rejected"] and len(made.rejected) < 20
