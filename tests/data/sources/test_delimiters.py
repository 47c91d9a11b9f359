"""Tables with other delimiters than their suffix says: found out, kept out of the identity of usual ones."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from pipelines.data.sources.files import FileSource
from pipelines.data.sources.sniffing import sniff
from pipelines.data.sources.source import Row
from tests.data.sources.reading import bad, make_source, rows, texts

TEXTS = [
    "The lamp, which was old, cost 1,50; nobody bought it.",
    'He said: "a|b", and left.',
    "Two\nlines; and\ta tab.",
]


def table(file: Path, delimiter: str, records: Sequence[Sequence[object]], encoding: str = "utf-8") -> Path:
    with file.open("w", encoding=encoding, newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(records)
    return file


def source(file: Path, **options: object) -> FileSource:
    return make_source(file.parent, "csv", file.name, **options)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_the_delimiter_is_found_out(tmp_path: Path, delimiter: str, name: str) -> None:
    frame = pd.DataFrame({"id": range(3), "text": TEXTS, "price": ["1,50", "2,00", "17"]})
    frame.to_csv(tmp_path / name, sep=delimiter, index=False)
    assert texts(source(tmp_path / name)) == TEXTS
    [result] = sniff(tmp_path / name)
    assert result.options == {"kind": "csv", "text": "text", "language": "en"}


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030", "utf-8-sig"])
def test_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    words = "这座老石桥是镇上的石匠修的，已经有三百年了；没有人记得别的桥。"
    file = table(tmp_path / "a.csv", ";", [["编号", "text"], *([n, words] for n in range(9))], encoding)
    assert texts(source(file)) == [words] * 9


@pytest.mark.parametrize(
    "content",
    [
        "text\nOne; two.\nThree; four.\n",  # a single column, and prose in it
        "id,a|b\n1,x|y\n2,z|w\n",  # regular with either: the comma goes first
        "id,a;b\n1,x\n2,z\n",
        "text\n",
        "id;text,x\n",  # a header alone
    ],
)
def test_a_comma_stays_where_no_other_fits_better(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    made = make_source(tmp_path, "csv", "a.csv", rows="conversations")
    expected = list(csv.DictReader(content.splitlines()))
    assert [row.record for row in rows(made) if isinstance(row, Row)] == expected
    assert "delimiters" not in made.identity()


def test_the_identity_has_a_delimiter_only_where_the_suffix_does_not_say_it(tmp_path: Path) -> None:
    for name, delimiter in (("a.csv", ","), ("b.tsv", "\t"), ("c.csv", "|")):
        table(tmp_path / name, delimiter, [["text", "n"], ["x", 1]])
    assert "delimiters" not in make_source(tmp_path, "csv", ["a.csv", "b.tsv"]).identity()
    assert make_source(tmp_path, "csv", ".").identity()["delimiters"] == {"c.csv": "|"}
    assert "delimiters" not in make_source(tmp_path, "csv", ".", delimiter=";").identity()


def test_the_option_overrides_what_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;b,n\nx;y,1\nz;w,2\n")
    assert texts(source(tmp_path / "a.csv", text="text;b")) == ["x;y", "z;w"]
    assert texts(source(tmp_path / "a.csv", delimiter=";")) == ["x", "z"]
    (tmp_path / "b.csv").write_text("text:n\nx:1\n")
    assert texts(source(tmp_path / "b.csv", delimiter=":")) == ["x"]


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\r\n', "SEP=;\n"])
def test_the_first_line_that_is_for_excel_is_no_header(tmp_path: Path, first: str) -> None:
    (tmp_path / "a.csv").write_text(f"{first}text;n\r\none, two;1\r\nthree;2\r\n", newline="")
    found = rows(source(tmp_path / "a.csv"))
    assert [(row.row, row.text) for row in found if isinstance(row, Row)] == [(3, "one, two"), (4, "three")]
    assert texts(source(tmp_path / "a.csv", delimiter=";")) == ["one, two", "three"]


def test_a_quote_that_is_not_closed_costs_its_line_alone(tmp_path: Path) -> None:
    lines = [f"{n};line {n}, of a table" for n in range(500)]
    lines[7] = '7;"never closed'
    (tmp_path / "a.csv").write_bytes(gzip.compress(("id;text\n" + "\n".join(lines) + "\n").encode()))
    (tmp_path / "a.csv").rename(tmp_path / "a.csv.gz")
    made = source(tmp_path / "a.csv.gz")
    assert texts(made) == [f"line {n}, of a table" for n in range(500) if n != 7]
    [(line, problem)] = bad(made)
    assert line == 9 and "a quote here is not closed properly" in problem


def test_a_row_that_does_not_fit_is_kept_as_it_stands_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id;text\n1;a\n2;b;c\n3;d\n")
    [row] = [row for row in rows(source(tmp_path / "a.csv")) if not isinstance(row, Row)]
    assert (row.row, row.raw.strip()) == (3, "2;b;c") and "3 cells; expected 2" in row.problem


def test_names_of_columns_follow_the_delimiter(tmp_path: Path) -> None:
    file = table(tmp_path / "a.csv", "|", [["frage", "antwort"], ["Wo?", "Hier."]])
    made = source(file, rows="conversations", columns={"prompt": "frage", "reply": "antwort"})
    assert [row.record for row in rows(made) if isinstance(row, Row)] == [{"prompt": "Wo?", "reply": "Hier."}]


def test_quotes_are_text_in_a_table_with_tabs_where_they_enclose_no_cell(tmp_path: Path) -> None:
    cells = ['"Yes" is short.', '"No', 'It is 12" long.', "plain"]
    (tmp_path / "a.tsv").write_text("id\ttext\n" + "".join(f"{n}\t{cell}\n" for n, cell in enumerate(cells)))
    source = make_source(tmp_path, "csv", "a.tsv")
    assert texts(source) == cells and bad(source) == []
    assert source.identity()["quotes_are_text"] == ["a.tsv"]
    enclosed = make_source(tmp_path, "csv", "a.tsv", quotes="enclose")
    assert "say quotes: text" in bad(enclosed)[0][1]
    (tmp_path / "b.tsv").write_text('id\ttext\n1\t"a\tb"\n2\t"c ""d"""\n3\t"never closed\n')
    source = make_source(tmp_path, "csv", "b.tsv")
    assert texts(source) == ["a\tb", 'c "d"'] and len(bad(source)) == 1
    assert source.identity().keys().isdisjoint({"quotes", "quotes_are_text"})
    (tmp_path / "c.csv").write_text('id,text\n1,"Yes" is short.\n')
    assert texts(make_source(tmp_path, "csv", "c.csv", quotes="text")) == ['"Yes" is short.']


