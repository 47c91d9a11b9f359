"""Blocks hold as many parts as fit, in order, and dividing takes time in proportion to the parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.blocks import AtomicFile, plan, remove_unpublished
from pipelines.data.sources.source import Part, Source


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

    def parts(self) -> list[Part]:
        return [CountedPart(index=n, where="here", group="", bytes=size) for n, size in enumerate(self.sizes)]


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
