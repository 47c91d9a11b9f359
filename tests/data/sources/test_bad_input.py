"""What is wrong in users' files is counted with its place and reason; it costs no other row, and no memory."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.data.sources import csv, ranges
from pipelines.data.sources.source import BadRow, Row
from pipelines.errors import UserError, printable
from pipelines.store.digests import digest_value
from tests.data.sources.reading import bad, make_source, rows, texts

KINDS = ["text", "jsonl", "json", "csv", "parquet", "html", "warc", "pdf", "docx", "epub"]
SUFFIX = {"text": "txt", "html": "html", "docx": "docx"}


# ---- hidden files ----------------------------------------------------------------------------------------------------

HIDDEN = ("._a", ".a", ".git/a", "__MACOSX/a", "__MACOSX/._a", "lost+found/a", ".ipynb_checkpoints/a-checkpoint",
          "in/.cache/a")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_files_and_folders_are_passed_over(tmp_path: Path, kind: str) -> None:
    suffix = SUFFIX.get(kind, kind)
    visible = [tmp_path / f"a.{suffix}", tmp_path / f"in/b.{suffix}", tmp_path / f"in/C.{suffix.upper()}"]
    for file in [*visible, *(tmp_path / f"{name}.{suffix}" for name in HIDDEN)]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    assert make_source(tmp_path, kind, ".").files() == sorted(visible)
    assert make_source(tmp_path, kind, f"**/*.{suffix}").files() == sorted(visible[:2])
    assert make_source(tmp_path, kind, f"*/*.{suffix}").files() == [visible[1]]
    for name in HIDDEN:  # what a user names is read
        assert make_source(tmp_path, kind, f"{name}.{suffix}").files() == [tmp_path / f"{name}.{suffix}"]
    assert make_source(tmp_path, kind, "__MACOSX").files() == [tmp_path / f"__MACOSX/a.{suffix}"]


def test_a_folder_may_lie_in_a_hidden_one(tmp_path: Path) -> None:
    (tmp_path / ".data/set").mkdir(parents=True)
    (tmp_path / ".data/set/a.txt").write_text("x")
    for path in (".data/set", ".data", ".data/*/*.txt", ".data/**/*.txt"):
        assert texts(make_source(tmp_path, "text", path)) == ["x"]


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "content"), [("text", "one"), ("jsonl", '{"text": "one"}'), ("csv", "text;n\none;1\n")]
)
def test_a_file_whose_name_is_not_utf8_is_read(tmp_path: Path, kind: str, content: str) -> None:
    name, suffix = os.fsdecode(b"caf\xe9"), SUFFIX.get(kind, kind)  # as archives of older systems have it
    (tmp_path / f"{name}.{suffix}").write_text(content)
    source = make_source(tmp_path, kind, ".")
    assert texts(source) == ["one"]
    assert [(part.where, part.group) for part in source.parts()] == [(f"caf%E9.{suffix}",) * 2]
    assert digest_value(source.identity()) == digest_value(make_source(tmp_path, kind, ".").identity())


def test_folders_behind_links_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "in").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b")
    (tmp_path / "a" / "in" / "up").symlink_to(tmp_path / "a")  # a circle
    assert texts(make_source(tmp_path, "jsonl", "a")) == ["one"]
    (tmp_path / "a" / "current").symlink_to(tmp_path / "a" / "v2")
    (tmp_path / "a" / "v2").mkdir()
    (tmp_path / "a" / "v2" / "2.jsonl").write_text('{"text": "two"}\n')
    names = [tmp_path / "a" / "link" / "1.jsonl", tmp_path / "a" / "v2" / "2.jsonl"]
    assert make_source(tmp_path, "jsonl", "a").files() == names  # a link within the folder gives no name


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_file_among_others_is_counted(tmp_path: Path, kind: str) -> None:
    suffix = SUFFIX.get(kind, kind)
    (tmp_path / f"a.{suffix}").touch()
    (tmp_path / f"b.{suffix}").write_text("other")
    source = make_source(tmp_path, kind, ".")
    part = source.parts()[0]
    assert part.where == f"a.{suffix}"
    [row] = source.read(part)
    assert not isinstance(row, Row)
    assert "the file is empty" in row.problem
    with pytest.raises(UserError, match=f"a.{suffix}: the file is empty"):
        make_source(tmp_path, kind, f"a.{suffix}").files()
    (tmp_path / f"b.{suffix}").write_text("")
    with pytest.raises(UserError, match=f"a.{suffix}: the file is empty"):
        make_source(tmp_path, kind, ".").files()


@pytest.mark.parametrize("change", ["append", "rewrite", "delete"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, change: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "x"}\n' * 1000)
    source = make_source(tmp_path, "jsonl", "a.jsonl")
    reading = (row for part in source.parts() for row in source.read(part))
    next(reading)
    if change == "append":
        with file.open("a") as stream:
            stream.write('{"text": "y"}\n')
    elif change == "rewrite":
        os.utime(file, ns=(0, 0))
    else:
        file.unlink()
    with pytest.raises(UserError, match=r"a\.jsonl: (changed while it was read|cannot be read any more)"):
        list(reading)


def test_a_file_that_grew_between_planning_and_reading_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    source = make_source(tmp_path, "text", "a.txt", split="lines")
    [part] = source.parts()
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"a\.txt: changed"):
        list(source.read(part))


def test_of_several_files_the_rows_of_one_without_the_column_are_bad(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,n\ngood,1\n")
    (tmp_path / "b.csv").write_text("body,n\nx,1\ny,2\n")
    pq.write_table(pa.table({"text": ["good"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": ["x", "y"]}), tmp_path / "b.parquet")
    for kind in ("csv", "parquet"):
        source = make_source(tmp_path, kind, ".")
        assert texts(source) == ["good"]
        assert [problem.split(";")[0] for _, problem in bad(source)] == ["no column 'text'"] * 2
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    source = make_source(tmp_path, "parquet", ["a.parquet", "c.parquet"])
    assert texts(source) == ["good"]
    assert "not a Parquet file or damaged" in bad(source)[0][1]


# ---- rows ------------------------------------------------------------------------------------------------------------

LONG = 12_000_000


def long_rows(kind: str) -> bytes:
    text = "x" * LONG
    if kind == "text":
        return f"first\n{text}\nlast\n".encode()
    if kind == "csv":
        return f'text\nfirst\n"{text}"\nlast\n'.encode()
    return "".join(json.dumps({"text": row}) + "\n" for row in ("first", text, "last")).encode()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["text", "csv", "jsonl"])
def test_a_row_over_the_limit_is_set_aside_in_bounded_memory(tmp_path: Path, kind: str, compressed: bool) -> None:
    file = tmp_path / (f"a.{kind}" + ".gz" * compressed)
    file.write_bytes(gzip.compress(long_rows(kind)) if compressed else long_rows(kind))
    options: dict[str, Any] = {"split": "lines"} if kind == "text" else {}
    assert [len(text) for text in texts(make_source(tmp_path, kind, file.name, **options))] == [5, LONG, 4]
    source = make_source(tmp_path, kind, file.name, max_row_bytes=100_000, **options)
    tracemalloc.start()
    assert texts(source) == ["first", "last"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LONG / 2
    [(_, problem)] = bad(source)
    assert "max_row_bytes allows" in problem


READ = """
import sys
from pathlib import Path
from tests.data.sources.reading import bad, make_source, rows
for folder in sys.argv[1:]:
    source = make_source(Path(folder), "dataset", ".", rows="conversations")
    print([row for row, problem in bad(source) if "'more' is damaged" in problem], len(rows(source)))