def test_quotes_enclose_in_one_column_and_below_quoted_names(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(
        'text\n"First line\nsecond line of it"\n"Another ""quoted""\ncell of two lines"\nplain\n'
    )
    cells = ["First line\nsecond line of it", 'Another "quoted"\ncell of two lines', "plain"]
    assert texts(make_source(tmp_path, "csv", "a.tsv")) == cells
    (tmp_path / "b.tsv").write_text('"id"\t"text"\n1\t"broken\n2\t"also broken\n')
    assert "quotes_are_text" not in make_source(tmp_path, "csv", "b.tsv").identity()


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_quotes_that_are_escaped_within_cells_are_quotes(tmp_path: Path, delimiter: str) -> None:
    """As Spark writes them, and pandas where it is told to."""
    said = [
        'He said: "Yes, of course", and left.',
        'The path is "C:\\", and\n"no other" \\ \\\\.',
        "No quotes here, but a comma.",
    ]
    frame = pd.DataFrame({"id": range(300), "text": said * 100})
    frame.to_csv(tmp_path / "a.csv", sep=delimiter, index=False, doublequote=False, escapechar="\\")
    assert texts(source(tmp_path / "a.csv")) == said * 100 and bad(source(tmp_path / "a.csv")) == []
    assert source(tmp_path / "a.csv").identity()["quotes_are_escaped"] == ["a.csv"]
    assert len(bad(source(tmp_path / "a.csv", quotes="enclose"))) > 0
    frame.to_csv(tmp_path / "b.csv", sep=delimiter, index=False)
    assert "quotes_are_escaped" not in source(tmp_path / "b.csv").identity()
    (tmp_path / "c.csv").write_text('id,text\n1,"ends with \\"\n2,"a"\n')  # a backslash is text, elsewhere
    assert texts(source(tmp_path / "c.csv")) == ["ends with \\", "a"]
