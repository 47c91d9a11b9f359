"""Whether a reply states the expected answer: exact match after normalising, and word-level F1 for longer answers."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from pipelines.data.text.languages import CHINESE_CHARACTER

# Punctuation that may surround an answer without changing it, after NFKC (which makes ！？，；： and brackets ASCII).
# Not among them: - # % + / and _, which may be part of an answer (-5, C#, 50%).
SURROUNDING = " \t\n\r.,!?;:'\"`*()[]{}<>。、…“”‘’「」『』《》〈〉【】〔〕·—"
ARTICLES = {"a", "an", "the"}
WORD = re.compile(rf"{CHINESE_CHARACTER.pattern}|(?:(?!{CHINESE_CHARACTER.pattern})\w)+")


def normalised(text: str) -> str:
    """The canonical spelling of an answer: NFKC, casefolded, no surrounding punctuation, single spaces.

    >>> normalised(" “Forty-Two”. "), normalised("４２。"), normalised("-5 %")
    ('forty-two', '42', '-5 %')
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(text.strip(SURROUNDING).split())


def matches(reply: str, answer: str) -> bool:
    """Whether a reply is exactly the answer, after normalising both.

    >>> matches("42.", "42"), matches("It is 42", "42"), matches("四十二。", "四十二")
    (True, False, True)
    """
    return normalised(reply) == normalised(answer)


def f1(reply: str, answer: str) -> float:
    """Word-level F1 of a reply: harmonic mean of precision and recall, as in SQuAD (Rajpurkar et al. 2016).

    Words are Chinese characters and runs of other letters and digits; English articles don't count.

    >>> f1("a red house", "the house"), f1("红房子", "房子")
    (0.6666666666666666, 0.8)
    """
    reply_words, answer_words = words(reply), words(answer)
    if not reply_words or not answer_words:
        return float(reply_words == answer_words and matches(reply, answer))
    num_common = (Counter(reply_words) & Counter(answer_words)).total()
    return 2 * num_common / (len(reply_words) + len(answer_words))


def words(text: str) -> list[str]:
    """The words of a text that `f1` compares."""
    return [word for word in WORD.findall(normalised(text)) if word not in ARTICLES]
