"""Requests that the guard is measured on: written by people who saw neither its training texts nor it, scored only.

Of each language 120 plain unsafe ones, 120 harmless look-alikes and 60 disguised unsafe ones, a line each of
requests/<kind>_<language>.txt. In requests/<language>.jsonl 200, 200 and 80 by others, with the turns of a conversation
where they matter.
"""

from __future__ import annotations

from pathlib import Path

KINDS = ("plain", "harmless", "disguised")


def requests_of(kind: str, language: str) -> str:
    """The requests of a kind in a language, one a line."""
    return (Path(__file__).parent / "requests" / f"{kind}_{language}.txt").read_text(encoding="utf-8")
