"""Names of private people in texts, and other names for them: in English and in Chinese, by context and lists.

    text ──english_names, chinese_names──► places of names ──privacy.py──► [name], a surrogate, or no document

Meant for mail, chats and forms. What a novel calls Mr. Darcy is a name, too; Charles Dickens in an essay is none, for
nothing beside him says that a person is meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pipelines.data.text.chinese_names import chinese_names
from pipelines.data.text.english_names import LETTER, PARTICLE, english_names
from pipelines.data.text.name_words import (
    CHINESE_COMPOUND,
    CHINESE_FAMILY,
    CHINESE_GIVEN_CHARACTERS,
    FIRST_PARTS,
    FOREIGN_CHARACTERS,
    SECOND_PARTS,
)

IS_HAN = re.compile("[\u4e00-\u9fff]")
PART = re.compile(rf"[{LETTER}'’]+")
IS_PARTICLE = re.compile(PARTICLE)
POINT = re.compile("([·•])")  # between the parts of a foreign name in Chinese
INITIALS = sorted({part[0] for part in FIRST_PARTS})
FAMILIAR = ("小", "阿", "老")  # before a given or a family name: 小雨, 阿飞
NUM_FAMILIES = 128  # of Chinese surrogates: the commonest family names
Key = Callable[[str], int]  # many bits of a part of a name, the same for equal parts


def people_names(text: str) -> Iterator[tuple[int, int]]:
    """Where names of people begin and end, in any order; they may overlap.

    >>> [text[a:b] for text in ("Dear Ms Tran, hello.", "请找李老师。") for a, b in people_names(text)]
    ['Tran', '李']
    """
    yield from english_names(text)
    if not text.isascii() and IS_HAN.search(text):
        yield from chinese_names(text)


def name_surrogate(name: str, key: Key) -> str:
    """Another name of the same shape; each part has its own, so that Jane Doe and Mr Doe stay of one family."""
    if POINT.search(name):
        parts = POINT.split(name)
        parts[::2] = [_characters(part, key(part), FOREIGN_CHARACTERS) for part in parts[::2]]
        return "".join(parts)
    if IS_HAN.match(name):
        return _chinese(name, key)
    return PART.sub(lambda part: _english(part, key(part[0].lower())), name)


def _english(match: re.Match[str], key: int) -> str:
    """A word that may be a given or a family name; an initial for an initial; particles stay: van, de."""
    part = match[0]
    if match.start() and IS_PARTICLE.fullmatch(part):
        return part
    if len(part) == 1:
        others = [letter for letter in INITIALS if letter != part.upper()]
        surrogate = others[key % len(others)]
    else:
        key, first = divmod(key, len(FIRST_PARTS))
        second = SECOND_PARTS[key % len(SECOND_PARTS)]
        surrogate = FIRST_PARTS[first] + second
        if surrogate.lower() == part.lower():
            surrogate = FIRST_PARTS[first - 1] + second
    is_capital = part.isupper() and len(part) > 1
    return surrogate.upper() if is_capital else surrogate.lower() if part.islower() else surrogate


def _chinese(name: str, key: Key) -> str:
    family = name[:2] if name[:2] in CHINESE_COMPOUND else name[:1]
    families = CHINESE_COMPOUND if len(family) == 2 else CHINESE_FAMILY[:NUM_FAMILIES]
    others = [other for other in families if other != family]
    other = family if family in FAMILIAR else others[key(family) % len(others)]
    given = name[len(family) :]
    return other + (_characters(given, key(given), CHINESE_GIVEN_CHARACTERS) if given else "")


def _characters(part: str, key: int, characters: str) -> str:
    """As many of these characters as the part has, by the digits of its key."""
    signs: list[str] = []
    for _ in part:
        key, place = divmod(key, len(characters))
        signs.append(characters[place])
    if (surrogate := "".join(signs)) == part:
        return characters[characters.index(part[0]) - 1] + part[1:]
    return surrogate
