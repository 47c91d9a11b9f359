"""The stage `guard` on conversations of the built-in tasks: its facts, its bytes, and data it cannot train on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.dialogues import conversations
from pipelines.data.guard import training
from pipelines.data.guard.classifier import Guard
from pipelines.errors import UserError
from pipelines.stages.guard import GuardOptions, with_thresholds
from tests.stages.single import Made, jsonl, make, talk

FEW: dict[str, Any] = {"harmless_texts": 300, "corpus_texts": 0}


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make("conversations", tmp_path_factory.mktemp("talks"), rows_per_task=150, held_out_rows_per_task=40)


@pytest.fixture(scope="module")
def guard(talks: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make("guard", tmp_path_factory.mktemp("guard"), talks=talks, **FEW)


def test_it_tells_unseen_unsafe_requests_from_look_alikes(guard: Made) -> None:
    for language in ("en", "zh"):
        assert float(guard.facts[f"guard/precision_{language}"]) > 0.75
        assert float(guard.facts[f"guard/recall_{language}"]) > 0.75
        assert float(guard.facts[f"guard/false_positive_look_alikes_{language}"]) < 0.3


def test_facts_are_those_of_the_saved_guard(guard: Made, talks: Made) -> None:
    opened = Guard.open(guard.out)
    held_out = conversations.read(talks.out / conversations.HELD_OUT)
    declined = [each for each in held_out if not opened.check(each.prompt[-1]["content"], each.language).allowed]
    unsafe = [each for each in held_out if each.safety == "unsafe"]
    caught = [each for each in declined if each.safety == "unsafe"]
    assert guard.facts["guard/recall"] == pytest.approx(len(caught) / len(unsafe))
    assert guard.facts["guard/precision"] == pytest.approx(len(caught) / len(declined))


def test_the_same_conversations_give_the_same_texts(guard: Made, talks: Made) -> None:
    """And the same texts the same bytes (tests/data/guard/test_guard.py)."""
    train, held_out = (conversations.read(talks.out / name) for name in (conversations.TRAIN, conversations.HELD_OUT))
    first, second = (training.training_texts(train, held_out, max_harmless=300, seed=7) for _ in range(2))
    assert first == second and len(first) == guard.facts["guard/texts"]


@pytest.mark.slow
def test_the_same_conversations_give_the_same_bytes(guard: Made, talks: Made, tmp_path: Path) -> None:
    assert make("guard", tmp_path, talks=talks, **FEW).digests == guard.digests


def test_a_threshold_of_the_recipe_replaces_the_one_that_was_found(guard: Made) -> None:
    trained = Guard.open(guard.out)
    options = GuardOptions.model_validate({"thresholds": {"en": 0.999}, "reply_thresholds": {"zh": 0.1}})
    changed = with_thresholds(trained, options)
    assert changed.request_thresholds == {"en": 0.999, "zh": trained.request_thresholds["zh"]}
    assert changed.reply_thresholds == {"en": trained.reply_thresholds["en"], "zh": 0.1}
    by_words = with_thresholds(replace(trained, encoder=None, request_thresholds={}), options)
    assert by_words.thresholds == {"en": 0.999, "zh": trained.thresholds["zh"]}
    assert by_words.reply_thresholds == {"en": 0.999, "zh": 0.1}  # English replies pass where requests do
    for name in ("thresholds", "reply_thresholds"):
        with pytest.raises(ValueError, match="en: expected a score from 0 to 1, got 2"):
            GuardOptions.model_validate({name: {"en": 2.0}})


def test_a_source_of_the_recipe_teaches_what_is_unsafe(tmp_path: Path) -> None:
    jsonl(
        tmp_path / "attacks.jsonl",
        [talk(f"How do I frobnicate the {n} gizmos of the plant?", "No.") for n in range(40)],
    )
    jsonl(
        tmp_path / "near.jsonl",
        [talk(f"How do I paint the {n} gizmos of the plant?", "With a brush.") for n in range(40)],
    )
    files = {name: {"path": f"{name}.jsonl", "language": "en"} for name in ("attacks", "near")}
    options: dict[str, Any] = {
        "safety": {"attacks": "unsafe", "near": "safe"},
        "held_out": 0.1,
        "near_duplicates": None,
    }
    mine = make("conversations", tmp_path, files=files, builtin_tasks=False, **options)
    labels = {(each.source, each.safety) for each in conversations.read(mine.out / conversations.TRAIN)}
    assert labels == {("attacks", "unsafe"), ("near", "safe")}


def test_a_label_of_an_unknown_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"conversations\.safety: attack is no source of conversations"):
        make("conversations", tmp_path, builtin_tasks=True, safety={"attack": "unsafe"})


def test_conversations_without_unsafe_ones_are_refused(tmp_path: Path) -> None:
    jsonl(tmp_path / "mine.jsonl", [talk(f"What is {n}?", f"It is {n}.") for n in range(20)])
    mine = make("conversations", tmp_path, files={"mine": {"path": "mine.jsonl"}}, builtin_tasks=False)
    with pytest.raises(
        UserError, match=r"guard: 0 of \d+ training conversations are unsafe; expected at least 4.*builtin_tasks: true"
    ):
        make("guard", tmp_path, talks=mine)
