"""Words and sentences as the published filters of web text count them (Gopher, C4, FineWeb).

    text ──blanks──► chunks ──prefixes, suffixes, infixes──► words, signs among them

web_counts.py counts them in many texts at once. The filters' thresholds belong to these words: those of spaCy's rules
for English, which datatrove uses, without spaCy's lists of exceptions except the frequent ones. Chinese has a word for
each character here, and an n-gram of n words has `ngram_length` characters: no segmenter is needed.

Light imports only: recipes are read with this module.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from pipelines.data.text.languages import CHARACTERS_PER_WORD

if TYPE_CHECKING:
    import numpy as np

ALPHA = r"[^\W\d_]"
SIGNS = r"…,:;!?¿؟¡()\[\]{}<>_#*&。？！，、；：～·।،۔؛٪"
QUOTES = "'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧"
CURRENCIES = "$£€¥฿₽﷼₠-₿"
ICONS = r"\u00a6\u00a9\u00ae\u00b0\u2100-\u214f\u2190-\u21ff\u2300-\u23ff\u2500-\u27bf\u2900-\u2bff\u3000-\u303f" \
        r"\ufffd\U0001f000-\U0001faff"  # fmt: skip
UNITS = (
    "km²|km³|km/h|kmh|km|m²|m³|dm²|dm³|dm|cm²|cm³|cm|mm²|mm³|mm|ha|µm|nm|yd|in|ft|kg|mg|µg|g|lb|oz|m/s|mph|hPa|Pa|mbar"
    "|mb|MB|kb|KB|gb|GB|tb|TB|t|m|T|G|M|K|%"
)
LOWER, UPPER = "a-zß-öø-ÿ", "A-ZÀ-ÖØ-Þ"
PREFIX = re.compile(rf"\.\.+|[§%=—–{SIGNS}{QUOTES}{CURRENCIES}{ICONS}]|\+(?![0-9])")
SUFFIX = re.compile(
    rf"(?:\.\.+|['’][sS]|[—–{SIGNS}{QUOTES}{ICONS}]|(?<=[0-9])(?:\+|[{CURRENCIES}]|{UNITS})"
    rf"|(?<=[0-9{LOWER}%²+{SIGNS}{QUOTES}-])\.|(?<=[{UPPER}][{UPPER}])\.)$"
)
MAX_SUFFIX = 4  # characters of one, except of dots: mbar
# Of the frequent characters those that are prefixes, and suffixes, whatever is beside them, and those that are neither
# prefixes nor, but for units and 's, ends of suffixes: no pattern is tried for them.
PREFIX_SIGNS = frozenset(sign for sign in string.punctuation + QUOTES if PREFIX.fullmatch(sign) and sign != "+")
SUFFIX_SIGNS = frozenset(sign for sign in string.punctuation + QUOTES if SUFFIX.fullmatch(sign))
PLAIN = frozenset(string.ascii_letters + string.digits)
INFIX = re.compile(
    rf"\.\.+|[…{ICONS}]|(?<=[0-9])[+*^-](?=[0-9-])|(?<=[{LOWER}{QUOTES}])\.(?=[{UPPER}{QUOTES}])"
    rf"|(?<={ALPHA}),(?={ALPHA})|(?:(?<={ALPHA})|(?<=[0-9]))(?:---|--|——|[–—~:<>=/-])(?={ALPHA})"
)
CONTRACTION = re.compile(r"([A-Za-z]+)(n['’]t|['’](?:ll|ve|re|d|m|s))", re.IGNORECASE)
# Words with signs: of spaCy's exceptions, the frequent ones.
ABBREVIATIONS = frozenset(
    ("Mr.", "Mrs.", "Ms.", "Dr.", "Prof.", "Gen.", "Gov.", "Sen.", "Rep.", "Rev.", "St.", "Mt.", "Jr.", "Sr.", "Inc.",
     "Ltd.", "Co.", "Corp.", "Bros.", "vs.", "e.g.", "i.e.", "a.m.", "p.m.", "Ph.D.", "Jan.", "Feb.", "Mar.", "Apr.",
     "Jun.", "Jul.", "Aug.", "Sep.", "Sept.", "Oct.", "Nov.", "Dec.", "'s", "'ll", "'d", "'re", "'ve", "'m", "''",
     "’s", "’ll", "’d", "’re", "’ve", "’m", "and/or", ":)", ":-)", ":(", ":-(", ";)", ";-)", ":D", ":-D", ":P", ":-P",
     ":p", ":-p", ":/", ":-/", "<3")
)  # fmt: skip
COMPOUNDS = {"cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta")}
LINK = re.compile(r"[a-z]+://|www\.", re.IGNORECASE)
CHINESE = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
CHINESE_SIGN = re.compile(f"[{CHINESE}]")
CHINESE_PIECE = re.compile(f"[{CHINESE}]|[^\\s{CHINESE}]+")
LINE_END = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")  # of str.splitlines
MAX_CHUNK = 1000  # characters split at once: splitting takes time in proportion to their square
SENTENCE_SIGNS = frozenset(".?!։؟۔।॥།။።‼‽⁇⁈⁉。．｡！？﹒﹖﹗")  # that are words of their own and end a sentence
# Signs that end a sentence in the scripts of the world, as FineWeb lists them (Unicode's Sentence_Terminal, and dots).
TERMINAL_SIGNS = frozenset(
    ".?!։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧇꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡"
)
SIGN_CHARACTERS = TERMINAL_SIGNS.union(
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
)
STOP_WORDS = {  # of which running text has several
    "en": frozenset(("the", "be", "to", "of", "and", "that", "have", "with")),
    "zh": frozenset("的年在月是和日了於·為有被人中为他與後也而由于与后"),  # FineWeb2's; 于与后 are simplified 於與後
}


def words(text: str, language: str) -> list[str]:
    """The words of a text in its order; a sign of punctuation is a word of its own.

    >>> words("Don't stop: e.g. at 3.14 (or so).", "en")
    ['Do', "n't", 'stop', ':', 'e.g.', 'at', '3.14', '(', 'or', 'so', ')', '.']
    >>> words("用Python写。", "zh")
    ['用', 'Python', '写', '。']
    """
    chunks = CHINESE_PIECE.findall(text) if language == "zh" else text.split()
    return [word for chunk in chunks for word in cut_chunk(chunk)]


def cut_chunk(chunk: str) -> Sequence[str]:
    """The words of text without blanks; of Chinese, of a character or of what stands between characters."""
    if chunk.isalpha() and chunk not in COMPOUNDS:
        return (chunk,)
    if len(chunk) <= MAX_CHUNK:
        return _split(chunk)
    pieces = [chunk[first : first + MAX_CHUNK] for first in range(0, len(chunk), MAX_CHUNK)]
    return [word for piece in pieces for word in _split(piece)]


def _split(chunk: str) -> tuple[str, ...]:
    """The words of a chunk of text without blanks."""
    before: list[str] = []
    after: list[str] = []
    while chunk and chunk not in ABBREVIATIONS:
        length = len(chunk)
        if (first := chunk[0]) in PREFIX_SIGNS:
            before.append(first)
            chunk = chunk[1:]
        elif first not in PLAIN and (match := PREFIX.match(chunk)):
            before.append(match[0])
            chunk = chunk[match.end() :]
        if chunk and chunk not in ABBREVIATIONS:
            if (last := chunk[-1]) in SUFFIX_SIGNS:
                after.append(last)
                chunk = chunk[:-1]
            elif last in PLAIN and chunk[-MAX_SUFFIX - 1 :].isalpha():
                pass  # no digit before a unit, nor an apostrophe before an s
            elif match := SUFFIX.search(chunk, _suffix_start(chunk)):
                after.append(match[0])
                chunk = chunk[: match.start()]
        if len(chunk) == length:
            break
    return (*before, *_middle(chunk), *reversed(after))


def _suffix_start(chunk: str) -> int:
    """From where on a suffix may begin: dots have any length, all others at most MAX_SUFFIX characters."""
    return len(chunk.rstrip(".")) if chunk.endswith("..") else max(0, len(chunk) - MAX_SUFFIX)


def _middle(chunk: str) -> Sequence[str]:
    """The words of a chunk without signs around it."""
    if not chunk or chunk in ABBREVIATIONS:
        return (chunk,) if chunk else ()
    if chunk in COMPOUNDS:
        return COMPOUNDS[chunk]
    if (chunk.isascii() and chunk.replace("_", "").isalnum()) or LINK.match(chunk):
        return (chunk,)  # a word or name, in which nothing of the below is
    if match := CONTRACTION.fullmatch(chunk):
        return match.groups()
    pieces: list[str] = []
    start = 0
    for match in INFIX.finditer(chunk):
        if match.start() > start:
            pieces.append(chunk[start : match.start()])
        pieces.append(match[0])
        start = match.end()
    return [*pieces, chunk[start:]] if start < len(chunk) else pieces


def is_sign(word: str) -> bool:
    """Whether a word is of signs alone.

    >>> is_sign("--"), is_sign("n't")
    (True, False)
    """
    return not word.isalnum() and SIGN_CHARACTERS.issuperset(word)


def is_punctuation(word: str) -> bool:
    """Whether all characters of a word are punctuation in Unicode."""
    return not word.isalnum() and all(unicodedata.category(character)[0] == "P" for character in word)


def is_chinese(word: str) -> bool:
    """Whether a word is a Chinese character."""
    return len(word) == 1 and word >= "\u3005" and unicodedata.category(word) == "Lo"


def num_sentences(line: str, language: str) -> int:
    """Number of sentences of a line: one, and one more for each word after a sign that ends a sentence.

    >>> num_sentences("Mr. J. Smith came in. He left!", "en"), num_sentences("他来了。走了！", "zh")
    (2, 2)
    """
    number, has_ended = 1, False
    for word in words(line, language):
        if word in SENTENCE_SIGNS:
            has_ended = True
        elif has_ended and not is_punctuation(word):
            number, has_ended = number + 1, False
    return number


def num_words(text: str, language: str) -> float:
    """Number of words of a text, as content_words has it.

    >>> num_words("他来了。", "zh"), num_words("He came.", "en")
    (2.875, 3)
    """
    of_text = words(text, language)
    return content_words(len(of_text), sum(map(is_chinese, of_text)), language)


@overload
def content_words(number: int, num_chinese: int, language: str) -> float: ...
@overload
def content_words(number: np.ndarray, num_chinese: np.ndarray, language: str) -> np.ndarray: ...
def content_words(number: int | np.ndarray, num_chinese: int | np.ndarray, language: str) -> float | np.ndarray:
    """Number of words; a Chinese character among them counts as the part of a word that it says.

    >>> content_words(20, 16, "zh"), content_words(20, 0, "en")
    (14.0, 20)
    """
    return number - num_chinese + num_chinese / CHARACTERS_PER_WORD if language == "zh" else number


def ngram_length(num_words: int, language: str) -> int:
    """Number of `words` in an n-gram with the content of so many words.

    >>> [ngram_length(n, "zh") for n in (2, 5, 10)], ngram_length(5, "en")
    ([3, 8, 16], 5)
    """
    return round(num_words * CHARACTERS_PER_WORD) if language == "zh" else num_words
