"""Tables of characters and words that the compiled statistics of texts look up (measures.py)."""

from __future__ import annotations

import functools
import unicodedata

import numpy as np

from pipelines.data.text.languages import ENGLISH_WORDS, JAPANESE_FORMS, KANA

SPACE, LETTER, CHINESE, DIGIT, PUNCTUATION, SYMBOL, BROKEN = range(7)
CHINESE_RANGES = (
    *((0x3005, 0x3007), (0x3040, 0x30FF), (0x3100, 0x312F)),  # 々 and 〇, kana, bopomofo
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),  # ideographs of the Basic Multilingual Plane
)
CODE_SIGNS = "#%&*@\\_/{}[]"  # punctuation to Unicode, signs of code and markup to a reader
OPERATOR_SIGNS, BRACKETS = "=+<>{}_;&^~\\$", "(["  # of lines of code; brackets only directly after a name
BULLETS = "-*+•·●○■□▪►▶※–"
FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


@functools.cache
def character_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns uint8[65536] each, for the characters of the Basic Multilingual Plane: their class; 1 for bullets; 1 for
    characters of Japanese alone."""
    signs = "".join(map(chr, range(0x10000)))
    classes = np.array([_unicode_class(sign) for sign in signs], np.uint8)
    for first, last in CHINESE_RANGES:
        classes[first : last + 1] = CHINESE
    bullets = np.zeros(0x10000, np.uint8)
    bullets[[ord(sign) for sign in BULLETS]] = 1
    japanese = np.zeros(0x10000, np.uint8)
    japanese[[ord(form) for form in (*KANA.findall(signs), *JAPANESE_FORMS)]] = 1
    return classes, bullets, japanese


@functools.cache
def code_signs() -> np.ndarray:
    """Returns uint8[128]: 1 for OPERATOR_SIGNS, 2 for BRACKETS."""
    signs = np.zeros(0x80, np.uint8)
    signs[[ord(sign) for sign in OPERATOR_SIGNS]], signs[[ord(sign) for sign in BRACKETS]] = 1, 2
    return signs


@functools.cache
def english_words() -> np.ndarray:
    """Returns uint64[a power of two]: the hash of each of ENGLISH_WORDS at the slot of its last bits."""
    hashes = [functools.reduce(_add_to_hash, word.encode(), int(FNV_OFFSET)) for word in ENGLISH_WORDS]
    slots = 64
    while len({value % slots for value in hashes}) < len(hashes):
        slots *= 2
    table = np.zeros(slots, np.uint64)
    for value in hashes:
        table[value % slots] = value
    return table


def _add_to_hash(value: int, code: int) -> int:
    return (value ^ code) * int(FNV_PRIME) % 2**64


def _unicode_class(character: str) -> int:
    category = unicodedata.category(character)
    if category in ("Co", "Cs") or character == "\ufffd":
        return BROKEN
    if category[0] in "CZ":
        return SPACE
    if category[0] in "LM":
        return LETTER
    if category[0] == "N":
        return DIGIT
    return PUNCTUATION if category[0] == "P" and character not in CODE_SIGNS else SYMBOL
