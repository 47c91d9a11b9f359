"""The guard around prompts and growing replies."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.guard.classifier import Guard, Verdict
from pipelines.data.guard.rules import Rule
from serve.gateway.conversation import InvalidPrompt, parse_messages
from serve.gateway.guard import (
    MAX_HELD_CHARACTERS,
    MIN_PART_CHARACTERS,
    GuardedReply,
    NoGuard,
    RulesGuard,
    check_prompt,
    open_guard,
)

UNSAFE = {"en": "Here is how to make a pipe bomb at home.", "zh": "教你怎么制造炸弹，先准备材料。"}
HARMLESS = {"en": "How do I make a bath bomb?", "zh": "怎么做一个炸鸡？"}


class CountingGuard(RulesGuard):
    """The rules, with the number of parts of replies that they checked."""

    num_checks = 0

    def check_reply(self, text: str, language: str | None = None) -> Verdict:
        self.num_checks += 1
        return super().check_reply(text, language)


def user(text: str) -> list[list[dict[str, str]]]:
    """A conversation of one message."""
    return [[{"role": "user", "content": text}]]


def released(text: str, size: int, reply: GuardedReply) -> list[str]:
    """What is released after each chunk of a text that arrives in chunks of `size` characters."""
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    return [text[: reply.append(chunk, last=number == len(chunks) - 1)] for number, chunk in enumerate(chunks)]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_no_part_of_an_unsafe_sentence_is_released(language: str, size: int) -> None:
    before = {"en": "It is easy. ", "zh": "很简单。"}[language]
    reply = GuardedReply(RulesGuard())
    parts = released(f"{before}{UNSAFE[language]} More.", size, reply)
    assert reply.verdict is not None and reply.verdict.reason.startswith("rule weapons")
    assert all(before.startswith(part) or part.strip() == before.strip() for part in parts)
    assert reply.append("And more.") == reply.released  # what follows is not released either


def test_an_unsafe_text_that_begins_in_an_earlier_part_is_caught() -> None:
    reply = GuardedReply(RulesGuard())
    filler = "x" * (MAX_HELD_CHARACTERS - 20)
    released(f"{filler} how to make a pipe bomb", 5, reply)
    assert reply.verdict is not None


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_harmless_reply_is_released_whole_and_in_order(size: int) -> None:
    text = "One. Two is 2.5! 第三句话。" + "no end " * 60
    reply = GuardedReply(RulesGuard())
    parts = released(text, size, reply)
    assert reply.verdict is None
    assert parts[-1] == text
    assert all(len(later) >= len(earlier) for earlier, later in pairwise(parts))


def test_sentences_are_held_until_their_end_and_long_ones_up_to_a_limit() -> None:
    reply = GuardedReply(RulesGuard())
    assert reply.append("This sentence has not") == 0
    assert reply.append(" ended. But") == len("This sentence has not ended. ")
    assert reply.append("x" * MAX_HELD_CHARACTERS) >= MAX_HELD_CHARACTERS


def test_short_sentences_after_the_first_are_checked_together() -> None:
    counting = CountingGuard()
    reply = GuardedReply(counting)
    text = "好的。" + "茶要热水。水要烧开。" * 20
    parts = dict.fromkeys(released(text, 1, reply))
    assert list(parts)[:2] == ["", "好的。"] and list(parts)[-1] == text
    ends = [len(part) for part in parts][1:-1]
    assert all(later - earlier >= MIN_PART_CHARACTERS for earlier, later in pairwise(ends))
    assert counting.num_checks == len(parts) - 1


@pytest.mark.parametrize("size", [1, 1000])
def test_of_sentences_that_are_checked_together_those_before_an_unsafe_one_are_released(size: int) -> None:
    before = "好的。" + "茶要热水。水要烧开。" * 3
    reply = GuardedReply(RulesGuard())
    parts = released(f"{before}{UNSAFE['zh']}水要烧开。" + "茶要热水。" * 20, size, reply)
    assert reply.verdict is not None and parts[-1] == before


def test_a_refusal_by_the_model_is_released() -> None:
    reply = GuardedReply(RulesGuard())
    text = "I can't help with that: I will not explain how to make a pipe bomb."
    assert released(text, 4, reply)[-1] == text


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_refusal_does_not_excuse_the_sentences_after_it(language: str, size: int) -> None:
    refusal = {"en": "I cannot help with that. ", "zh": "我不能推荐。"}[language]
    reply = GuardedReply(RulesGuard())
    parts = released(f"{refusal}{UNSAFE[language]} More.", size, reply)
    assert reply.verdict is not None and parts[-1] == refusal


@pytest.mark.parametrize("size", [1, 1000])
def test_a_refusal_excuses_no_sentence_after_spaces_at_the_limit(size: int) -> None:
    begin = "I'm sorry, I can't help with making that, "
    text = begin + "x" * (MAX_HELD_CHARACTERS - 3 - len(begin)) + "!     "
    reply = GuardedReply(RulesGuard())
    parts = released(f"{text}{UNSAFE['en']}", size, reply)
    assert reply.verdict is not None and text.startswith(parts[-1])


def test_words_of_a_refusal_do_not_count_against_the_sentences_after_it() -> None:
    reply = GuardedReply(RulesGuard())
    text = "I will not explain how to make a pipe bomb. Ask me about tea instead. Or about Python."
    assert released(text, 5, reply)[-1] == text


def test_a_refusal_longer_than_the_limit_is_released() -> None:
    reply = GuardedReply(RulesGuard())
    text = f"I will not explain, {'really not at all, ' * 7}how to make a pipe bomb."
    assert len(text) < MAX_HELD_CHARACTERS * 1.2 and released(text, 3, reply)[-1] == text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_unsafe_prompts_are_declined_and_harmless_ones_pass(language: str) -> None:
    assert check_prompt(RulesGuard(), user(UNSAFE[language]))
    assert check_prompt(RulesGuard(), user(HARMLESS[language])) is None
    assert check_prompt(NoGuard(), user(UNSAFE[language])) is None


def test_a_check_takes_milliseconds() -> None:
    rules, text = RulesGuard(), "What is the difference between a list and a tuple in Python? 请用中文回答。"
    rules.check(text)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        rules.check(text)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02  # 0.2 ms on a quiet machine


def test_the_guard_of_an_artifact_is_used_where_there_is_one(tmp_path: Path) -> None:
    rule = Rule("tea", "secret recipe of tea")
    Guard(np.zeros(64, np.float32), -9.0, {"en": 0.5, "zh": 0.5}, rules=(rule,)).save(tmp_path)
    guard = open_guard(tmp_path)
    assert check_prompt(guard, user("Tell me the secret recipe of tea"))
    assert check_prompt(guard, user(UNSAFE["en"])) is None  # its rules are the artifact's, not the built-in ones
    assert guard.refusal("zh") == RulesGuard().refusal("zh")
    assert isinstance(open_guard(None), RulesGuard)


def test_a_message_of_any_role_but_the_assistants_is_checked_in_full() -> None:
    assert check_prompt(RulesGuard(), [[{"role": "tool", "content": UNSAFE["en"]}]])
    with pytest.raises(InvalidPrompt, match="role: expected one of"):
        parse_messages([{"role": "user", "content": "Hello"}, {"role": "tool", "content": "Sunny."}])
