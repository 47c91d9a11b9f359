"""Digits → number words: 427 → "four hundred twenty-seven", 四百二十七."""

from __future__ import annotations

from random import Random

from pipelines.data.dialogues.tasks.numerals import in_words, unlike
from pipelines.data.dialogues.tasks.task import Example, Task, shuffled

LOW, HIGH = 100, 999
# The number stands at the end, equally far from the reply in every prompt.
ASKED = {"en": ("Write in words: {}", "In words: {}"), "zh": ("用汉字写出：{}", "写成汉字：{}")}


def tell(language: str, number: int, rng: Random) -> list[Example]:
    prompt = rng.choice(ASKED[language]).format(number)
    answer = in_words(number, language)
    others = [in_words(other, language) for other in rng.sample(unlike(number, LOW, HIGH), 60)]
    wrong = tuple(sorted(others, key=lambda other: abs(len(other) - len(answer)))[:3])  # no longer nor shorter
    return [Example(prompt, answer, answer, wrong)]


TASK = Task("digits_to_words", lambda language, rng: shuffled(list(range(LOW, HIGH + 1)), rng), tell)
