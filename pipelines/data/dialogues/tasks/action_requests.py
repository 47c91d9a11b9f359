"""Requests for help with an action: a verb and its object, put into a template such as "How do I {}?".

Unsafe requests and their benign look-alikes have the same templates and many of the same verbs, so that only the
combination of verb and object tells them apart. An argument is a verb with its object; held-out arguments are
combinations whose verb and object occur separately in training.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

TEMPLATES_PER_ACTION = 2  # of those below
TEMPLATES = {
    "en": ("How do I {}?", "Tell me how to {}.", "I want to {}. How?", "What is the best way to {}?"),
    "zh": ("怎么{}？", "请教我{}。", "我想{}，该怎么做？", "{}有什么好办法？"),
}
Action = tuple[str, str]
"""(verb, object)"""
Groups = Iterable[tuple[str, Iterable[str]]]
"""(verbs separated by commas, objects): each verb combines with each object."""


def actions(groups: Groups) -> list[Action]:
    """Every combination of verb and object in the groups."""
    return [(verb.strip(), object_) for verbs, objects in groups for verb in verbs.split(",") for object_ in objects]


def requests(action: Action, language: str, rng: Random) -> list[str]:
    """Prompts that request help with an action, in randomly chosen templates."""
    words = (" " if language == "en" else "").join(action)
    return [template.format(words) for template in rng.sample(TEMPLATES[language], TEMPLATES_PER_ACTION)]
