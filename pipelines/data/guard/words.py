"""Words of a canonical text as the guard's classifier reads them: tokens, stems, kinds (thesaurus.py) and hashes.

"He robbed 2 banks" ──TOKEN──► he, robbed, 2, banks ──stem──► he, rob, 2, bank ──kind_of──► -, steal, -, money
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from functools import lru_cache

from pipelines.data.guard.thesaurus import KINDS

SUFFIX = re.compile(r"(?:'s|s'|ing|ers?|ed|es|s|e)$")
SENTENCE_END = re.compile("[.?!;:。]+")  # a pretext often ends with a colon: "for a novel: how …"
EDGE = 0  # what stands for the hash of a word at the edge of a sentence
LONGEST = 40  # characters of a word that is remembered: longer ones are nobody's words, and would fill the memory
NUM_GROUPS = 20  # of first characters of Chinese words, in the pattern of a token


def stem(word: str) -> str:
    """An English word without its ending, roughly: the same for all of its forms.

    >>> stem("robbing"), stem("robbed"), stem("makes"), stem("immigrants")
    ('rob', 'rob', 'mak', 'immigrant')
    """
    if len(word) < 4:
        return word
    stemmed = SUFFIX.sub("", word)
    if len(stemmed) < 3:
        return word
    return stemmed[:-1] if stemmed[-1] == stemmed[-2] and len(stemmed) > 3 and stemmed[-1] not in "slo" else stemmed


def _kinds() -> dict[str, str]:
    kinds: dict[str, str] = {}
    for kind, (english, chinese) in KINDS.items():
        for word in (*map(stem, english.split()), *chinese.casefold().split()):
            kinds.setdefault(word, kind)
    return kinds


_KIND_OF = _kinds()


def kind_of(word: str) -> str | None:
    """The kind of an English stem or a Chinese word, if it has one."""
    return _KIND_OF.get(word)


def hashes(token: str) -> tuple[int, int | None]:
    """Hashes of a token: of its word (a stem, or a Chinese word or character), and of its kind, if it has one; EDGE
    where it ends a sentence."""
    return _remembered(token) if len(token) <= LONGEST else _hashes(token)


def _hashes(token: str) -> tuple[int, int | None]:
    if SENTENCE_END.match(token):
        return EDGE, None
    word = stem(token) if token.isascii() else token
    kind = kind_of(word)
    return zlib.crc32(word.encode()), None if kind is None else zlib.crc32(f"kind {kind}".encode())


_remembered = lru_cache(maxsize=20_000)(_hashes)


def _any_of(words: Iterable[str]) -> str:
    """A pattern of the longest of these words, as branches by first characters: a list of words would be tried one by
    one.

    >>> _any_of(["炸弹", "炸药", "枪", "炸药包"])
    '枪|炸(?:弹|药(?:包|))'
    """
    branches: dict[str, list[str]] = {}
    for word in sorted(words):
        branches.setdefault(word[:1], []).append(word[1:])
    ends = [""] if branches.pop("", None) else []
    rests = {first: _any_of(rests) for first, rests in branches.items()}
    alternatives = [re.escape(first) + (f"(?:{rest})" if "|" in rest else rest) for first, rest in rests.items()]
    return "|".join(alternatives + ends)


def _token_pattern() -> str:
    """The pattern of a token: an English word, a number, the longest Chinese word with a kind, another letter, or the
    end of a sentence.

    The Chinese words are in NUM_GROUPS by first characters, so that those of one group alone are tried."""
    words = sorted(word for word in _KIND_OF if not word.isascii())
    firsts = sorted({word[0] for word in words})
    groups = [firsts[start::NUM_GROUPS] for start in range(NUM_GROUPS)]
    chinese = [f"(?=[{''.join(group)}])(?:{_any_of(word for word in words if word[0] in group)})" for group in groups]
    return rf"[a-z]+(?:['-][a-z]+)*|\d+|{'|'.join(chinese)}|[^\W\d_]|{SENTENCE_END.pattern}"


TOKEN = re.compile(_token_pattern())
