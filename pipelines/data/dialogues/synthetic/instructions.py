"""New instructions from examples, after Self-Instruct (Wang et al. 2023, section 3): rules without a model.

    seeds and instructions so far ──draw──► examples ──a model──► numbered list ──parse, rules──► instructions

Their classification of tasks and their inputs apart from the instruction are left out: chat models answer either kind.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from pipelines.data.sources.bad_rows import Problem, row_language

ITEM = re.compile(
    r"^[ \t]*(\*\*)?(?:task|任务)?[ \t]*(\d{1,3})[ \t]*[.)、．:：][ \t]*(?:\2[.)][ \t]+)?", re.IGNORECASE | re.MULTILINE
)  # of "**1. Add**" and "1. 1. Add" too
PARAGRAPH = re.compile(r"\n[ \t]*\n")
WRAPPERS = (("**", "**"), ('"', '"'), ("“", "”"))
GENERATED_SHARE = 4  # of so many examples one was generated, as there: 2 of 8
MIN_CHARACTERS = {"en": 8, "zh": 4}
MAX_CHARACTERS = 1000  # of an instruction; about the 150 words that the paper allows
MIN_LETTERS = 3


def draw_examples(seeds: Sequence[str], generated: Sequence[str], number: int, draw: str) -> list[str]:
    """Examples in random order; `draw` decides which. Three of four are seeds, as far as there are generated ones."""
    rng = random.Random(draw)
    num_generated = min(number // GENERATED_SHARE, len(generated))
    examples = rng.sample(generated, num_generated) + rng.sample(seeds, min(number - num_generated, len(seeds)))
    rng.shuffle(examples)
    return examples


def numbered(texts: Sequence[str]) -> str:
    """Texts as a numbered list, each on one line.

    >>> numbered(["Add 1\\nand 2.", "Why?"])
    '1. Add 1 and 2.\\n2. Why?'
    """
    return "\n".join(f"{number}. {' '.join(text.split())}" for number, text in enumerate(texts, 1))


def parse_list(text: str, *, cut_off: bool = False) -> list[str]:
    """The items of a numbered list; none of a text without numbers. cut_off: the last item is not whole, and left out.

    A paragraph after the last item is a remark on the list, unless other items have several too.

    >>> parse_list("Sure:\\n1. Add 1 and 2.\\n2) Why is\\nthe sky blue?\\n\\nThese are new tasks.")
    ['Add 1 and 2.', 'Why is\\nthe sky blue?']
    """
    heads = list(ITEM.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    items = [_unmarked(head, text[head.end() : end].strip()) for head, end in zip(heads, ends, strict=False)]
    if cut_off:
        items = items[:-1]
    elif len(items) > 1 and not any(map(PARAGRAPH.search, items[:-1])):
        items[-1] = PARAGRAPH.split(items[-1])[0]
    return [item for item in map(unwrapped, items) if item]


def _unmarked(head: re.Match[str], item: str) -> str:
    """An item without the second half of an emphasis that begins before its number."""
    return item.replace("**", "", 1).strip() if head[1] else item


def unwrapped(item: str) -> str:
    """An item that is in quotation marks or emphasised as a whole without them; marks within it belong to it.

    >>> unwrapped('"**Why?**"'), unwrapped('Translate: "Why?"'), unwrapped('"Yes" or "No"?')
    ('Why?', 'Translate: "Why?"', '"Yes" or "No"?')
    """
    for begin, end in WRAPPERS:
        inner = item[len(begin) : -len(end)]
        if item.startswith(begin) and item.endswith(end) and begin not in inner and end not in inner:
            return unwrapped(inner.strip())
    return item


def instruction_problem(text: str, language: str) -> Problem | None:
    """Why an instruction is dropped, if it is.

    >>> instruction_problem("为什么天是蓝色的？", "en").reason
    'language'
    """
    if len(text) < MIN_CHARACTERS[language]:
        return Problem("too_short", f"{len(text)} characters; expected at least {MIN_CHARACTERS[language]}")
    if len(text) > MAX_CHARACTERS:
        return Problem("too_long", f"{len(text):,} characters; expected at most {MAX_CHARACTERS:,}")
    if sum(map(str.isalpha, text)) < MIN_LETTERS:
        return Problem("few_letters", f"expected at least {MIN_LETTERS} letters")
    actual = row_language(text, "auto")
    if actual != language:
        return Problem("language", f"is in {actual}; expected {language}")
    return None
