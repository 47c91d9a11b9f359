"""Picture of `rayse top` for the documentation: python -m tests.serve.picture_top URL docs/top.svg"""

from __future__ import annotations

import io
import sys
import time

from rich.console import Console

from serve.client import Client
from serve.verbs.top import figures, parse, table

INTERVAL_S = 5.0


def main(url: str, out: str) -> None:
    """Looks at the server twice, and writes the table as SVG."""
    client = Client(url)
    before = parse(client.metrics())
    time.sleep(INTERVAL_S)
    console = Console(record=True, width=64, file=io.StringIO())
    console.print(table(url, figures(before, parse(client.metrics()), INTERVAL_S)))
    console.save_svg(out, title="rayse top")


if __name__ == "__main__":
    main(*sys.argv[1:])
