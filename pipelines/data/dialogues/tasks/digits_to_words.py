"""Task of writing digits in words: 427 → "four hundred twenty-seven", 四百二十七."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pipelines.data.dialogues.tasks.numerals import differing_numbers, in_words
from pipelines.data.dialogues.tasks.task import Example, Task, shuffled

LOW, HIGH = 100, 999
# The number stands at the end, at the same distance from the reply in every prompt.
TEMPLATES = {"en": ("Write in words: {}", "In words: {}"), "zh": ("用汉字写出：{}", "写成汉字：{}")}
NUM_CANDIDATES = 60  # for wrong answers, of which those nearest in length to the correct one are taken


def arguments(language: str, rng: Random) -> Iterator[int]:
    """Numbers to write, the same in all languages."""
    return shuffled(range(LOW, HIGH + 1), rng)


def examples(language: str, number: int, rng: Random) -> list[Example]:
    """One prompt, the number in words, and three other numbers in words of about the same length."""
    prompt = rng.choice(TEMPLATES[language]).format(number)
    answer = in_words(number, language)
    candidates = rng.sample(differing_numbers(number, LOW, HIGH), NUM_CANDIDATES)
    wrong = sorted((in_words(n, language) for n in candidates), key=lambda text: abs(len(text) - len(answer)))[:3]
    return [Example(prompt, answer, answer, tuple(wrong))]


TASK = Task("digits_to_words", arguments, examples)
