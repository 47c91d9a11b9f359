"""Sources that are files: good rows come out as they are, bad ones with their line, missing files as messages."""

from __future__ import annotations

import gzip
import json
import pickle
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.sources import SOURCES, ranges
from pipelines.data.sources.sniffing import sniff
from pipelines.data.sources.source import BadRow, Row, Source
from pipelines.errors import UserError


def make_source(folder: Path, kind: str, path: Any = None, **options: Any) -> Source:
    options = {"kind": kind, **options} | ({} if path is None else {"path": path})
    return SOURCES[kind].model_validate(options).at(folder)


def rows(source: Source) -> list[Row | BadRow]:
    return [row for part in source.parts() for row in source.read(part)]


def texts(source: Source) -> list[str]:
    return [row.text for row in rows(source) if isinstance(row, Row)]


def bad(source: Source) -> list[tuple[int, str]]:
    return [(row.row, row.problem) for row in rows(source) if isinstance(row, BadRow)]


def write_lines(file: Path, *records: Any) -> Path:
    file.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records))
    return file


# ---- any file ------------------------------------------------------------------------------------------------------

EVERY_KIND = ["text", "jsonl", "parquet", "csv"]


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_missing_empty_and_unreadable_files_are_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"absent\.x.*no such file"):
        make_source(tmp_path, kind, "absent.x").files()
    (tmp_path / "empty.x").touch()
    with pytest.raises(UserError, match=r"empty\.x.*empty"):
        make_source(tmp_path, kind, "empty.x").files()
    with pytest.raises(UserError, match=r"\*\.absent.*no file matches"):
        make_source(tmp_path, kind, "*.absent").files()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder.*no file in this folder"):
        make_source(tmp_path, kind, "folder").files()
    with pytest.raises(UserError, match="names no file"):
        make_source(tmp_path, kind, []).files()


def test_paths_are_files_folders_globs_or_lists_of_them(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("b.txt", "a.md", "in/c.txt", "in/deep/d.txt", "in/skipped.json"):
        (tmp_path / name).write_text(name)
    assert texts(make_source(tmp_path, "text", "a.md")) == ["a.md"]
    assert texts(make_source(tmp_path, "text", "in")) == ["in/c.txt", "in/deep/d.txt"]
    assert texts(make_source(tmp_path, "text", "**/*.txt")) == ["b.txt", "in/c.txt", "in/deep/d.txt"]
    assert texts(make_source(tmp_path, "text", ["in/deep", "*.txt", "b.txt"])) == ["in/deep/d.txt", "b.txt"]
    assert texts(make_source(tmp_path / "elsewhere", "text", str(tmp_path / "b.txt"))) == ["b.txt"]


def test_identity_has_names_and_options_but_no_folder(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("text")
    one, two = (make_source(tmp_path / folder, "text", "a.txt") for folder in ("one", "two"))
    assert one.identity() == two.identity()
    assert str(tmp_path) not in str(one.identity())
    assert one.identity() != make_source(tmp_path / "one", "text", "a.txt", split="lines").identity()


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_source_travels_to_a_task_with_its_folder(tmp_path: Path, kind: str) -> None:
    here = make_source(tmp_path, kind, "a.x")
    there = pickle.loads(pickle.dumps(here))
    assert there == here
    assert there._folder == tmp_path


# ---- JSON lines ----------------------------------------------------------------------------------------------------


def test_jsonl_rows_and_their_columns(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "a.jsonl",
        {"body": "one", "from": "x", "lang": "zh-CN"},
        b"",
        {"body": "二", "from": 7, "lang": "English"},
    )
    read = rows(make_source(tmp_path, "jsonl", "a.jsonl", text="body", group="from", language_column="lang"))
    assert read == [Row(row=1, text="one", group="x", language="zh"), Row(row=3, text="二", group="7", language="en")]


def test_jsonl_gz_reads_like_plain(tmp_path: Path) -> None:
    plain = write_lines(tmp_path / "a.jsonl", *({"text": f"row {n}"} for n in range(100)))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert texts(make_source(tmp_path, "jsonl", "a.jsonl.gz")) == texts(make_source(tmp_path, "jsonl", "a.jsonl"))


def test_jsonl_bad_rows_name_line_and_problem(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "a.jsonl", {"text": "good"}, b"{oops", {"other": 1}, {"text": 5}, {"text": None},
        b'{"text": "\xff"}', [1], b'{"text": "\\ud800"}', {"text": "good too"}, b"[" * 100_000,
    )  # fmt: skip
    source = make_source(tmp_path, "jsonl", "a.jsonl")
    assert texts(source) == ["good", "good too"]
    expected = {2: "not JSON", 3: "no column 'text'", 4: "holds a number", 5: "holds null", 6: "not UTF-8",
                7: "holds a list", 8: "surrogate", 10: "not JSON"}  # fmt: skip
    problems = dict(bad(source))
    assert problems.keys() == expected.keys()
    for line, words in expected.items():
        assert words in problems[line]


def test_jsonl_large_files_are_cut_at_lines_that_keep_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_lines(tmp_path / "a.jsonl", *({"text": f"{n} " + "x" * (n % 50)} for n in range(500)))
    whole = rows(make_source(tmp_path, "jsonl", "a.jsonl"))
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1000)
    cut = make_source(tmp_path, "jsonl", "a.jsonl")
    assert len(cut.parts()) > 10
    assert sum(part.bytes for part in cut.parts()) == file.stat().st_size
    assert rows(cut) == whole
    assert [row.row for row in whole] == list(range(1, 501))


def test_jsonl_last_line_without_end_and_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}')
    assert texts(make_source(tmp_path, "jsonl", "a.jsonl")) == ["one", "two"]


