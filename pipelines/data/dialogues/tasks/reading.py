"""Reading a fact out of a given sentence, in the style of documentation: what does it return?

Each sentence says two things of one kind and the question wants one of them; the other is the first wrong answer. What
is held out are sentences.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pipelines.data.dialogues.tasks.task import Example, Task

NAMES = ("load", "save", "open", "read", "write", "parse", "merge", "split", "sort", "find", "copy", "build", "check",
         "clean", "count", "scan")  # fmt: skip
THINGS = {
    "en": ("a path", "a list", "a table", "a number", "a file", "a name", "a string", "a value", "a key", "a date",
           "a set", "a row", "a line", "a map", "a node", "a type"),
    "zh": ("路径", "列表", "表格", "数字", "文件", "名字", "文本", "数值", "图片", "日期", "集合", "对象", "函数",
           "地址", "时间", "消息"),
}  # fmt: skip


# The question takes up the verb of the sentence as it stands there.
SENTENCES = {"en": "{} takes {} and returns {}.", "zh": "{} 接收{}，返回{}。"}
QUESTIONS = {"en": (" It takes what?", " It returns what?"), "zh": ("它接收什么？", "它返回什么？")}


def arguments(language: str, rng: Random) -> Iterator[tuple[str, str, str, int]]:
    """(name, what it takes, what it returns, which of the two is asked for)"""
    while True:
        taken, returned = rng.sample(THINGS[language], 2)
        yield rng.choice(NAMES), taken, returned, rng.randrange(2)


def tell(language: str, argument: tuple[str, str, str, int], rng: Random) -> list[Example]:
    name, *facts, asked = argument
    elsewhere = rng.choice([one for one in THINGS[language] if one not in facts])
    prompt = SENTENCES[language].format(name, *facts) + QUESTIONS[language][asked]
    return [Example(prompt, facts[asked], facts[asked], (facts[1 - asked], elsewhere))]


TASK = Task("reading", arguments, tell)
