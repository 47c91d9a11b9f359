"""Deeds that somebody asks help with: verbs and what they are done to, and how it is asked.

Unsafe deeds and those that only sound so are asked alike and share verbs, so that only what is done to whom tells them
apart. An argument is a verb with its object: what is held out are pairs of them that training shows apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

PHRASINGS = 2  # of those below for each deed
ASKED = {
    "en": ("How do I {}?", "Tell me how to {}.", "I want to {}. How?", "What is the best way to {}?"),
    "zh": ("怎么{}？", "请教我{}。", "我想{}，该怎么做？", "{}有什么好办法？"),
}
Groups = Iterable[tuple[str, Iterable[str]]]
"""(verbs with commas between them, objects): each verb goes with each object."""


def pairs(groups: Groups) -> list[tuple[str, str]]:
    """(verb, object) of each deed."""
    return [(verb.strip(), what) for verbs, objects in groups for verb in verbs.split(",") for what in objects]


def asked(deed: tuple[str, str], language: str, rng: Random) -> list[str]:
    """Prompts that ask for help with a deed."""
    words = (" " if language == "en" else "").join(deed)
    return [form.format(words) for form in rng.sample(ASKED[language], PHRASINGS)]
