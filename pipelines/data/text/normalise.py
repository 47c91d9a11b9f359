"""One way to write a text: composed characters, `\\n` line ends, nothing invisible, no trailing or piled-up blanks.

Kept as they are: indentation (code and lists mean something by it), Chinese punctuation and full-width forms, case.
"""

from __future__ import annotations

import re
import unicodedata

LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
# Controls but tab and line feed; soft hyphen; zero-width space, word joiner, byte order mark; direction marks.
# The zero-width joiners U+200C and U+200D stay: scripts and emoji are spelled with them.
CONTROLS = "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f"
INVISIBLE = re.compile(f"[{CONTROLS}\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
ASCII_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")  # all that the two above can find in ASCII
OTHER_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")  # but U+3000, by which Chinese paragraphs indent
TRAILING_SPACE = re.compile("[ \t\u3000]+$", re.MULTILINE)
BLANK_LINES = re.compile("\n{3,}")


def normalise(text: str) -> str:
    """The text in its one form. Doing it twice changes nothing."""
    if not text.isascii():
        text = LINE_ENDS.sub("\n", text)
        text = INVISIBLE.sub("", text)
        text = OTHER_SPACES.sub(" ", text)
        text = unicodedata.normalize("NFC", text)
    elif ASCII_CONTROLS.search(text):
        text = INVISIBLE.sub("", LINE_ENDS.sub("\n", text))
    if " \n" in text or "\t\n" in text or "\u3000\n" in text:
        text = TRAILING_SPACE.sub("", text)
    if "\n\n\n" in text:
        text = BLANK_LINES.sub("\n\n", text)
    return text.rstrip().lstrip("\n")