"""


def test_offsets_beyond_a_tables_memory_are_bad_rows(tmp_path: Path) -> None:
    """In a process of its own, which an access beyond the memory would end."""
    table = pa.table({"text": ["one", "three", "seven"], "more": [["aa"], ["bb"], ["cc"]]})
    for place in (2, 3):
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / "state.json").write_text("{}")
        with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        content, offsets = (folder / "a.arrow").read_bytes(), [0, 1, 2, 3]
        assert content.count(struct.pack("<4i", *offsets)) == 1
        damaged = [1_700_000_000 if number == place else offset for number, offset in enumerate(offsets)]
        (folder / "a.arrow").write_bytes(content.replace(struct.pack("<4i", *offsets), struct.pack("<4i", *damaged)))
    command = [sys.executable, "-c", READ, str(tmp_path / "2"), str(tmp_path / "3")]
    read = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (read.returncode, read.stdout) == (0, "[2, 3] 3\n[3] 3\n"), read.stderr


@pytest.mark.parametrize("column", ["plain", "dictionary", "nested", "view", "dictionaries", "view in a struct"])
@pytest.mark.parametrize("kind", ["parquet", "dataset"])
def test_a_row_of_a_table_over_the_limit_never_becomes_an_object(tmp_path: Path, kind: str, column: str) -> None:
    cells: Any = pa.array(["first", "x" * LONG, "last"])
    nested = pa.array([[{"a": cell.as_py()}] for cell in cells])
    view, dictionary = cells.cast(pa.string_view()), cells.dictionary_encode()
    columns = {
        "plain": cells,
        "dictionary": dictionary,
        "nested": nested,
        "view": view,
        "dictionaries": pa.ListArray.from_arrays([0, 1, 2, 3], dictionary),
        "view in a struct": pa.StructArray.from_arrays([view], ["a"]),
    }
    table = pa.table({"text": ["1", "2", "3"], "more": columns[column]})
    if kind == "parquet":
        pq.write_table(table, tmp_path / "a.parquet")
    else:
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        (tmp_path / "state.json").write_text("{}")
    path = "a.parquet" if kind == "parquet" else "."
    source = make_source(tmp_path, kind, path, max_row_bytes=100_000, rows="conversations")
    tracemalloc.start()
    assert [row.record["text"] for row in rows(source) if isinstance(row, Row) and row.record] == ["1", "3"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LONG / 2
    [(place, problem)] = bad(source)
    assert place == 2 and "max_row_bytes allows 100,000" in problem


def test_a_document_over_the_limit_says_how_to_divide_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a line\n\n" * 100)
    assert "split: blank_lines" in bad(make_source(tmp_path, "text", "a.txt", max_row_bytes=99))[0][1]
    (tmp_path / "b.txt").write_text("short\n\n" + "a long paragraph\n" * 100 + "\nlast")
    source = make_source(tmp_path, "text", "b.txt", split="blank_lines", max_row_bytes=99)
    assert texts(source) == ["short", "last"]
    assert [row for row, _ in bad(source)] == [3]


def test_a_long_line_does_not_end_a_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"text": "x" * (5000 if number == 3 else 10)}) for number in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1000)
    source = make_source(tmp_path, "jsonl", "a.jsonl", max_row_bytes=2000)
    assert len(source.parts()) > 5
    assert [row.row for row in rows(source)] == list(range(1, 201))
    assert [row for row, _ in bad(source)] == [4]


SURROGATES = [
    {"text": "half \ud83d"}, {"messages": [{"role": "user", "content": "half \ud83d"}]}, {"prompt": "x", "y\udc00": 1},
    {"text": "x", "group": "half \udfff"},
]  # fmt: skip


@pytest.mark.parametrize("record", SURROGATES)
@pytest.mark.parametrize("kind", ["jsonl", "json"])
@pytest.mark.parametrize("content", ["text", "conversations", "preferences", "prompts"])
def test_half_a_character_anywhere_in_a_row_is_a_bad_row(
    tmp_path: Path, record: dict[str, Any], kind: str, content: str
) -> None:
    good = {"text": "good 😀", "group": "g"}
    (tmp_path / f"a.{kind}").write_text(json.dumps([good, record, good]) if kind == "json" else
                                        "\n".join(map(json.dumps, [good, record, good])))  # fmt: skip
    source = make_source(tmp_path, kind, f"a.{kind}", rows=content, group="group" if content == "text" else None)
    assert len([row for row in rows(source) if isinstance(row, Row)]) == 2
    [(row, problem)] = bad(source)
    assert (row, problem.isprintable()) == (2, True)
    problem.encode()


# ---- CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("place", [1, 50, 99])
def test_an_unclosed_quote_costs_its_own_line_alone(tmp_path: Path, quoted: bool, place: int) -> None:
    lines = [f'{number},"row {number}"' if quoted else f"{number},row {number}" for number in range(100)]
    lines[place] = f'{place},"never closed'
    (tmp_path / "a.csv").write_text("id,text\n" + "\n".join(lines) + "\n")
    source = make_source(tmp_path, "csv", "a.csv")
    assert texts(source) == [f"row {number}" for number in range(100) if number != place]
    [(row, problem)] = bad(source)
    assert row == place + 2  # its line, after the header
    if not quoted and place < 99:
        assert f"it swallows {99 - place} line" in problem


@pytest.mark.parametrize("between", ["", "1,good\n"])
def test_quotes_that_each_line_closes_and_opens_take_linear_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    num_lines = 1000
    (tmp_path / "a.csv").write_text("id,text\n" + f'5","unclosed, of a line\n{between}' * num_lines)
    monkeypatch.setattr(csv, "MIN_LOOK_AHEAD", 100)
    lines: list[str] = []
    read = csv._Lines.__next__
    monkeypatch.setattr(csv._Lines, "__next__", lambda self: lines.append(line := read(self)) or line)
    source = make_source(tmp_path, "csv", "a.csv", max_row_bytes=10_000)
    assert texts(source) == ["good"] * (num_lines if between else 0)
    assert len(lines) < 20 * num_lines
    assert len(bad(source)) == num_lines


def test_a_cell_of_many_lines_after_an_unclosed_quote_is_read(tmp_path: Path) -> None:
    cell = "\n".join(f"paragraph {number}" for number in range(50_000))
    rest = "3,x\n" * 100_000
    (tmp_path / "a.csv").write_text(f'id,text\n1,"never closed\n2,"{cell}"\n{rest}')
    source = make_source(tmp_path, "csv", "a.csv", max_row_bytes=1 << 20)
    assert texts(source) == [cell, *["x"] * 100_000]
    assert [row for row, _ in bad(source)] == [2]


def test_a_record_of_very_many_lines_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "MAX_LINES", 10)
    (tmp_path / "a.csv").write_text('id,text\n1,"' + "never closed\n" * 20 + "2,last\n")
    source = make_source(tmp_path, "csv", "a.csv")
    assert texts(source) == ["last"]
    assert "a record of more than 10 lines" in bad(source)[0][1]


def test_lines_within_quotes_are_still_one_cell(tmp_path: Path) -> None:
    cell = "\n".join(f"paragraph {number}" for number in range(5000))
    (tmp_path / "a.csv").write_text(f'id,text\n1,"{cell}"\n2,last\n')
    assert texts(make_source(tmp_path, "csv", "a.csv")) == [cell, "last"]


def test_old_line_ends_and_doubled_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'id,text\r1,"a\rb"\r2,c\r')
    assert texts(make_source(tmp_path, "csv", "a.csv")) == ["a\rb", "c"]
    (tmp_path / "b.csv").write_text("text,text\nx,y\n")
    with pytest.raises(UserError, match=r"b\.csv: the header has text more than once"):
        make_source(tmp_path, "csv", "b.csv").parts()


def test_spaces_around_names_and_columns_without_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(" prompt , completion,,\na,b,,\n")
    source = make_source(tmp_path, "csv", "a.csv", rows="conversations")
    assert isinstance(source, csv.Csv)
    assert source.file_columns(tmp_path / "a.csv") == ["prompt", "completion", "column 3", "column 4"]
    (row,) = rows(source)
    assert isinstance(row, Row)
    assert row.record == {"prompt": "a", "completion": "b", "column 3": "", "column 4": ""}


# ---- what reaches the terminal ---------------------------------------------------------------------------------------


def test_control_characters_of_a_file_are_not_in_messages(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"na\x1b[2Jme,\x07b\nx,y\n")
    with pytest.raises(UserError) as error:
        make_source(tmp_path, "csv", "a.csv").parts()
    assert "na\\x1b[2Jme" in str(error.value)
    assert all(character.isprintable() for character in str(error.value))
    (tmp_path / "b.jsonl").write_text(json.dumps({"\x1b]0;title\x07": 1}))
    assert bad(make_source(tmp_path, "jsonl", "b.jsonl"))[0][1].isprintable()
    (tmp_path / "c\x1b[2J.txt").write_text("x")
    assert make_source(tmp_path, "text", "c\x1b[2J.txt").parts()[0].where == "c\\x1b[2J.txt"


def test_printable_text_is_as_it_was() -> None:
    text = "二 é 😀 a\ttab\nline"
    assert printable(text) == text
    assert printable("\u202ereversed\ud800\x00") == "\\u202ereversed\\ud800\\x00"


def test_every_bad_row_can_be_written(tmp_path: Path) -> None:
    row = BadRow(row=1, problem="found \x1b[2J\ud800", raw="half \ud83d")
    assert row.problem == "found \\x1b[2J\\ud800"
    assert row.raw == "half ?"


def test_each_argument_of_an_error_is_a_line_that_can_be_read() -> None:
    """Also between processes, and where a library's error has several lines."""
    with pytest.raises(yaml.YAMLError) as library:
        yaml.safe_load("key: 'text")
    assert str(library.value).startswith("while scanning a quoted scalar\n  in ")
    error = UserError(f"a.yaml: cannot be read ({library.value})", "    expected\r\n another\x1b[2J\n")
    first, second = str(error).split("\n")
    assert first.startswith("a.yaml: cannot be read (while scanning a quoted scalar in ")
    assert "^ found unexpected end of stream in " in first and second == "    expected another\\x1b[2J"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
