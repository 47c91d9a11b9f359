"""Task of picking the right word from choices in the prompt: which one is the fruit: hammer, apple, horse?

The words are a small lexicon, all of it in training; held-out arguments are sets of choices. A wrong answer is another
of the choices, so every word is correct as often as it is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pipelines.data.dialogues.tasks.task import Example, Task

NUM_CHOICES = 3
WORDS = {
    "en": {
        "animal": ("horse", "dog", "tiger", "rabbit", "goat", "sheep"),
        "color": ("red", "blue", "green", "yellow", "white", "black"),
        "fruit": ("apple", "banana", "grape", "lemon", "mango", "cherry"),
        "tool": ("hammer", "saw", "drill", "spade", "knife", "rake"),
        "city": ("Paris", "London", "Rome", "Berlin", "Tokyo", "Cairo"),
    },
    "zh": {
        "动物": ("马", "狗", "老虎", "兔子", "山羊", "狮子"),
        "颜色": ("红色", "蓝色", "绿色", "黄色", "白色", "黑色"),
        "水果": ("苹果", "梨", "香蕉", "葡萄", "西瓜", "桃子"),
        "工具": ("锤子", "锯", "斧头", "铁锹", "剪刀", "钳子"),
        "城市": ("巴黎", "伦敦", "罗马", "北京", "东京", "上海"),
    },
}
# Each choice has a line of its own, where an English word has the same tokens as at the beginning of a reply.
TEMPLATES = {
    "en": ("{1}\nWhich one is the {0}?", "{1}\nPick the {0}."),
    "zh": ("{1}\n哪个是{0}？", "{1}\n选出{0}。"),
}


def arguments(language: str, rng: Random) -> Iterator[tuple[str, frozenset[str]]]:
    """Endless (category, choices): one word of the category among words of other categories."""
    words = WORDS[language]
    while True:
        category, *others = rng.sample(sorted(words), NUM_CHOICES)
        yield category, frozenset(rng.choice(words[name]) for name in (category, *others))


def examples(language: str, argument: tuple[str, frozenset[str]], rng: Random) -> list[Example]:
    """One prompt with the choices in random order; the other choices are the wrong answers."""
    category, choices = argument
    ordered = rng.sample(sorted(choices), len(choices))
    answer = next(word for word in ordered if word in WORDS[language][category])
    prompt = rng.choice(TEMPLATES[language]).format(category, "\n".join(ordered))
    return [Example(prompt, answer, answer, tuple(word for word in ordered if word != answer))]


TASK = Task("choosing", arguments, examples)
