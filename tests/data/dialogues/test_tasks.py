"""The built-in tasks: no held-out argument in training, answers that are correct, wrong answers that are wrong."""

from __future__ import annotations

import ast
import operator
import re
from random import Random

import numpy as np
import pytest

from pipelines.data.dialogues.answer_match import matches, normalised
from pipelines.data.dialogues.refusals import is_refusal
from pipelines.data.dialogues.tasks.numerals import differing_numbers, in_words
from pipelines.data.dialogues.tasks.table import TASKS
from pipelines.data.dialogues.tasks.task import LANGUAGES, Split, split

NARROW = ("words_to_digits", "digits_to_words", "choosing", "reading")
CELLS = [(task, language) for task in TASKS for language in LANGUAGES]


def examples(task: str, language: str, *, rows: int = 400, seed: int = 7) -> Split:
    return split(TASKS[task], language, rows=rows, held_out_rows=64, seed=seed)


@pytest.mark.parametrize(("task", "language"), CELLS)
def test_no_argument_is_on_both_sides(task: str, language: str) -> None:
    splits = examples(task, language)
    seen = {normalised(example.prompt) for example in splits.train}
    assert not [example.prompt for example in splits.held_out if normalised(example.prompt) in seen]
    if task in NARROW:  # the same arguments in another wording, or order, would be no test either
        arguments_seen = {arguments(example.prompt) for example in splits.train}
        assert not [example.prompt for example in splits.held_out if arguments(example.prompt) in arguments_seen]


def arguments(prompt: str) -> tuple[object, ...]:
    """The generated part of a prompt: unordered choices and the category, a number, or else the whole prompt."""
    *choices, question = prompt.split("\n")
    if choices:
        return frozenset(choices), re.sub("Which one is the |Pick the |哪个是|选出", "", question).rstrip("?.？。")
    return (re.split("[:：] ?", prompt)[-1],)


@pytest.mark.parametrize(("task", "language"), CELLS)
def test_there_are_enough_examples_and_always_the_same(task: str, language: str) -> None:
    splits = examples(task, language)
    if task in NARROW:
        assert (len(splits.train), len(splits.held_out)) == (400, 64)
    if task in ("refusal", "look_alike"):
        assert len(splits.held_out) >= 40 and len(splits.train) >= 150
    assert splits == examples(task, language)
    assert splits != examples(task, language, seed=8)


@pytest.mark.parametrize(("task", "language"), CELLS)
def test_replies_suit_their_task(task: str, language: str) -> None:
    splits = examples(task, language, rows=200, seed=3)
    for example in splits.train + splits.held_out:
        assert is_refusal(example.reply) == (example.safety == "unsafe")
        assert example.prompt.strip() == example.prompt and example.reply.strip() == example.reply
        if task in NARROW:
            assert example.answer is not None and matches(example.reply, example.answer)
            assert 2 <= len(set(example.wrong)) == len(example.wrong) <= 3
            assert not any(matches(wrong, example.answer) for wrong in example.wrong)
        else:
            assert example.answer is None and not example.wrong


def test_numbers_are_written_correctly() -> None:
    """Against a reading of the words that shares no code with how they were written."""
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
            operation = {ast.Add: operator.add, ast.Mult: operator.mul}[type(node.op)]
            return operation(value(node.left), value(node.right))
        assert isinstance(node, ast.Constant) and isinstance(node.value, int)
        return node.value

    return value(ast.parse(text, mode="eval").body)


def test_wrong_numbers_differ_in_every_digit() -> None:
    for number in range(100, 1000):
        wrong = differing_numbers(number, 100, 999)
        assert len(wrong) == 8 * 9 * 9 and all(100 <= other <= 999 for other in wrong)
        assert not any(a == b for other in wrong for a, b in zip(str(other), str(number), strict=True))


def actions(task: str, language: str) -> list[tuple[str, str]]:
    """(verb, object) of each of a task's arguments."""
    arguments_ = list(TASKS[task].arguments(language, Random(0)))
    return [(str(action[0]), str(action[1])) for action in arguments_ if isinstance(action, tuple)]


def test_unsafe_and_harmless_requests_share_their_verbs() -> None:
    """So that neither a verb nor a template tells them apart; and no action is both."""
    for language in LANGUAGES:
        unsafe, safe = (actions(task, language) for task in ("refusal", "look_alike"))
        common = {verb for verb, _ in unsafe} & {verb for verb, _ in safe}
        assert len(common) >= 10, common
        assert not set(unsafe) & set(safe)
        assert min(len(unsafe), len(safe)) >= 110


def test_objects_of_held_out_actions_occur_in_training() -> None:
    for task in ("refusal", "look_alike"):
        for language in LANGUAGES:
            splits = examples(task, language)
            seen = " ".join(example.prompt for example in splits.train)
            known = [object_ for _, object_ in actions(task, language) if object_ in seen]
            covered = [any(object_ in example.prompt for object_ in known) for example in splits.held_out]
            assert np.mean(covered) > 0.85
