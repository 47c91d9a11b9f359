"""What the published filters of web text share: pieces of a text that repeat earlier ones, and counts of its words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.data.text.measures import DocumentStats
    from pipelines.data.text.web_words import WebText


def counted(document: DocumentStats) -> WebText:
    """The counts of its words, which `apply_filters` adds for filters with reads_web_words."""
    if document.web is None:
        raise ValueError("its words are not counted: expected a document of apply_filters")
    return document.web


def duplicates(pieces: Iterable[str]) -> tuple[int, int]:
    """Number of pieces that repeat an earlier one, and their characters.

    >>> duplicates(["one", "two", "one"])
    (1, 3)
    """
    pieces = list(pieces)
    seen = set(pieces)
    if len(seen) == len(pieces):
        return 0, 0
    seen.clear()
    number = characters = 0
    for piece in pieces:
        if piece in seen:
            number += 1
            characters += len(piece)
        seen.add(piece)
    return number, characters
