"""The stage `preferences`: what it makes of users' files and of embedded conversations."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.data.dialogues import conversations, preferences
from pipelines.data.dialogues.judging import meets
from pipelines.errors import UserError
from pipelines.evaluator import Evaluator
from pipelines.recipe import reader
from pipelines.stages import STAGES
from tests.stages.single import jsonl, make, prompts, talk
from tests.tiny_models import Tiny


def pair(asked: str, chosen: str = "Yes.", rejected: str = "No.") -> dict[str, str]:
    return {"prompt": asked, "chosen": chosen, "rejected": rejected}


def test_pairs_of_embedded_tasks_stay_on_the_side_of_their_conversations(tmp_path: Path) -> None:
    talks = make("conversations", tmp_path, rows_per_task=100)
    made = make("preferences", tmp_path, talks=talks)
    train, held_out = (preferences.read(made.out / name) for name in (preferences.TRAIN, preferences.HELD_OUT))
    assert made.facts["pairs/held_out"] == len(held_out) >= 300
    assert not prompts(train) & prompts(held_out)
    assert prompts(held_out) <= prompts(conversations.read(talks.out / conversations.HELD_OUT))
    assert {one.rule for one in train} == {"correct_before_wrong", "decline_unsafe", "helpful_before_evasive"}
    sides = [made.facts[f"pairs/held_out_{side}_characters"] for side in ("chosen", "rejected")]
    assert sides[0] == pytest.approx(sides[1], rel=0.03)
    assert made.digests == make("preferences", tmp_path, talks=talks).digests
    assert made.digests != make("preferences", tmp_path, talks=talks, seed=8).digests


def test_what_a_model_writes_and_the_rule_turns_down_is_rejected(
    tiny: Tiny, evaluator: Evaluator, tmp_path: Path
) -> None:
    """The model writes nonsense, so whatever it ends by itself misses the rule of a narrow task."""
    talks = make("conversations", tmp_path, rows_per_task=20)
    given = {"talks": talks, "model": tiny.first, "evaluator": evaluator, "written": 2}
    made = make("preferences", tmp_path, **given)
    train, held_out = (preferences.read(made.out / name) for name in (preferences.TRAIN, preferences.HELD_OUT))
    written = [one for one in train if "/written-" in one.id]
    assert written
    known = {one.id: one for one in conversations.read(talks.out / conversations.TRAIN)}
    for pair in written:
        one = known[pair.id.rpartition("/")[0]]
        assert (pair.prompt, pair.chosen) == (one.prompt, one.reply)
        assert meets(one, pair.chosen) and not meets(one, pair.rejected)
    without = make("preferences", tmp_path, talks=talks)
    assert held_out == preferences.read(without.out / preferences.HELD_OUT)
    assert [one for one in train if one not in written] == preferences.read(without.out / preferences.TRAIN)
    assert made.digests == make("preferences", tmp_path, **given).digests


def test_what_a_model_is_to_write_needs_a_model(tmp_path: Path) -> None:
    text = "name: x\nstages:\n  conversations: {}\n  preferences: {written: 1}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match="needs a model, and no earlier stage makes one"):
        reader.load(tmp_path / "recipe.yaml", STAGES)


def test_users_pairs_without_conversations(tmp_path: Path) -> None:
    rows = [pair(f"Is {n} a number?") for n in range(100)] + [
        pair(f"{n}是数字吗？", "是。", "不是。") for n in range(100)
    ]
    jsonl(tmp_path / "own.jsonl", [*rows, rows[3], pair("Same?", "Yes", "yes."), "[]"])
    made = make("preferences", tmp_path, files={"own": {"path": "own.jsonl", "language": "auto"}})
    assert (made.facts["pairs/train_en"], made.facts["pairs/held_out_zh"]) == (90, 10)
    assert made.facts["pairs/dropped_duplicate"] == 1
    assert made.facts["pairs/rejected_equal_sides"] == made.facts["pairs/rejected_unreadable"] == 1
    assert {one.rule for one in preferences.read(made.out / preferences.TRAIN)} == {"given"}


def test_a_prompt_that_conversations_know_stays_on_its_side(tmp_path: Path) -> None:
    jsonl(tmp_path / "talks.jsonl", [talk(f"Question {n}?", "Yes.") for n in range(100)])
    jsonl(tmp_path / "pairs.jsonl", [pair(f"question {n}") for n in range(100)])
    talks = make("conversations", tmp_path, embedded=False, held_out=0.3, files={"talks": {"path": "talks.jsonl"}})
    made = make("preferences", tmp_path, talks=talks, files={"pairs": {"path": "pairs.jsonl"}})
    for name in (conversations.TRAIN, conversations.HELD_OUT):
        assert prompts(preferences.read(made.out / name)) == prompts(conversations.read(talks.out / name))


def test_no_pair_at_all_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pairs; the recipe has no sources with rows: preferences"):
        make("preferences", tmp_path)


@pytest.mark.parametrize(("name", "least"), [("hh_en", 1100), ("dpo_zh", 140)])
def test_real_pairs(data_dir: Path, tmp_path: Path, name: str, least: int) -> None:
    made = make("preferences", tmp_path, files={"own": {"path": str(data_dir / f"preference_{name}.jsonl.gz")}})
    assert int(made.facts["pairs/read"]) >= least
    assert len(made.rejected) == made.facts["pairs/rejected"] and len(made.rejected) < 20
