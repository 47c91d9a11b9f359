"""Numbers of lines in large files, counted while the files are hashed: ranges of them are numbered without a reading.

The numbers lie in the store's cache by the file's digest, so they are known wherever its digest is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipelines.data.sources.ranges import STEP_BYTES
from pipelines.store.files import write_atomically


class LineCounter:
    """Counts the lines of a file that is read from its beginning, in chunks of some steps each but for the last."""

    def __init__(self) -> None:
        self.before = [0]  # lines that end before each step, and in all

    def add(self, chunk: bytes) -> None:
        for start in range(0, len(chunk), STEP_BYTES):
            self.before.append(self.before[-1] + chunk.count(b"\n", start, start + STEP_BYTES))


def save(folder: Path, digest: str, before: Sequence[int]) -> None:
    """Keeps the numbers of a file with this digest. On a full or read-only disk they are counted again by others."""
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{digest}.json", json.dumps(before))


def load(folder: Path, digest: str) -> list[int] | None:
    """Lines that end before each step of a file with this digest; None where nobody has counted them."""
    try:
        before = json.loads((folder / f"{digest}.json").read_bytes())
    except (OSError, ValueError):
        return None
    return before if isinstance(before, list) else None
