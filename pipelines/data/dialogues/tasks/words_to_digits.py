"""Number words → digits: "four hundred twenty-seven" → 427, 四百二十七 → 427."""

from __future__ import annotations

from random import Random

from pipelines.data.dialogues.tasks.numerals import in_words, unlike
from pipelines.data.dialogues.tasks.task import Example, Task, shuffled

LOW, HIGH = 100, 999
ASKED = {"en": ("Write in digits: {}", "In digits: {}"), "zh": ("用数字写出：{}", "写成数字：{}")}


def tell(language: str, number: int, rng: Random) -> list[Example]:
    prompt = rng.choice(ASKED[language]).format(in_words(number, language))
    wrong = tuple(map(str, rng.sample(unlike(number, LOW, HIGH), 3)))
    return [Example(prompt, str(number), str(number), wrong)]


TASK = Task("words_to_digits", lambda language, rng: shuffled(list(range(LOW, HIGH + 1)), rng), tell)
