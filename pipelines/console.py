"""How facts are printed: a plain console, a table, one JSON object."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Prints what recipes and files are called as it is: [brackets] and :colons: are no markup here."""
    return Console(highlight=False, markup=False, emoji=False)


def table(*columns: str) -> Table:
    """An empty table with these columns, without lines around them."""
    made = Table(box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=1))
