"""Large files of text and tables: what is read of their ranges is what is read of the file in one piece."""

from __future__ import annotations

import itertools
import json
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.sources import csv, csv_ranges, ranges
from pipelines.data.sources.encodings import BOM
from pipelines.data.sources.files import FileSource
from pipelines.data.sources.source import BadRow, Part, Row
from pipelines.errors import UserError
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


def numbered(source: FileSource) -> list[Part]:
    parts = source.parts()
    counts = [json.loads(json.dumps(source.count_rows(part))) for part in parts]
    return list(source.numbered(parts, counts))


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


# ---- tables ----------------------------------------------------------------------------------------------------------

CELLS = ["a", "字", "two words", '"in quotes"', '"a ""quote"" within"', '"two\nlines"', '"three\r\nmore\n"', '""', "",
         '5" wide', '"a, b"', '"\r"', "'", '"' + "long\n" * 20 + '"']  # fmt: skip
WRONG = ['"not closed', '"closed" too early', "a,b,c", '"', '"\n"x', "\x00"]
ENDS = ["\n", "\n", "\n", "\r\n", "\r", "\n\n"]


def table(rng: random.Random, delimiter: str, *, num_wrong: int) -> str:
    lines = [f"id{delimiter}text"]
    wrong = set(rng.sample(range(30), num_wrong))
    for number in range(30):
        cell = rng.choice(WRONG) if number in wrong else rng.choice(CELLS)
        lines += [f"{number}{delimiter}{cell}" if rng.random() < 0.9 else f"{cell}{delimiter}{cell}"]
    return "".join(line + rng.choice(ENDS) for line in lines) + rng.choice(["", '1,"last', f"1{delimiter}end"])


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
@pytest.mark.parametrize("delimiter", [",", "|", "\t"])
@pytest.mark.parametrize("num_wrong", [0, 1, 3])
def test_ranges_of_a_table_give_what_the_file_gives(
    tmp_path: Path, divided: Callable[..., tuple[list[Any], int]], encoding: str, delimiter: str, num_wrong: int
) -> None:
    rng = random.Random(f"{encoding}{delimiter}{num_wrong}")
    most = 0
    for trial in range(20):
        data = table(rng, delimiter, num_wrong=num_wrong).encode(encoding)
        if trial % 4 == 0 and encoding == "utf-8":
            data = BOM + data
        if trial % 6 == 0:
            data = data.replace("字".encode(encoding), b"\x81", 1)
        options = {"max_row_bytes": 60} if trial % 5 == 0 else {"max_row_bytes": 130} if trial % 5 == 1 else {}
        options |= {"quotes": rng.choice(["text", "enclose"])} if trial % 3 else {}
        name = written(tmp_path, data, ".csv")
        source = make_source(tmp_path, "csv", name, delimiter=delimiter, encoding=encoding, **options)
        for size in SIZES:
            read, number = divided(source, size)
            most = max(most, number)
            assert read
    assert most > 15


def test_a_record_of_too_many_lines_is_found_in_ranges_too(
    tmp_path: Path, divided: Callable[..., tuple[list[Any], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = written(tmp_path, b'id,text\n1,one\n2,"a\nb\nc"\n3,"a\nb\nc\nd"\n4,four\n5,five\n', ".csv")
    for most in (2, 3, 4, 5):
        for size in SIZES:
            with monkeypatch.context() as patch:
                patch.setattr(csv, "MAX_LINES", most)
                patch.setattr(csv_ranges, "MAX_LINES", most)
                read, _ = divided(make_source(tmp_path, "csv", name), size)
                assert len(read) > 4


def test_each_record_belongs_to_the_range_in_which_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        b"id,text",
        b'1,"one',
        b"and a half",
        b'"',
        b"2,two",
        b'3,"three ""',
        b'"" and more"',
        b"4,four",
        b"5,five",
    ]
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1)  # each line
    source = make_source(tmp_path, "csv", written(tmp_path, b"\n".join(lines), ".csv"))
    assert [[row.row for row in of_range] for of_range in read_apart(source)] == [
        [], [4], [], [], [5], [7], [], [8], [9],
    ]  # fmt: skip


def test_behind_a_quote_that_is_not_closed_a_table_is_read_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [b"id,text", b"1,one", b'2,"two', b"3,three", b'4,"four"', b"5,five"]
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1)
    source = make_source(tmp_path, "csv", written(tmp_path, b"\n".join(lines), ".csv"))
    by_range = [[(row.row, type(row)) for row in of_range] for of_range in read_apart(source)]
    assert by_range == [[], [(2, Row)], [(3, BadRow), (4, Row), (5, Row), (6, Row)], [], [], []]


