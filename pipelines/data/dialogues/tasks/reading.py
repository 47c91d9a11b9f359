"""Task of reading a fact from the sentence in the prompt, in the style of documentation: what does it return?

Each sentence states two facts of the same kind and the question is about one of them; the other is the first wrong
answer. Held-out arguments are sentences.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pipelines.data.dialogues.tasks.task import Example, Task

FUNCTIONS = ("load", "save", "open", "read", "write", "parse", "merge", "split", "sort", "find", "copy", "build",
             "check", "clean", "count", "scan")  # fmt: skip
VALUES = {
    "en": ("a path", "a list", "a table", "a number", "a file", "a name", "a string", "a value", "a key", "a date",
           "a set", "a row", "a line", "a map", "a node", "a type"),
    "zh": ("路径", "列表", "表格", "数字", "文件", "名字", "文本", "数值", "图片", "日期", "集合", "对象", "函数",
           "地址", "时间", "消息"),
}  # fmt: skip


# The question repeats the verb of the sentence in the same form.
SENTENCES = {"en": "{} takes {} and returns {}.", "zh": "{} 接收{}，返回{}。"}
QUESTIONS = {"en": (" It takes what?", " It returns what?"), "zh": ("它接收什么？", "它返回什么？")}


def arguments(language: str, rng: Random) -> Iterator[tuple[str, str, str, int]]:
    """Endless (function, what it takes, what it returns, index of the fact that the question is about)."""
    while True:
        taken, returned = rng.sample(VALUES[language], 2)
        yield rng.choice(FUNCTIONS), taken, returned, rng.randrange(2)


def examples(language: str, argument: tuple[str, str, str, int], rng: Random) -> list[Example]:
    """One prompt; wrong answers are the other fact and a value that is not in the sentence."""
    function, taken, returned, index = argument
    facts = (taken, returned)
    absent = rng.choice([value for value in VALUES[language] if value not in facts])
    prompt = SENTENCES[language].format(function, taken, returned) + QUESTIONS[language][index]
    return [Example(prompt, facts[index], facts[index], (facts[1 - index], absent))]


TASK = Task("reading", arguments, examples)