def test_rows_that_are_not_text_are_kept_whole(tmp_path: Path) -> None:
    record = {"instruction": "Add.", "output": "3", "source": "sums"}
    write_lines(tmp_path / "a.jsonl", record, b"{")
    read = rows(make_source(tmp_path, "jsonl", "a.jsonl", rows="conversations", group="source"))
    assert read[0] == Row(row=1, record=record, group="sums")
    assert isinstance(read[1], BadRow)


# ---- CSV -----------------------------------------------------------------------------------------------------------


def test_csv_quotes_line_ends_and_tabs(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('\ufefftext,by\n"two\nlines, one ""cell""",李白\nplain,b\n\n'.encode())
    assert texts(make_source(tmp_path, "csv", "a.csv", group="by")) == ['two\nlines, one "cell"', "plain"]
    (tmp_path / "a.tsv").write_text("id\ttext\n1\tone, two\n")
    assert texts(make_source(tmp_path, "csv", "a.tsv")) == ["one, two"]
    (tmp_path / "b.csv").write_text("text;n\nsemi;1\n")
    assert texts(make_source(tmp_path, "csv", "b.csv", delimiter=";")) == ["semi"]


def test_csv_cells_may_be_large(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"text\n{'x' * 300_000}\n")
    assert len(texts(make_source(tmp_path, "csv", "a.csv"))[0]) == 300_000


def test_csv_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,n\ngood,1\none cell\nbad \xff,2\nlast,3\n")
    source = make_source(tmp_path, "csv", "a.csv")
    assert texts(source) == ["good", "last"]
    assert [(line, problem.split(";")[0]) for line, problem in bad(source)] == [
        (3, "1 cells"), (4, "not UTF-8 (a byte that stands for no character)")]  # fmt: skip
    with pytest.raises(UserError, match=r"a\.csv: no column 'body'.*text, n"):
        rows(make_source(tmp_path, "csv", "a.csv", text="body"))


# ---- Parquet -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_columns_are_kept_in_meta(tmp_path: Path, kind: str) -> None:
    records: list[dict[str, Any]] = [
        {"text": "one", "domain": "law", "year": 1999},
        {"text": "two", "domain": None, "year": 7},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    source = make_source(tmp_path, kind, f"a.{kind}", meta=["domain", "year"])
    assert [row.meta for row in rows(source) if isinstance(row, Row)] == [
        {"domain": "law", "year": "1999"},
        {"year": "7"},
    ]
    assert "meta" not in make_source(tmp_path, kind, f"a.{kind}").identity()
    with pytest.raises(ValueError, match="only rows: text have meta"):
        make_source(tmp_path, kind, f"a.{kind}", rows="prompts", meta=["domain"])
    (tmp_path / "a.jsonl").write_text('{"text": "a", "domain": ["law"]}\n{"text": "b"}\n')
    assert [problem for _, problem in bad(make_source(tmp_path, "jsonl", "a.jsonl", meta=["domain"]))] == [
        "column 'domain' holds a list; expected text or a number, to be kept in meta",
        "no column 'domain'; expected it in every row (columns here: text)",
    ]


def test_parquet_row_groups_are_parts(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {n}" for n in range(10)] + [None], "n": range(11)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    source = make_source(tmp_path, "parquet", "a.parquet")
    assert len(source.parts()) == 3
    assert texts(source) == [f"row {n}" for n in range(10)]
    assert bad(source) == [(11, "column 'text' holds null; expected text")]
    assert [row.row for row in rows(source)] == list(range(1, 12))


def test_parquet_problems_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "not.parquet").write_text("nonsense")
    with pytest.raises(UserError, match=r"not\.parquet.*not a Parquet file"):
        make_source(tmp_path, "parquet", "not.parquet").parts()
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    for options, key in (
        ({}, "text"),
        ({"text": "n", "group": "site"}, "group"),
        ({"text": "n", "meta": ["x"]}, "meta"),
    ):
        with pytest.raises(
            UserError, match=rf"a\.parquet: no column '.*'; the file has: n\. Name the column with {key}:"
        ):
            make_source(tmp_path, "parquet", "a.parquet", **options).parts()


def test_a_parquet_file_without_a_row_group_has_no_rows(tmp_path: Path) -> None:
    pq.ParquetWriter(tmp_path / "a.parquet", pa.schema([("text", pa.string())])).close()
    assert rows(make_source(tmp_path, "parquet", "a.parquet")) == []
    (result,) = sniff(tmp_path / "a.parquet")
    assert result.problems == ("a.parquet: no rows; expected at least one",)


# ---- plain text ----------------------------------------------------------------------------------------------------


def test_text_documents_are_files_paragraphs_or_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeff第一段\r\n还是第一段\r\n \r\n\r\nsecond\n\n\n".encode())
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"zipped"))
    assert len(texts(make_source(tmp_path, "text", "a.txt"))) == 1
    by_paragraph = rows(make_source(tmp_path, "text", "a.txt", split="blank_lines"))
    assert [(row.row, row.text.strip()) for row in by_paragraph if isinstance(row, Row)] == [
        (1, "第一段\r\n还是第一段"),
        (5, "second"),
    ]
    by_line = rows(make_source(tmp_path, "text", "a.txt", split="lines"))
    assert [row.row for row in by_line] == [1, 2, 5]
    assert texts(make_source(tmp_path, "text", "a.txt.gz")) == ["zipped"]


def test_a_text_without_blank_lines_is_read_in_linear_time(tmp_path: Path) -> None:
    text = "a line of a book\n" * 250_000
    (tmp_path / "a.txt").write_text(text)
    start = time.process_time()
    assert texts(make_source(tmp_path, "text", "a.txt", split="blank_lines")) == [text.removesuffix("\n")]
    assert time.process_time() - start < 5


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\n" + "中文".encode("gbk") + b"\ngood too\n")
    source = make_source(tmp_path, "text", "a.txt", split="lines")
    assert texts(source) == ["good", "good too"]
    assert bad(source)[0][0] == 2


# ---- the embedded Chinese set ----------------------------------------------------------------------------------------


def test_chinese_articles_have_a_title_and_paragraphs(tmp_path: Path) -> None:
    source = make_source(tmp_path, "chinese")
    assert source.language == "zh"
    groups = [part.group for part in source.parts()]
    assert len(groups) == len(set(groups)) == len(source.files())
    for article in texts(source):
        title, *rest = article.split("\n\n")
        assert not article.startswith("#")
        assert 1 < len(title) < 60
        assert rest
