"""What a judge says of two replies, and what two verdicts on them, with positions swapped, amount to."""

from __future__ import annotations

import re

MARKED = re.compile(r"\[\[\s*([ABC])\s*\]\]", re.IGNORECASE)
BARE = re.compile(r"(?<![A-Za-z])([ABC])(?![A-Za-z'’])")
ARTICLE = re.compile(r"(?<![A-Za-z])A(?= (?!is\b|wins\b)[a-z])")  # or a verdict; which one of them is not known
WORDS = re.compile(r"(?<![A-Za-z])(?:tie|equally good)(?![A-Za-z])|平局|一样好", re.IGNORECASE)


def parse_verdict(text: str) -> str | None:
    """A: the first reply is better, B: the second, C: neither; None where nothing says it.

    It is the last of [[A]], [[B]] and [[C]]; without any, the one letter or word that says it.

    >>> parse_verdict("Reply A errs. [[B]]"), parse_verdict("答案是A。"), parse_verdict("A or B?")
    ('B', 'A', None)
    >>> parse_verdict("A better reply would cite sources."), parse_verdict("A is better."), parse_verdict("A")
    (None, 'A', 'A')
    """
    marked = MARKED.findall(text)
    if marked:
        return marked[-1].upper()
    letters = BARE.findall(text)
    said = {*letters, *("C" for _ in WORDS.findall(text))}
    if said == {"A"} and len(ARTICLE.findall(text)) == len(letters):
        return None
    return said.pop() if len(said) == 1 else None


def outcome(first: str | None, swapped: str | None) -> str:
    """first or second: the reply that is better in both orders; otherwise why there is none.

    swapped: the verdict where the second reply is A.

    >>> outcome("A", "B"), outcome("B", "A"), outcome("A", "A"), outcome("C", "C")
    ('first', 'second', 'judge_disagrees', 'tied')
    """
    if first is None or swapped is None:
        return "no_verdict"
    if "C" in (first, swapped):
        return "tied" if first == swapped else "judge_disagrees"
    if first == swapped:
        return "judge_disagrees"
    return "first" if first == "A" else "second"