ONE_PIECE = [
    (b'"sep=;"\nid;text\n1;"one"\n2;two\n', {}),
    (b'id,text\n1,"a \\"b\\" c"\n2,"d"\n', {}),
    ("id¦text\n1¦one\n2¦two\n".encode(), {"delimiter": "¦"}),
    ("id,text\n1,one\n2,two\n".encode("utf-16"), {}),
    (b"id,text\n1,one\n2,two\n", {"rows": "prompts"}),
]


@pytest.mark.parametrize(("data", "options"), ONE_PIECE)
def test_tables_whose_records_the_bytes_do_not_tell_are_read_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", 3)
    source = make_source(tmp_path, "csv", written(tmp_path, data, ".csv"), **options)
    assert len(source.parts()) == 1
    assert len([row for row in rows(source) if isinstance(row, Row)]) == 2


def test_a_header_that_is_none_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", 3)
    (tmp_path / "a.csv").write_text("text,text\n1,one\n2,two\n")
    (tmp_path / "b.csv").write_text("id,text\n1,one\n2,two\n")
    read = rows(make_source(tmp_path, "csv", "*.csv"))
    assert [(row.row, type(row)) for row in read] == [(1, BadRow), (2, Row), (3, Row)]
    with pytest.raises(UserError, match="more than once"):
        make_source(tmp_path, "csv", "a.csv").parts()


# ---- lines that were counted before ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 5, 64])
def test_counts_of_a_range_from_lines_before_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    data = b"".join(b'{"text": "%d"}\n' % number for number in range(40)) + b"\n\n\nlast"
    source = make_source(tmp_path, "jsonl", written(tmp_path, data, ".jsonl"))
    monkeypatch.setattr(ranges, "RANGE_BYTES", 50)
    monkeypatch.setattr(ranges, "STEP_BYTES", step)
    before = [data[:place].count(b"\n") for place in range(0, len(data) + step, step)]
    parts = source.parts()
    assert len(parts) > 5 and sum(source.count_rows(part) for part in parts) == data.count(b"\n")
    counts = [source.count_rows(part) for part in parts]
    assert [source.count_rows(part, before) for part in parts] == counts
    assert [source.count_rows(part, before) for part in reversed(parts)] == counts[::-1]


def test_from_one_range_to_the_next_a_step_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'{"text": "a"}\n' * 400
    source = make_source(tmp_path, "jsonl", written(tmp_path, data, ".jsonl"))
    monkeypatch.setattr(ranges, "RANGE_BYTES", 50)
    parts, places = source.parts(), list[int]()
    monkeypatch.setattr(ranges, "STEP_BYTES", 1000)
    before = [data[:place].count(b"\n") for place in range(0, len(data) + 1000, 1000)]
    count_lines = ranges.count_lines

    def counted(file: Path, start: int, stop: int) -> int:
        places.append(stop)
        return count_lines(file, start, stop)

    monkeypatch.setattr(ranges, "count_lines", counted)
    assert sum(source.count_rows(part, before) for part in parts) == 400
    assert places == [0, *(part.args["stop"] for part in parts)]


def test_a_part_of_a_table_says_no_more_than_is_read_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", 4)
    source = make_source(tmp_path, "csv", written(tmp_path, b'id,text\n1,one\n2,"two\nlines\nof"\n3,three\n', ".csv"))
    usual = {"file", "size", "alone", "start", "stop", "end", "last_line"}
    added = [part.args.keys() - usual for part in numbered(source)]
    assert added == [set(), set(), set(), {"is_empty"}, {"skipped"}, set()]
