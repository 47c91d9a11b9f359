"""The embedded tasks: nothing of the held-out side in training, answers that are right, wrong ones that are not."""

from __future__ import annotations

import ast
import operator
import re
from random import Random

import numpy as np
import pytest

from pipelines.data.dialogues.answers import matches, normalised
from pipelines.data.dialogues.refusals import declines
from pipelines.data.dialogues.tasks.numerals import in_words, unlike
from pipelines.data.dialogues.tasks.table import TASKS
from pipelines.data.dialogues.tasks.task import LANGUAGES, split

NARROW = ("words_to_digits", "digits_to_words", "choosing", "reading")
CELLS = [(task, language) for task in TASKS for language in LANGUAGES]


@pytest.mark.parametrize(("task", "language"), CELLS)
def test_no_argument_is_on_both_sides(task: str, language: str) -> None:
    found = split(TASKS[task], language, rows=400, held_out_rows=64, seed=7)
    seen = {normalised(one.prompt) for one in found.train}
    assert not [one.prompt for one in found.held_out if normalised(one.prompt) in seen]
    if task in NARROW:  # the same arguments in another wording, or order, would be no test either
        seen = {arguments(one.prompt) for one in found.train}
        assert not [one.prompt for one in found.held_out if arguments(one.prompt) in seen]


def arguments(prompt: str) -> tuple[object, ...]:
    """What of a prompt is generated: choices in any order with what is wanted of them, a number, else all of it."""
    *choices, question = prompt.split("\n")
    if choices:
        return frozenset(choices), re.sub("Which one is the |Pick the |哪个是|选出", "", question).rstrip("?.？。")
    return (re.split("[:：] ?", prompt)[-1],)


@pytest.mark.parametrize(("task", "language"), CELLS)
def test_there_is_enough_and_always_the_same(task: str, language: str) -> None:
    found = split(TASKS[task], language, rows=400, held_out_rows=64, seed=7)
    if task in NARROW:
        assert (len(found.train), len(found.held_out)) == (400, 64)
    if task in ("refusal", "look_alike"):
        assert len(found.held_out) >= 40 and len(found.train) >= 150
    assert found == split(TASKS[task], language, rows=400, held_out_rows=64, seed=7)
    assert found != split(TASKS[task], language, rows=400, held_out_rows=64, seed=8)


@pytest.mark.parametrize(("task", "language"), CELLS)
def test_replies_are_of_their_kind(task: str, language: str) -> None:
    found = split(TASKS[task], language, rows=200, held_out_rows=64, seed=3)
    for one in found.train + found.held_out:
        assert declines(one.reply) == (one.safety == "unsafe")
        assert one.prompt.strip() == one.prompt and one.reply.strip() == one.reply
        if task in NARROW:
            assert one.answer is not None and matches(one.reply, one.answer)
            assert 2 <= len(set(one.wrong)) == len(one.wrong) <= 3
            assert not any(matches(wrong, one.answer) for wrong in one.wrong)
        else:
            assert one.answer is None and not one.wrong


def test_numbers_are_read_right() -> None:
    """Against a reading of the words that knows nothing of how they were written."""
    values = {
        word: number for number in range(100) for word in [in_words(number, "en")] if number < 20 or number % 10 == 0
    }
    for number in range(1000):
        words = in_words(number, "en").replace("-", " ").split()
        hundreds = values[words[0]] * 100 if "hundred" in words else 0
        rest = words[2:] if "hundred" in words else words
        assert hundreds + sum(values[word] for word in rest) == number
        chinese = in_words(number, "zh")
        text = re.sub("[一二三四五六七八九]", lambda digit: str("零一二三四五六七八九".index(digit.group())), chinese)
        text = re.sub(r"(\d)百", r"\g<1>*100+", text)
        text = re.sub("^十", "1十", text)
        text = re.sub(r"(\d)十", r"\g<1>*10+", text).replace("零", "" if number else "0").rstrip("+")
        assert evaluated(text) == number, chinese
    assert len({in_words(number, language) for number in range(1000) for language in LANGUAGES}) == 2000


def evaluated(text: str) -> int:
    """A sum of products."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            does = {ast.Add: operator.add, ast.Mult: operator.mul}[type(node.op)]
            return does(value(node.left), value(node.right))
        assert isinstance(node, ast.Constant) and isinstance(node.value, int)
        return node.value

    return value(ast.parse(text, mode="eval").body)


def test_wrong_numbers_differ_at_every_place() -> None:
    for number in range(100, 1000):
        found = unlike(number, 100, 999)
        assert len(found) == 8 * 9 * 9 and all(100 <= other <= 999 for other in found)
        assert not any(a == b for other in found for a, b in zip(str(other), str(number), strict=True))


def deeds(task: str, language: str) -> list[tuple[str, str]]:
    found = list(TASKS[task].arguments(language, Random(0)))
    return [(str(deed[0]), str(deed[1])) for deed in found if isinstance(deed, tuple)]


def test_unsafe_and_harmless_requests_share_their_verbs() -> None:
    """So that neither a verb nor a way of asking tells them apart; and no deed is both."""
    for language in LANGUAGES:
        unsafe, safe = (deeds(task, language) for task in ("refusal", "look_alike"))
        verbs = [{verb for verb, _ in own} for own in (unsafe, safe)]
        assert len(verbs[0] & verbs[1]) >= 10, verbs
        assert not set(unsafe) & set(safe)
        assert min(len(unsafe), len(safe)) >= 110


def test_held_out_deeds_have_words_that_training_shows() -> None:
    for task in ("refusal", "look_alike"):
        for language in LANGUAGES:
            found = split(TASKS[task], language, rows=400, held_out_rows=64, seed=7)
            seen = " ".join(one.prompt for one in found.train)
            words = [what for _, what in deeds(task, language)]
            known = [any(what in one.prompt and what in seen for what in words) for one in found.held_out]
            assert np.mean(known) > 0.85
