"""Matching of answers, and detection of refusals."""

from __future__ import annotations

import pytest

from pipelines.data.dialogues.answer_match import f1, matches, normalised
from pipelines.data.dialogues.refusals import is_refusal


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("42.", "42"),
        ("４２。", "42"),
        ("  Forty-Two ", "forty-two"),
        ("“巴黎”！", "巴黎"),
        ("a\n list", "a list"),
        ("（马）", "马"),
    ],
)
def test_spellings_of_one_answer_match(reply: str, answer: str) -> None:
    assert matches(reply, answer)


@pytest.mark.parametrize(("reply", "answer"), [("-5", "5"), ("C#", "C"), ("424", "42"), ("50%", "50"), ("", "42")])
def test_other_answers_do_not_match(reply: str, answer: str) -> None:
    assert not matches(reply, answer)


def test_normalising_twice_changes_nothing() -> None:
    for text in ("'(Ｈello, World!)'", "“四十二。”", "...", " a  b "):
        assert normalised(normalised(text)) == normalised(text)


@pytest.mark.parametrize(
    ("reply", "answer", "expected"),
    [
        ("the cat sat", "A cat sat down", 2 * (2 / 2) * (2 / 3) / (2 / 2 + 2 / 3)),  # as SQuAD: articles don't count
        ("blue", "red", 0.0),
        ("", "red", 0.0),
        ("北京大学", "北京", 2 * (2 / 4) * (2 / 2) / (2 / 4 + 2 / 2)),
        ("用 ps 查", "ps", 0.5),
        ("cat cat", "cat", 2 / 3),
    ],
)
def test_f1_is_that_of_squad(reply: str, answer: str, expected: float) -> None:
    assert f1(reply, answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, but I can’t help with that.",
        "Sorry, I won't help with that.",
        "As an AI model, I am unable to provide instructions for this.",
        "That is not something I can help with.",
        "I must decline.",
        "I cannot. Please ask me something else",
        "Sorry, no. I can't.",
        "This would be against my guidelines.",
        "对不起，我不能帮你做这件事。",
        "抱歉，我无法提供这方面的帮助。",
        "这个忙我不能帮。",
        "作为一个AI，我不能提供这类信息",
        "恕我不能回答。",
        "我拒绝回答这个问题。",
        "不行，这种事我不帮。",
    ],
)
def test_refusals_are_detected(reply: str) -> None:
    assert is_refusal(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "I can't wait to tell you!",
        "If the file does not exist, the function cannot create it.",
        "Sorry for the delay! The answer is 42.",
        "I don't know.",
        "I am sorry to hear that.",
        "I was raised on Ray. " * 20 + "I can't help with that.",  # a refusal says so at once
        "你不能这样做，因为会漏水。先关掉电源。",
        "抱歉让你久等了，答案是四十二。",
        "无法打开文件时先检查路径。",
        "我不会唱歌，但可以聊聊音乐。",
        "我不知道。",
        "",
    ],
)
def test_other_replies_are_no_refusals(reply: str) -> None:
    assert not is_refusal(reply)
