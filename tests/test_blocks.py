"""Blocks hold as many parts as fit, in order, and dividing takes time in proportion to the parts."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import DiskFull
from pipelines.blocks import AtomicFile, Block, note_of_compressed, pack, plan, remove_unpublished, unpack
from pipelines.data.sources import SOURCES, ranges
from pipelines.data.sources.source import Part, Source
from pipelines.store.digests import FileDigests


class Reads:
    """How often the size of a part was read."""

    number = 0


class CountedPart(Part):
    """A part that counts how often its size is read."""

    def __getattribute__(self, name: str) -> Any:
        Reads.number += name == "bytes"
        return super().__getattribute__(name)


class Sizes(Source):
    """Parts of so many bytes."""

    kind: str = "sizes"
    sizes: list[int]

    def each_part(self) -> Iterator[Part]:
        return (CountedPart(index=n, where="here", group="", bytes=size) for n, size in enumerate(self.sizes))


def test_a_block_is_full_before_the_next_begins() -> None:
    sources = {"b": Sizes(sizes=[4, 5, 1, 20, 1]), "a": Sizes(sizes=[10, 1])}
    blocks = [(block.source, [part.index for part in block.parts]) for block in plan(sources, Path(), 10)]
    assert blocks == [("a", [0]), ("a", [1]), ("b", [0, 1, 2]), ("b", [3]), ("b", [4])]


def test_sizes_are_read_in_proportion_to_the_parts() -> None:
    for num_parts in (100, 1000):
        Reads.number = 0
        assert len(plan({"a": Sizes(sizes=[1] * num_parts)}, Path(), 1_000_000)) == 1
        assert Reads.number <= 3 * num_parts


def test_only_files_under_temporary_names_are_removed(tmp_path: Path) -> None:
    with AtomicFile(tmp_path / "rows") as file:
        file.temporary.write_bytes(b"")
        (tmp_path / ".nfs000000000123").write_bytes(b"")
        (tmp_path / ".folder").mkdir()
        remove_unpublished(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".folder", ".nfs000000000123"]


def test_the_room_of_a_disk_is_not_said_to_be_that_of_a_quota(tmp_path: Path) -> None:
    for code, text in ((errno.EDQUOT, ""), (errno.ENOSPC, r"it has room for [\d,]+ bytes, of which ")):
        with (
            pytest.raises(
                DiskFull, match=rf"rows: the disk is full \(.*\): {text}this file had taken 3 and needs more$"
            ),
            AtomicFile(tmp_path / "rows") as file,
        ):
            file.temporary.write_bytes(b"abc")
            raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_parts_are_unpacked_as_they_were() -> None:
    parts = [
        Part(index=7, where="a\\xe9/文.txt", group="文.txt", bytes=3, args={"file": "a\udce9/文.txt", "alone": False}),
        Part(index=8, where="b", group="b", first_row=None, args={"start": 1 << 40, "names": ["x"]}),
    ]
    assert unpack(pack(parts)) == parts


def test_each_of_many_small_files_takes_little_memory_in_the_driver(tmp_path: Path) -> None:
    """Also while they are looked at."""
    number = 4000
    for n in range(number):
        file = tmp_path / "code" / f"package_{n // 100:03}" / "source" / f"module_{n:05}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"def module_{n}(): ...\n")
    source = SOURCES["text"].model_validate({"kind": "text", "path": "code"}).at(tmp_path)
    (tmp_path / "cache").mkdir()
    digests = FileDigests(tmp_path / "cache" / "digests.txt")
    digests.of_all(source.each_file())
    source.identity()  # keeps the encodings of 4,096 files at most
    first = plan({"code": source}, tmp_path, 10_000)
    digests = FileDigests(digests.cache)
    tracemalloc.start()
    identity = source.identity(), digests.of_all(source.each_file())
    blocks = plan({"code": source}, tmp_path, 10_000)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert blocks == first and sum(len(block.parts) for block in blocks) == len(identity[1]) == number
    assert held / number < 350 and peak / number < 700


def test_a_compressed_file_that_one_core_reads_to_the_end_is_named_with_the_remedy(tmp_path: Path) -> None:
    for name, size in (("a.txt.gz", 1000), ("b.txt.gz", 24 << 20), ("c.txt.gz", 30 << 20), ("d.txt", 90 << 20)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # of zeros, which no disk has to hold
    small, large, plain = (
        plan({"text": SOURCES["text"].model_validate({"path": path}).at(tmp_path)}, tmp_path, 1000)
        for path in ("a.txt.gz", "*", "*.txt")
    )
    assert note_of_compressed(large, tasks=4).startswith("c.txt.gz: about 94 MB of text")
    assert note_of_compressed(large, tasks=4).endswith("unpack or divide it")
    assert note_of_compressed(large, tasks=2) == ""  # each core has as much to read
    assert note_of_compressed(small, tasks=4) == note_of_compressed(plain, tasks=4) == ""


def test_blocks_are_searched_for_a_large_compressed_file_one_by_one() -> None:
    def block(first: int, number: int, where: str, size: int) -> Block:
        parts = (Part(n, where, f"group {n}", size, 1, {"file": f"{n}"}) for n in range(first, first + number))
        return Block.of("code", parts, Path())

    blocks = [block(1000 * n, 1000, "a.txt", 80_000) for n in range(40)] + [block(40_000, 1, "b.txt.gz", 90_000_000)]
    tracemalloc.start()
    held = blocks[0].parts
    of_one, _ = tracemalloc.get_traced_memory()
    del held
    tracemalloc.reset_peak()
    assert note_of_compressed(blocks, tasks=1000).startswith("b.txt.gz: ")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * of_one  # while one is unpacked its JSON is there, too


def test_each_range_of_json_lines_takes_little_memory_in_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1000)
    (tmp_path / "web.jsonl").write_text('{"text": "A line of some text."}\n' * 60_000)
    source = SOURCES["jsonl"].model_validate({"kind": "jsonl", "path": "web.jsonl"}).at(tmp_path)
    tracemalloc.start()
    blocks = plan({"web": source}, tmp_path, 1000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(blocks) > 1500 and held / len(blocks) < 600
