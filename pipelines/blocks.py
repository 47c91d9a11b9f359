"""Blocks: how a stage divides its sources into work for many tasks, so that a kill loses at most one block each.

sources ──parts──► blocks ──one task each──► draft/blocks/<source>.<parts>.parquet, complete or absent
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq

from pipelines.data.sources.source import Part, Source

COUNTS = b"rayse.counts"  # the key of a block's counts in its file's metadata


@dataclass(frozen=True)
class Block:
    """Consecutive parts of one source."""

    source: str
    parts: tuple[Part, ...]
    folder: Path

    @property
    def file(self) -> Path:
        """The file of its rows, with the counts in its metadata. Written last."""
        first, last = self.parts[0].index, self.parts[-1].index
        return self.folder / f"{quote(self.source, safe='')}.{first:06}-{last:06}.parquet"

    @property
    def rejected(self) -> Path:
        """The file of its rows that are not used."""
        return self.file.with_suffix(".rejected.parquet")

    def counts(self) -> Counter[str]:
        """The counts of its reading: rows read, dropped and bad."""
        return Counter(json.loads(pq.read_metadata(self.file).metadata[COUNTS]))


def plan(sources: Mapping[str, Source], folder: Path, block_bytes: int) -> list[Block]:
    """Divides sources into blocks, in the order of (source's name, part).

    Raises UserError for a source that is missing or empty."""
    blocks: list[Block] = []
    for name in sorted(sources):  # the order in the recipe is not part of a fingerprint
        parts: list[Part] = []
        num_bytes = 0
        for part in sources[name].parts():
            if parts and num_bytes + part.bytes > block_bytes:
                blocks.append(Block(name, tuple(parts), folder))
                parts, num_bytes = [], 0
            parts.append(part)
            num_bytes += part.bytes
        if parts:
            blocks.append(Block(name, tuple(parts), folder))
    return blocks


@dataclass
class AtomicFile:
    """A file written under a temporary name, then moved to its path by `publish`; deleted if not published."""

    path: Path

    def __enter__(self) -> AtomicFile:
        self.temporary = self.path.with_name(f".{uuid.uuid4().hex}")
        return self

    def publish(self) -> None:
        handle = os.open(self.temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(self.temporary, self.path)

    def __exit__(self, *exception: object) -> None:
        self.temporary.unlink(missing_ok=True)
