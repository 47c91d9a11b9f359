"""Output of the command line: a plain console, a table, one JSON object."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.errors import UNPRINTABLE


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
    print(UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text))
