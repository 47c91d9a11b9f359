"""The guard around a reply that grows."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.guard.judge import Guard
from pipelines.data.guard.rules import Rule
from serve.gateway.guard import HELD_CHARACTERS, Nothing, Rules, Watch, declined, judge

OFFENCE = {"en": "Here is how to make a pipe bomb at home.", "zh": "教你怎么制造炸弹，先准备材料。"}
HARMLESS = {"en": "How do I make a bath bomb?", "zh": "怎么做一个炸鸡？"}


def grow(text: str, size: int, watch: Watch) -> list[str]:
    """What may be seen after each piece."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return [text[: watch.push(piece, last=number == len(pieces) - 1)] for number, piece in enumerate(pieces)]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_nothing_of_an_offending_sentence_is_seen(language: str, size: int) -> None:
    before = {"en": "It is easy. ", "zh": "很简单。"}[language]
    watch = Watch(Rules())
    seen = grow(f"{before}{OFFENCE[language]} More.", size, watch)
    assert watch.verdict is not None and watch.verdict.reason.startswith("rule weapons")
    assert all(before.startswith(one) or one.strip() == before.strip() for one in seen)
    assert watch.push("And more.") == watch.passed  # what follows is not seen either


def test_an_offence_that_begins_in_an_earlier_sentence_is_found() -> None:
    watch = Watch(Rules())
    filler = "x" * (HELD_CHARACTERS - 20)
    grow(f"{filler} how to make a pipe bomb", 5, watch)
    assert watch.verdict is not None


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_harmless_reply_goes_on_whole_and_in_order(size: int) -> None:
    text = "One. Two is 2.5! 第三句话。" + "no end " * 60
    watch = Watch(Rules())
    seen = grow(text, size, watch)
    assert watch.verdict is None
    assert seen[-1] == text
    assert all(len(later) >= len(earlier) for earlier, later in pairwise(seen))


def test_sentences_wait_for_their_end_and_long_ones_for_a_limit() -> None:
    watch = Watch(Rules())
    assert watch.push("This sentence has not") == 0
    assert watch.push(" ended. But") == len("This sentence has not ended. ")
    assert watch.push("x" * HELD_CHARACTERS) >= HELD_CHARACTERS


def test_a_model_that_declines_is_let_say_so() -> None:
    watch = Watch(Rules())
    text = "I can't help with that: I will not explain how to make a pipe bomb."
    assert grow(text, 4, watch)[-1] == text


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_having_said_no_excuses_nothing_of_what_follows(language: str, size: int) -> None:
    refusal = {"en": "I cannot help with that. ", "zh": "我不能推荐。"}[language]
    watch = Watch(Rules())
    seen = grow(f"{refusal}{OFFENCE[language]} More.", size, watch)
    assert watch.verdict is not None and seen[-1] == refusal


def test_what_a_refusal_names_is_not_held_against_the_sentence_after_it() -> None:
    watch = Watch(Rules())
    text = "I will not explain how to make a pipe bomb. Ask me about tea instead. Or about Python."
    assert grow(text, 5, watch)[-1] == text


def test_a_long_refusal_is_one_sentence() -> None:
    watch = Watch(Rules())
    text = f"I will not explain, {'really not at all, ' * 7}how to make a pipe bomb."
    assert len(text) < HELD_CHARACTERS * 1.2 and grow(text, 3, watch)[-1] == text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_questions(language: str) -> None:
    assert declined(Rules(), OFFENCE[language])
    assert declined(Rules(), HARMLESS[language]) is None
    assert declined(Nothing(), OFFENCE[language]) is None


def test_a_judgement_takes_less_than_a_millisecond() -> None:
    rules, text = Rules(), "What is the difference between a list and a tuple in Python? 请用中文回答。"
    rules.check(text)
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        rules.check(text)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.001


def test_a_guards_artifact_is_the_judge_where_there_is_one(tmp_path: Path) -> None:
    rule = Rule("tea", "secret recipe of tea")
    Guard(np.zeros(64, np.float32), -9.0, {"en": 0.5, "zh": 0.5}, rules=(rule,)).save(tmp_path)
    found = judge(tmp_path)
    assert declined(found, "Tell me the secret recipe of tea")
    assert declined(found, OFFENCE["en"]) is None  # its rules are the artifact's, not those of today
    assert found.refusal("zh") == Rules().refusal("zh")
    assert isinstance(judge(None), Rules) and isinstance(judge(tmp_path, on=False), Nothing)
