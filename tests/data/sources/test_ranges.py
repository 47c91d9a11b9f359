"""Large files of text: what is read of their ranges is what is read of the file in one piece."""

from __future__ import annotations

import itertools
import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.sources import ranges
from pipelines.data.sources.encodings import BOM
from pipelines.data.sources.files import FileSource
from pipelines.data.sources.source import BadRow, Part, Row
from tests.data.sources.reading import make_source, rows

SIZES = (1, 2, 3, 7, 20, 100)
NUMBERS = itertools.count()  # of files: of two with one name, size and time what was found out is kept


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> Callable[[FileSource, int], tuple[list[Row | BadRow], int]]:
    """A function that returns the rows of a source's ranges of this size, each read by itself as a task does, and the
    number of those that have any. Raises where they are not those of the files in one piece."""

    def of(source: FileSource, size: int) -> tuple[list[Row | BadRow], int]:
        whole = rows(source)
        monkeypatch.setattr(ranges, "RANGE_BYTES", size)
        by_range = list(read_apart(source))
        one_by_one = rows(source)
        monkeypatch.undo()
        read = [row for of_range in by_range for row in of_range]
        assert read == whole and one_by_one == whole
        return whole, sum(map(bool, by_range))

    return of


def read_apart(source: FileSource) -> Iterator[list[Row | BadRow]]:
    """Yields the rows of each range, read by a copy of the source that has read nothing before."""
    for part in numbered(source):
        assert part.first_row is not None
        yield list(pickle.loads(pickle.dumps(source)).read(part))


def numbered(source: FileSource) -> Iterator[Part]:
    next_row = 1
    for part in source.parts():
        yield replace(part, first_row=next_row)
        next_row += source.count_rows(part)


def written(folder: Path, data: bytes, suffix: str) -> str:
    file = folder / f"{next(NUMBERS)}{suffix}"
    file.write_bytes(data)
    return file.name


# ---- text ------------------------------------------------------------------------------------------------------------

WORDS = ["a", "word ", "字", "\n", "\n\n", "\r\n", "\r\n\r\n", "\n \t\n", "\t", "\ufeff", "\r", "a long line of words"]


@pytest.mark.parametrize("split", ["lines", "blank_lines"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "big5", "utf-16", "latin-1"])
def test_ranges_of_text_give_what_the_file_gives(
    tmp_path: Path, divided: Callable[..., tuple[list[Any], int]], split: str, encoding: str
) -> None:
    rng = random.Random(f"{split}{encoding}")
    most = 0
    for trial in range(60):
        text = "".join(rng.choices(WORDS, k=rng.randint(5, 60))) + "end"
        data = text.encode(encoding, "ignore")
        if trial % 4 == 0 and encoding == "utf-8":
            data = BOM * rng.randint(1, 2) + data
        if trial % 3 == 0 and encoding != "utf-16":  # bytes that are no characters, some at the end of a line
            lines = data.split(b"\n")
            lines[rng.randrange(len(lines))] += rng.choice(
                [b"\x81", b"\x81\x30", b"\x81\x30\x81", b"\xff", b"\x8f\xa2"]
            )
            data = b"\n".join(lines)
        limit = {"max_row_bytes": 12} if trial % 5 == 0 else {}
        source = make_source(tmp_path, "text", written(tmp_path, data, ".txt"), split=split, encoding=encoding, **limit)
        for size in SIZES:
            read, number = divided(source, size)
            most = max(most, number)
            assert read
    assert most == 1 if encoding == "utf-16" else most > 10


def test_a_range_of_paragraphs_ends_with_one_however_long_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = written(tmp_path, b"one\n\n" + b"a line of the second\n" * 500 + b"\nthree\n \nfour\n\nfive", ".txt")
    source = make_source(tmp_path, "text", name, split="blank_lines")
    monkeypatch.setattr(ranges, "RANGE_BYTES", 6)
    texts = [[(row.row, row.text[:6]) for row in of_range if isinstance(row, Row)] for of_range in read_apart(source)]
    assert texts == [[(1, "one"), (3, "a line")], [(504, "three")], [(506, "four"), (508, "five")]]


def test_what_is_no_row_by_itself_is_read_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\nthree\n")
    monkeypatch.setattr(ranges, "RANGE_BYTES", 2)
    assert len(make_source(tmp_path, "text", "a.txt", split="blank_lines").parts()) == 3
    assert len(make_source(tmp_path, "text", "a.txt", split="lines").parts()) == 3
    assert len(make_source(tmp_path, "text", "a.txt").parts()) == 1
    assert len(make_source(tmp_path, "text", "a.txt", split="lines", rows="prompts").parts()) == 1
    assert len(make_source(tmp_path, "text", "a.txt", split="lines", encoding="utf-7").parts()) == 1
