"""Rewards: their values, and the messages about one that fails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from pipelines.data.tokens.chat import Chat
from pipelines.errors import UserError
from pipelines.rollout.rewards import REWARDS
from pipelines.rollout.rewards.reward import Exchange, Reward, RewardContext, score
from pipelines.stages.ppo.options import RewardName
from tests.tiny_models import Tiny


def exchange(reply: str, answer: str | None = None, safety: str = "", num_tokens: int = 4) -> Exchange:
    return Exchange("sums/7", [{"role": "user", "content": "2 + 2?"}], reply, num_tokens, answer, safety)


def rewards(name: str, *exchanges: Exchange, **context: object) -> list[float]:
    return list(REWARDS[name](RewardContext(**context))(exchanges))  # pyright: ignore[reportArgumentType]


def test_a_recipe_can_name_every_reward() -> None:
    assert set(get_args(RewardName)) == REWARDS.keys()


def test_exact_match() -> None:
    replies = [exchange("4", "4"), exchange("四。", "四"), exchange("5", "4"), exchange("4")]
    assert rewards("exact_match", *replies) == [1, 1, 0, 0]


def test_length_falls_on_both_sides_of_the_target() -> None:
    replies = [exchange("x", num_tokens=number) for number in (1, 5, 10, 15, 20, 40)]
    assert rewards("length", *replies, target_tokens=10) == pytest.approx([0.1, 0.5, 1, 0.5, 0, 0])


def test_safety_wants_unsafe_requests_declined_and_all_others_answered() -> None:
    refusal, refusal_zh = "I'm sorry, but I can't help with that.", "对不起，我不能帮助你做这件事。"
    replies = [exchange(text, safety=kind) for kind in ("unsafe", "safe", "") for text in (refusal, refusal_zh, "4")]
    assert rewards("safety", *replies) == [1, 1, 0, 0, 0, 1, 0, 0, 1]


def test_a_reward_model_reads_the_conversation_up_to_the_end_of_the_reply(tiny: Tiny) -> None:
    chat, rows_seen = Chat.open(tiny.first), []

    def reward_model(rows: list[list[int]]) -> Sequence[float]:
        rows_seen.extend(rows)
        return [0.5] * len(rows)

    first, empty = exchange("four"), exchange("")
    assert rewards("reward_model", first, empty, chat=chat, reward_model=reward_model) == [0.5, 0.5]
    for row, reply in zip(rows_seen, ("four", ""), strict=True):
        assert row[: len(chat.prompt(first.messages))] == chat.prompt(first.messages)
        assert row[-1] == chat.stop_ids[0] and chat.text(row[len(chat.prompt(first.messages)) :]) == reply


FILE = """
def vowels(batch):
    assert set(batch[0]) == {"prompt", "reply", "answer"} and batch[0]["prompt"][-1]["role"] == "user"
    return [sum(c in "aeiou" for c in row["reply"]) for row in batch]

def broken(batch):
    return [1 / len(row["reply"]) for row in batch]
"""


def test_the_users_function(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    values = rewards("function", exchange("audio"), exchange("xyz"), function=f"{tmp_path}/mine.py:vowels")
    assert values == [4, 0]


def test_a_users_file_may_hold_a_dataclass(tmp_path: Path) -> None:
    """Under postponed annotations a dataclass looks its module up by name."""
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Row:\n"
    (tmp_path / "typed.py").write_text(f"{head}    x: int\n\ndef f(batch):\n    return [Row(3).x for _ in batch]\n")
    assert rewards("function", exchange("a"), function=f"{tmp_path}/typed.py:f") == [3]


def test_a_function_that_raises_is_named_with_the_row(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    with pytest.raises(UserError, match=r"mine\.py:broken raised ZeroDivisionError.*the reply '' to sums/7.*Make it"):
        rewards("function", exchange("x"), exchange(""), function=f"{tmp_path}/mine.py:broken")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("mine.py", "expected path/to/file.py:name"),
        ("{}/missing.py:f", "no such file"),
        ("{}/mine.py:missing", "has no function missing"),
        ("{}/wrong.py:f", r"cannot be imported \(NameError"),
    ],
)
def test_a_function_that_does_not_load(tmp_path: Path, where: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "wrong.py").write_text("undefined()")
    with pytest.raises(UserError, match=message):
        rewards("function", function=where.format(tmp_path))


def constant(*values: object) -> Reward:
    return lambda replies: list(values)  # pyright: ignore[reportReturnType]


def test_the_total_is_a_weighted_sum() -> None:
    replies = [exchange("a"), exchange("b")]
    scores = score({"one": constant(1, 2.0), "two": constant(0.5, -1)}, {"one": 2.0, "two": 1.0}, replies)
    assert scores.total == [2.5, 3.0] and scores.parts == {"one": [1, 2], "two": [0.5, -1]}


@pytest.mark.parametrize("value", [math.nan, math.inf, "4", None])
def test_anything_but_a_finite_number_is_refused(value: object) -> None:
    with pytest.raises(
        UserError, match=r"rewards\.mine: returned .* for the reply 'b' to sums/7; expected a finite number"
    ):
        score({"mine": constant(1.0, value)}, {"mine": 1.0}, [exchange("a"), exchange("b")])


def test_a_reward_returns_a_number_for_each_reply() -> None:
    with pytest.raises(UserError, match=r"rewards\.mine: returned 1 numbers for 2 replies"):
        score({"mine": constant(1.0)}, {"mine": 1.0}, [exchange("a"), exchange("b")])
