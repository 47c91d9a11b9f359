"""Terms: what a text is found by in the keyword index.

Words in lower case without a plural's ending, and the pairs of neighbouring characters of Chinese, which needs no
dictionary and finds new words, too (as Lucene's CJKAnalyzer does).
"""

from __future__ import annotations

import re
import unicodedata
from operator import add

from pipelines.data.knowledge.passages import HAN

VERSION = 1  # incremented when a text has other terms
WORD = re.compile(r"[^\W_]+")
RUNS = re.compile(rf"([{HAN}]+)|[^\W_{HAN}]+")


def terms(text: str) -> list[str]:
    """The terms of a text, in order and with repeats.

    >>> terms("Batteries of the X-200 充电器")
    ['battery', 'of', 'the', 'x', '200', '充电', '电器']
    """
    if text.isascii():
        return [_singular(word) if word[-1] == "s" else word for word in WORD.findall(text.lower())]
    result: list[str] = []
    for match in RUNS.finditer(unicodedata.normalize("NFKC", text).lower()):
        run = match[0]
        if not match[1]:
            result.append(_singular(run))
        elif len(run) == 1:
            result.append(run)
        else:
            result.extend(map(add, run, run[1:]))
    return result


def _singular(word: str) -> str:
    """A word without the ending of a plural (Harman 1991, the S stemmer)."""
    if len(word) < 4 or not word.endswith("s") or not word.isascii():
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    return word if word.endswith(("us", "ss")) else word[:-1]
