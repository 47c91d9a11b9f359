"""Before the blocks are planned: compressed files that would keep one core busy alone are unpacked, each by one task.

    files that are a good share of all ──decompressed──► draft/unpacked.partial/* ──► ranges, read by many tasks

Which ones depends on the files alone, so that a corpus is the same on any number of cores. The copies are in no
snapshot of the draft: another machine makes them again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from pipelines.blocks import MUCH_BYTES, AtomicFile
from pipelines.data.sources import streams
from pipelines.data.sources.ranges import RangedSource
from pipelines.data.sources.source import Source
from pipelines.parallel import make_files
from pipelines.stage import Work

MAX_RATIO = 20  # of text, which is a tenth at best; a row of zeros is a thousand times as large, and fills the disk
MIN_SHARE = 1 / 16  # of all text: more files of this size keep the cores of a node busy as they are


def unpacked(work: Work) -> Work:
    """The work, with the sources reading copies of their large compressed files. Those that are damaged, or MAX_RATIO
    times as large as they are compressed, are read as they are."""
    folder = work.draft.path / "unpacked.partial"
    items = [
        {"path": str(folder / xxhash.xxh3_64_hexdigest(os.fsencode(file))), "source": name, "file": str(file)}
        for name, file in _large(work.sources)
    ]
    make_files(work, unpack, items, unit="unpacked files")
    copies: dict[str, dict[str, str]] = {}
    for item in items:
        if os.path.getsize(item["path"]):
            copies.setdefault(item["source"], {})[item["file"]] = item["path"]
    sources = {
        name: source.with_copies(copies[name]) if isinstance(source, RangedSource) and name in copies else source
        for name, source in work.sources.items()
    }
    return replace(work, sources=sources)


def unpack(item: dict[str, Any]) -> None:
    """Writes the decompressed copy of a file, an empty one of a file that is damaged or expands too much. In a task."""
    most = MAX_RATIO * os.path.getsize(item["file"])
    with AtomicFile(Path(item["path"])) as copy:
        with streams.open_bytes(Path(item["file"])) as stream, copy.temporary.open("wb") as out:
            while out.tell() <= most and (block := stream.read(streams.BUFFER_BYTES)):
                out.write(block)
            if stream.damage or out.tell() > most:
                out.truncate(0)
        copy.publish()


def _large(sources: Mapping[str, Source]) -> Iterator[tuple[str, Path]]:
    """Yields (source's name, file) of each compressed file with a good share of all text, if it can be divided."""
    total = 0
    large: list[tuple[str, RangedSource, Path, int]] = []
    for name, source in sources.items():
        for file in source.each_file():
            is_compressed = streams.is_compressed(file)
            size = os.path.getsize(file) * (streams.RATIO if is_compressed else 1)
            total += size
            if is_compressed and size > MUCH_BYTES and isinstance(source, RangedSource):
                large.append((name, source, file, size))
    for name, source, file, size in large:
        if size > MIN_SHARE * total and source.reads_ranges(file):
            yield name, file
