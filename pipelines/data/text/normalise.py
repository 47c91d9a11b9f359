"""Normalises text: composed characters, `\\n` line ends, no invisible characters, no trailing or repeated blank space.

Kept as they are: indentation (it has a meaning in code and lists), Chinese punctuation and full-width forms, case.
"""

from __future__ import annotations

import re
import unicodedata

LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
# Controls except tab and line feed; soft hyphen; zero-width space, word joiner, byte order mark; direction marks.
# The zero-width joiners U+200C and U+200D are kept: scripts and emoji are spelled with them.
CONTROLS = "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f"
INVISIBLE = re.compile(f"[{CONTROLS}\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
OTHER_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")  # except U+3000, which indents Chinese paragraphs
# What the three above match, for one look: most texts have none of it. Those in ASCII as bytes.
REPLACED = re.compile(f"[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029{INVISIBLE.pattern[1:-1]}{OTHER_SPACES.pattern[1:-1]}]")
ASCII_CONTROLS = bytes((*range(0x09), *range(0x0B, 0x20), 0x7F))
# A private-use character that no text needs. Rendering a chat takes it out of messages and puts it into the text of
# their special tokens (tokens/chat_encoding.py): what reads a message before that has to read it without.
BREAK = "\ue000"
TRAILING_SPACE = " \t\u3000"
BLANK_LINES = re.compile("\n{3,}")
# UTF-8 decoded as Latin-1 or Windows-1252 (of Latin letters, quotation marks, a byte order mark, Chinese), or as GBK;
# the replacement characters of GBK decoders. Some are invisible: they are counted before a text is normalised.
TAIL = "\u0080-\u009f\u00a1-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"  # 80 to BF as characters, without A0
MOJIBAKE_STARTS = re.compile("[ÃÂâïä-ç锟烫屯鈥銆]")  # most texts have none of them, which is faster to see
MOJIBAKE = re.compile(
    f"Ã[\u0080-\u009f\u00a1-\u00bf]|Â[\u0080-\u00bf]|â[\u0080€][{TAIL}]|ï»¿|[ä-ç][{TAIL}][{TAIL}]"
    "|锟斤拷|烫烫烫|屯屯屯|鈥[檚淭渃]|銆[\ue000-\uf8ff侀]"
)


def normalise(text: str) -> str:
    """Returns the normalised text. Idempotent."""
    if not text.isascii():
        if REPLACED.search(text):
            text = OTHER_SPACES.sub(" ", INVISIBLE.sub("", LINE_ENDS.sub("\n", text)))
        text = unicodedata.normalize("NFC", text)
    elif len(text.encode().translate(None, ASCII_CONTROLS)) < len(text):
        text = INVISIBLE.sub("", LINE_ENDS.sub("\n", text))
    if " \n" in text or "\t\n" in text or "\u3000\n" in text:
        text = "\n".join(line.rstrip(TRAILING_SPACE) for line in text.split("\n"))
    if "\n\n\n" in text:
        text = BLANK_LINES.sub("\n\n", text)
    return text.rstrip().lstrip("\n")


def mojibake(text: str) -> int:
    """Counts well-known traces of a wrong decoding in a text that is not normalised yet.

    >>> mojibake("cafÃ© is café"), mojibake("It\\u00e2\\x80\\x99s"), mojibake("ä½\\xa0å¥½ä¸\\x96ç\\x95\\x8c")
    (1, 1, 3)
    """
    return len(MOJIBAKE.findall(text)) if not text.isascii() and MOJIBAKE_STARTS.search(text) else 0
