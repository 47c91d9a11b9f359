"""Blocks: how a stage divides its sources into work for many tasks, so that a kill loses at most one block each.

sources ──parts──► blocks ──one task each──► draft/blocks/<source>.<parts>.parquet, complete or absent
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import DiskFull, disk_full
from pipelines.data.sources.source import Part, Source
from pipelines.data.sources.streams import is_compressed
from pipelines.store.files import UNPUBLISHED

COUNTS = b"rayse.counts"  # the key of counts in a Parquet file's metadata
MUCH_BYTES = 64 << 20  # of text for one task: some ten seconds of cleaning
Item = TypeVar("Item")
Packed = bytes  # parts, as compressed JSON


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive parts of one source. A driver has all blocks of a corpus, so its parts are packed: of small files
    in the same folders each takes some 20 bytes."""

    source: str
    folder: Path
    first: int  # the index of its first part
    last: int
    bytes: int  # approximate size of its text
    packed: Packed  # its parts

    @classmethod
    def of(cls, source: str, parts: Iterable[Part], folder: Path) -> Block:
        """The block of these parts."""
        return _packing(parts).block(source, folder)

    @property
    def parts(self) -> list[Part]:
        """Its parts, unpacked for whoever reads them."""
        return unpack(self.packed)

    @property
    def file(self) -> Path:
        """The file of its rows, with the counts in its metadata. Written last."""
        return self.folder / f"{quote(self.source, safe='')}.{self.first:06}-{self.last:06}.parquet"

    @property
    def rejected(self) -> Path:
        """The file of its rows that are not used."""
        return self.file.with_suffix(".rejected.parquet")

    def counts(self) -> Counter[str]:
        """The counts of its reading: rows read, dropped and bad."""
        return Counter(counts_of(self.file))


def plan(sources: Mapping[str, Source], folder: Path, block_bytes: int, *, by_name: bool = False) -> list[Block]:
    """Divides sources into blocks, in the order of (source's name, part).

    by_name: whether a block that is half full may end at a part whose name says so, so that a file that is added, or
    taken away, changes few blocks beside its own. Raises UserError for a source that is missing or empty."""
    blocks: list[Block] = []
    for name in sorted(sources):  # the order in the recipe is not part of a fingerprint
        packing = _Packing()
        for part in sources[name].each_part():
            if packing.num_parts and packing.bytes + part.bytes > block_bytes:
                blocks.append(packing.block(name, folder))
                packing = _Packing()
            packing.add(part)
            if by_name and packing.bytes > block_bytes / 2 and _ends_block(part, block_bytes):
                blocks.append(packing.block(name, folder))
                packing = _Packing()
        if packing.num_parts:
            blocks.append(packing.block(name, folder))
    return blocks


def note_of_compressed(blocks: Sequence[Block], tasks: int) -> str:
    """A sentence about a large compressed file that one task still reads when all others have ended; empty if there is
    none. tasks: that run at a time."""
    least = max(MUCH_BYTES, sum(block.bytes for block in blocks) / max(tasks, 1))
    large = (part for block in blocks if block.bytes > least for part in block.parts)  # of one block at a time
    compressed = (part for part in large if part.bytes > least and is_compressed(Path(part.where)))
    largest = max(compressed, key=lambda part: part.bytes, default=None)
    if largest is None:
        return ""
    size = f"about {largest.bytes / 1e6:,.0f} MB of text"
    return f"{largest.where}: {size} in a compressed file, which one core alone reads; unpack or divide it"


class _Packing:
    """Parts of a block, packed one by one: a block of small files may have 50,000, which take 500 bytes each."""

    def __init__(self) -> None:
        self.num_parts = self.bytes = self.first = self.last = 0
        self._compressor = zlib.compressobj()
        self._packed = bytearray()

    def add(self, part: Part) -> None:
        if not self.num_parts:
            self.first = part.index
        values = [part.index, part.where, part.group, part.bytes, part.first_row, part.args]
        text = ("," if self.num_parts else "[") + json.dumps(values, separators=(",", ":"))
        self._packed += self._compressor.compress(text.encode())
        self.num_parts, self.bytes, self.last = self.num_parts + 1, self.bytes + part.bytes, part.index

    def packed(self) -> Packed:
        """What `unpack` takes; no part can be added any more."""
        self._packed += self._compressor.compress(b"]" if self.num_parts else b"[]") + self._compressor.flush()
        return bytes(self._packed)

    def block(self, source: str, folder: Path) -> Block:
        return Block(source, folder, self.first, self.last, self.bytes, self.packed())


def _ends_block(part: Part, block_bytes: int) -> bool:
    """Whether a part's name is one of those that end a block: one in an eighth of block_bytes, at most every other."""
    fraction = min(0.5, part.bytes / (block_bytes / 8))
    return zlib.crc32(part.where.encode("utf-8", "replace")) < fraction * 2**32


def pack(parts: Iterable[Part]) -> Packed:
    """Parts as a block and an item of a task have them."""
    return _packing(parts).packed()


def _packing(parts: Iterable[Part]) -> _Packing:
    packing = _Packing()
    for part in parts:
        packing.add(part)
    return packing


def unpack(packed: Packed) -> list[Part]:
    """The parts that `pack` has packed."""
    return [Part(*values) for values in json.loads(zlib.decompress(packed))]


def deal(sizes: Iterable[tuple[Item, int]], full: float) -> list[list[Item]]:
    """Deals items to files, in order: adds items to a file until it has `full` bytes.

    sizes: pairs of an item and its bytes.

    >>> deal([("a", 5), ("b", 5), ("c", 1), ("d", 20)], 10)
    [['a', 'b'], ['c', 'd']]
    """
    files: list[list[Item]] = []
    bytes_left = 0.0
    for item, num_bytes in sizes:
        if bytes_left <= 0:
            files.append([])
            bytes_left = full
        files[-1].append(item)
        bytes_left -= num_bytes
    return files


def counts_of(file: Path) -> dict[str, int]:
    """The counts in the metadata of a Parquet file."""
    return json.loads(pq.read_metadata(file).metadata[COUNTS])


def write_arrow(batch: pa.RecordBatch, path: Path) -> None:
    """Writes an uncompressed Arrow IPC file of one record batch, complete or absent, for `map_arrow`."""
    with AtomicFile(path) as file:
        with pa.OSFile(str(file.temporary), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        file.publish()


def map_arrow(path: Path) -> pa.RecordBatch:
    """Maps a file of `write_arrow` into memory: only the rows that are looked at are read from the disk."""
    with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
        return reader.get_batch(0)


@dataclass
class AtomicFile:
    """A file written under a temporary name, then moved to its path by `publish`; deleted if not published.

    A full disk raises DiskFull, which names the path and what was free for it: not for a quota, which has no figure."""

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

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        written = self.temporary.stat().st_size if self.temporary.exists() else 0
        self.temporary.unlink(missing_ok=True)
        if error is not None and disk_full(error) and not isinstance(error, DiskFull):
            free = f"it has room for {shutil.disk_usage(self.path.parent).free:,} bytes, of which "
            if getattr(error, "errno", None) == errno.EDQUOT:  # what is free is not for this user
                free = ""
            raise DiskFull(
                f"{self.path}: the disk is full ({error}): {free}this file had taken {written:,} and needs more"
            ) from error


def remove_unpublished(folder: Path) -> None:
    """Deletes the files that killed tasks have left in a folder under temporary names; no other hidden ones, such as
    those that NFS keeps while they are read."""
    for file in folder.glob(".*"):
        if UNPUBLISHED.fullmatch(file.name):
            file.unlink(missing_ok=True)
