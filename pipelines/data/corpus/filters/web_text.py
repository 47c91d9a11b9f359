"""What the published filters of web text share: signs of punctuation, and pieces of a text that repeat earlier ones."""

from __future__ import annotations

from collections.abc import Iterable

# Signs that end a sentence in the scripts of the world, as FineWeb lists them (Unicode's Sentence_Terminal, and dots).
SENTENCE_SIGNS = frozenset(
    ".?!։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧇꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡"
)
SIGNS = SENTENCE_SIGNS.union(
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
)


def is_sign(word: str) -> bool:
    """Whether a word is of signs alone.

    >>> is_sign("--"), is_sign("n't")
    (True, False)
    """
    return not word.isalnum() and SIGNS.issuperset(word)


def duplicates(pieces: Iterable[str]) -> tuple[int, int]:
    """Number of pieces that repeat an earlier one, and their characters.

    >>> duplicates(["one", "two", "one"])
    (1, 3)
    """
    seen: set[str] = set()
    number = characters = 0
    for piece in pieces:
        if piece in seen:
            number += 1
            characters += len(piece)
        seen.add(piece)
    return number, characters
