"""Task of writing number words in digits: "four hundred twenty-seven" → 427, 四百二十七 → 427."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pipelines.data.dialogues.tasks.numerals import differing_numbers, in_words
from pipelines.data.dialogues.tasks.task import Example, Task, shuffled

LOW, HIGH = 100, 999
TEMPLATES = {"en": ("Write in digits: {}", "In digits: {}"), "zh": ("用数字写出：{}", "写成数字：{}")}


def arguments(language: str, rng: Random) -> Iterator[int]:
    """Numbers to write, the same in all languages."""
    return shuffled(range(LOW, HIGH + 1), rng)


def examples(language: str, number: int, rng: Random) -> list[Example]:
    """One prompt, the number in digits, and three other numbers."""
    prompt = rng.choice(TEMPLATES[language]).format(in_words(number, language))
    wrong = tuple(map(str, rng.sample(differing_numbers(number, LOW, HIGH), 3)))
    return [Example(prompt, str(number), str(number), wrong)]


TASK = Task("words_to_digits", arguments, examples)
