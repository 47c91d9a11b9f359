"""Whether a reply says what was asked for: equality after normalising, and the overlap of words for longer answers."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from pipelines.data.text.languages import CHINESE_CHARACTER

# What may stand around an answer without changing it, after NFKC (which makes ！？，；： and brackets ASCII).
# Not among them: - # % + / and _, which may be part of one (-5, C#, 50%).
AROUND = " \t\n\r.,!?;:'\"`*()[]{}<>。、…“”‘’「」『』《》〈〉【】〔〕·—"
ARTICLES = {"a", "an", "the"}
WORD = re.compile(rf"{CHINESE_CHARACTER.pattern}|(?:(?!{CHINESE_CHARACTER.pattern})\w)+")


def normalised(text: str) -> str:
    """One spelling of an answer: compatible characters made one (NFKC), no case, nothing around it, single spaces.

    >>> normalised(" “Forty-Two”. "), normalised("４２。"), normalised("-5 %")
    ('forty-two', '42', '-5 %')
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(text.strip(AROUND).split())


def matches(reply: str, answer: str) -> bool:
    """Whether a reply is the answer and nothing more.

    >>> matches("42.", "42"), matches("It is 42", "42"), matches("四十二。", "四十二")
    (True, False, True)
    """
    return normalised(reply) == normalised(answer)


def f1(reply: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the reply's words, as SQuAD counts them (Rajpurkar et al. 2016).

    Words are Chinese characters and runs of other letters and digits; English articles don't count.

    >>> f1("a red house", "the house"), f1("红房子", "房子")
    (0.6666666666666666, 0.8)
    """
    said, wanted = words(reply), words(answer)
    if not said or not wanted:
        return float(said == wanted and matches(reply, answer))
    same = (Counter(said) & Counter(wanted)).total()
    return 2 * same / (len(said) + len(wanted))


def words(text: str) -> list[str]:
    """The words that `f1` compares."""
    return [word for word in WORD.findall(normalised(text)) if word not in ARTICLES]
