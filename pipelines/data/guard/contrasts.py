"""Written requests that the guard is trained on: pairs of an unsafe one and a harmless one in like words.

    written/pairs_<language>.txt      unsafe | harmless      written/harmless_<language>.txt      harmless
    written/ordinary_<language>.txt   harmless, everyday requests and some replies
    written/frames_<language>.txt     pretexts around {}, in which a request, harmful or not, may be dressed up

The lexicon's requests are composed; these are written by several people, so that the guard also learns how people put
things, and its thresholds are chosen on such texts too. The pairs say what tells the two apart: who is hurt, whose it
is, what for. A line holds one pair; near-equal pairs are neighbours, which cross-validation keeps together.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "written"
SEPARATOR = " | "  # between the two of a pair


@cache
def pairs(language: str) -> list[tuple[str, str]]:
    """(unsafe, harmless) requests of a language. Raises ValueError where a line does not hold two."""
    split: list[tuple[str, str]] = []
    for number, line in enumerate(_lines(f"pairs_{language}.txt"), 1):
        unsafe, separator, harmless_one = line.partition(SEPARATOR)
        if not separator or SEPARATOR in harmless_one:
            raise ValueError(f"pairs_{language}.txt, line {number}: {line!r}: expected `unsafe{SEPARATOR}harmless`")
        split.append((unsafe, harmless_one))
    return split


def harmless(language: str) -> list[str]:
    """Harmless requests of a language without a counterpart."""
    return _lines(f"harmless_{language}.txt")


def ordinary(language: str) -> list[str]:
    """Everyday requests, and some replies, of a language, that have nothing to do with harm or what looks like it."""
    return _lines(f"ordinary_{language}.txt")


def frames(language: str) -> list[str]:
    """Texts with {} in place of a request; `\\n` in a line is a line's end."""
    return [line.replace("\\n", "\n") for line in _lines(f"frames_{language}.txt")]


@cache
def _lines(name: str) -> list[str]:
    return (FOLDER / name).read_text(encoding="utf-8").splitlines()
