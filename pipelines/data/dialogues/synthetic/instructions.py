"""New instructions from examples, after Self-Instruct (Wang et al. 2023, section 3): rules without a model.

    seeds and instructions so far ──draw──► examples ──a model──► numbered list ──parse, rules──► instructions

Their classification of tasks and their inputs apart from the instruction are left out: chat models answer either kind.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from pipelines.data.sources.bad_rows import Problem, row_language

ITEM = re.compile(r"^[ \t]*(?:\*\*)?(?:task|任务)?[ \t]*(\d{1,3})[ \t]*[.)、．:：][ \t]*", re.IGNORECASE | re.MULTILINE)
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
    """The items of a numbered list; a text without numbers is one. cut_off: the last item is not whole, and left out.

    >>> parse_list("Sure:\\n1. Add 1 and 2.\\n2) Why is\\nthe sky blue?")
    ['Add 1 and 2.', 'Why is\\nthe sky blue?']
    """
    starts = [match.start() for match in ITEM.finditer(text)]
    items = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)] or [text]
    items = items[:-1] if cut_off else items
    cleaned = (ITEM.sub("", item, count=1).strip().strip('*"“”').strip() for item in items)
    return [item for item in cleaned if item]


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
