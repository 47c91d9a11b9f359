"""Output of the command line: a plain console, a table, one JSON object."""

from __future__ import annotations

import json
import re
from typing import Any

from rich.console import Console
from rich.table import Table

# Characters that steer a terminal or hide text, and halves of surrogate pairs, which no terminal can show.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with escapes in place of the control characters that a user's file may hold, but line ends and tabs.

    >>> printable("red \x1b[31m")
    'red \\x1b[31m'
    """
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def console() -> Console:
    """A console that prints names of recipes and files verbatim: [brackets] and :colons: are not markup."""
    return Console(highlight=False, markup=False, emoji=False)


def table(*columns: str) -> Table:
    """An empty table with these columns and no border."""
    empty = Table(box=None, pad_edge=False)
    for column in columns:
        empty.add_column(column, overflow="fold")
    return empty


def print_json(value: Any) -> None:
    """Prints one JSON object to stdout, with escapes for control characters."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    print(CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text))
