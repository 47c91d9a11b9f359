"""Which groups of people a text mentions: women, Muslims, immigrants, …; the words are in harm_words.py."""

from __future__ import annotations

import re
from functools import lru_cache

from pipelines.data.text.harm_words import GROUPS


def mentioned_groups(text: str, language: str) -> list[str]:
    """The groups of people that a text mentions, in the order of GROUPS; none in a language without words.

    >>> mentioned_groups("The women of the village met the Muslims.", "en")
    ['women', 'muslims']
    """
    lower = text.lower()
    if language == "en":  # one pass: a word boundary before each of 14 patterns would be looked for 14 times
        found = {match.lastgroup for match in _english().finditer(lower)}
        return [name for name in GROUPS if name in found]
    patterns = _by_group(language)
    return [name for name, pattern in patterns.items() if pattern.search(lower)]


@lru_cache(maxsize=1)
def _english() -> re.Pattern[str]:
    """Of no width, so that "old people with disabilities" are of two groups, in which a word is part of both."""
    names = "|".join(f"(?P<{name}>{words['en']})" for name, words in GROUPS.items())
    return re.compile(rf"(?<!\w)(?=(?:{names})\b)")


@lru_cache(maxsize=8)
def _by_group(language: str) -> dict[str, re.Pattern[str]]:
    return {name: re.compile(words[language]) for name, words in GROUPS.items() if language in words}
