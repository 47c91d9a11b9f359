"""Encodings are found out, and UTF-8 stays UTF-8 where a few rows of it are broken."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from pathlib import Path

import pytest

from pipelines.data.sources.encodings import BOM, detect
from pipelines.errors import UserError
from tests.data.sources.reading import bad, make_source, rows, texts

CHINESE = "清晨的集市已经热闹起来，卖豆腐的老人把担子放在桥边。孩子们围着他，等着第一碗热豆浆。"
TRADITIONAL = "清晨的集市已經熱鬧起來，賣豆腐的老人把擔子放在橋邊。孩子們圍著他，等著第一碗熱豆漿。"
FRENCH = "Le marché s'éveille déjà à l'aube : près du pont, un vieil homme pose ses paniers. Les élèves l'entourent."
GERMAN = "Früh am Morgen öffnet der Markt. Über die Brücke kommen Händler, müde und größtenteils fröhlich."
RUSSIAN = "Ранним утром рынок уже шумит, и старик ставит свои корзины у моста. Дети ждут первую чашку."
KOREAN = "이른 아침 시장은 벌써 북적이고 노인은 다리 옆에 짐을 내려놓는다. 아이들은 첫 잔을 기다린다."
JAPANESE = "朝早くから市場はにぎわい、豆腐売りの老人は橋のたもとに荷をおろす。子どもたちが取り囲んでいる。"
POLISH = "Wczesnym rankiem targ już żyje, a starzec stawia kosze przy moście. Dzieci czekają na pierwszą filiżankę."

FOUND = [
    (CHINESE, "utf-8", "utf-8"), (CHINESE, "gb18030", "gb18030"), (CHINESE, "gbk", "gb18030"),
    (TRADITIONAL, "big5", "big5"), (TRADITIONAL, "gb18030", "gb18030"), (FRENCH, "latin-1", "latin-1"),
    (GERMAN, "latin-1", "latin-1"), ("“Hello” – she said; it’s €5 – “fine”.", "cp1252", "latin-1"),
    (CHINESE, "utf-16", "utf-16"), (CHINESE, "utf-16-le", "utf-16-le"), (CHINESE, "utf-16-be", "utf-16-be"),
    (FRENCH, "utf-16-be", "utf-16-be"), (RUSSIAN, "cp1251", "cp1251"), (RUSSIAN, "koi8-r", "koi8_r"),
    (KOREAN, "euc-kr", "cp949"), (JAPANESE, "shift-jis", "cp932"), (POLISH, "cp1250", "cp1250"),
    ("plain ASCII", "ascii", "utf-8"), ("", "utf-8", "utf-8"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "encoding", "found"), FOUND)
def test_an_encoding_is_found_in_one_line_and_in_many(text: str, encoding: str, found: str) -> None:
    assert detect(text.encode(encoding)) == found
    assert detect("".join(f"{line}. {text}\n" for line in range(50)).encode(encoding)) == found


@pytest.mark.parametrize("cut", range(40, 46))
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_a_sample_may_end_within_a_character(encoding: str, cut: int) -> None:
    assert detect((CHINESE * 3).encode(encoding)[:-cut]) == encoding


def test_a_few_rows_that_are_not_utf8_do_not_change_the_encoding() -> None:
    lines = [f"{line}. {CHINESE}".encode() for line in range(20)] + [CHINESE.encode("gb18030")] * 3
    assert detect(b"\n".join(lines)) == "utf-8"
    english = [b"an English line"] * 50 + [b"a caf\xe9"] * 3
    assert detect(b"\n".join(english)) == "utf-8"
    assert detect(b"good\n" + "中文".encode("gbk") + b"\ngood too\n") == "utf-8"


def test_of_two_encodings_in_a_file_the_lines_of_utf8_are_read() -> None:
    french = "Le café était fermé quand les élèves arrivèrent à l'école."
    assert detect("\n".join([french] * 4).encode("latin-1")) == "latin-1"
    assert detect(b"\n".join([french.encode("latin-1")] * 4 + [french.encode()] * 3)) == "utf-8"


def test_short_cells_of_chinese_are_not_taken_for_utf8_by_chance() -> None:
    tables = ["id,性别\n" + "1,男\n2,女\n" * 30, "编号,性别,年龄,备注\n" + "1,男,30,无\n2,女,28,有\n" * 30,
              "word,level\n" + "".join(f"{word},1\n" for word in "天地人水火山石田土日月风雨云电" * 4)]  # fmt: skip
    assert [detect(table.encode("gb18030")) for table in tables] == ["gb18030"] * 3
    assert [detect(table.encode()) for table in tables] == ["utf-8"] * 3


def test_english_with_many_words_in_latin_1_is_that() -> None:
    lines = [b"an English line of a long text"] * 70 + ["a naïve café, a fiancée".encode("latin-1")] * 30
    assert detect(b"\n".join(lines)) == "latin-1"


@pytest.mark.parametrize("data", [b"%PDF-1.7 x", b"PK\x03\x04zip", b"\x89PNG\r\n\x1a\n", b"\x00\x05\x16\x07" * 30])
def test_binary_data_are_no_text(data: bytes) -> None:
    assert detect(data) is None
    assert detect(random.Random(1).randbytes(2000)) is None


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("split", ["file", "lines", "blank_lines"])
def test_text_of_any_encoding_reads_alike(tmp_path: Path, encoding: str, split: str) -> None:
    text = f"{CHINESE}\n\n{CHINESE}\nsecond, more\n\n{CHINESE}\n"
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    (tmp_path / "b.txt").write_bytes(text.encode())
    assert rows(make_source(tmp_path, "text", "a.txt", split=split)) == rows(
        make_source(tmp_path, "text", "b.txt", split=split)
    )


@pytest.mark.parametrize("encoding", [*ENCODINGS, "big5"])
def test_records_of_any_encoding_read_alike(tmp_path: Path, encoding: str) -> None:
    text = TRADITIONAL if encoding == "big5" else CHINESE
    (tmp_path / "a.jsonl").write_bytes(f'{{"text": "{text}"}}\n{{"text": "two"}}\n'.encode(encoding))
    (tmp_path / "a.csv").write_bytes(f"text,n\n{text},1\ntwo,2\n".encode(encoding))
    (tmp_path / "a.tsv").write_bytes(f'"text"\tn\n{text}\t1\ntwo\t2\n'.encode(encoding))
    (tmp_path / "a.json").write_bytes(f'[{{"text": "{text}"}},\n{{"text": "two"}}]'.encode(encoding))
    for name in ("a.jsonl", "a.csv", "a.tsv", "a.json"):
        kind = "csv" if name == "a.tsv" else name[2:]
        assert texts(make_source(tmp_path, kind, name)) == [text, "two"]
        source = make_source(tmp_path, kind, name)
        assert source.encoding_of(tmp_path / name) == {"utf-8-sig": "utf-8"}.get(encoding, encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_cells_of_several_lines_in_any_encoding(tmp_path: Path, encoding: str, line_end: str) -> None:
    cell = f"{CHINESE}\n\n{CHINESE}, “ok”"
    (tmp_path / "a.csv").write_bytes(f'id,text{line_end}1,"{cell}"{line_end}2,two{line_end}'.encode(encoding))
    assert texts(make_source(tmp_path, "csv", "a.csv")) == [cell, "two"]


def test_of_several_files_one_may_have_a_mark_and_another_encoding(tmp_path: Path) -> None:
    for number, encoding in enumerate(["utf-8", "utf-8-sig", "gb18030", "utf-16"]):
        (tmp_path / f"{number}.jsonl").write_bytes(f'{{"text": "{number} {CHINESE}"}}\n'.encode(encoding))
    source = make_source(tmp_path, "jsonl", "*.jsonl")
    assert texts(source) == [f"{number} {CHINESE}" for number in range(4)]
    assert bad(source) == []


def test_the_encoding_of_a_large_file_is_found_where_its_text_is_not_ascii(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"only ASCII\n" * 20_000 + f"{CHINESE}\n".encode("gb18030") * 40_000)
    assert make_source(tmp_path, "text", "a.txt").encoding_of(tmp_path / "a.txt") == "gb18030"


def test_bad_bytes_of_another_encoding_are_bad_rows(tmp_path: Path) -> None:
    line = f"{CHINESE}\n".encode("gb18030")
    (tmp_path / "a.txt").write_bytes(line * 3 + b"\xff\xff\n" + line)
    source = make_source(tmp_path, "text", "a.txt", split="lines")
    assert texts(source) == [CHINESE] * 4
    assert [(row, "not gb18030" in problem) for row, problem in bad(source)] == [(4, True)]


def test_an_encoding_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("été".encode("latin-1"))
    assert texts(make_source(tmp_path, "text", "a.txt", encoding="latin-1")) == ["été"]
    assert texts(make_source(tmp_path, "text", "a.txt", encoding="cp1251")) == ["йtй"]
    with pytest.raises(ValueError, match="'utf-9' is no encoding"):
        make_source(tmp_path, "text", "a.txt", encoding="utf-9")


def test_a_byte_order_mark_is_no_text_wherever_files_were_joined(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(BOM + b'{"text": "one"}\n' + BOM + b'{"text": "two"}\n')
    assert texts(make_source(tmp_path, "jsonl", "a.jsonl")) == ["one", "two"]
    (tmp_path / "a.csv").write_bytes(BOM + BOM + b'"text","n"\none,1\n')
    assert texts(make_source(tmp_path, "csv", "a.csv")) == ["one"]
    (tmp_path / "a.txt").write_bytes(BOM + b"one\n\n" + BOM + b"two")
    assert texts(make_source(tmp_path, "text", "a.txt", split="blank_lines")) == ["one", "two"]


def test_binary_data_in_a_text_file_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "b.txt").write_text("good")
    with pytest.raises(UserError, match=r"a\.txt: holds a zip archive.*expected text"):
        rows(make_source(tmp_path, "text", "a.txt"))
    source = make_source(tmp_path, "text", ".")
    assert texts(source) == ["good"]
    assert "zip archive" in bad(source)[0][1]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.csv", "a.json"])
def test_an_archive_in_a_text_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    text = f'{{"text": "{CHINESE}"}}\n'.encode() * 500  # most of the archive is text
    with (tmp_path / "a.tar").open("wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for member in ("one.jsonl", "two.jsonl"):
            info = tarfile.TarInfo(member)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    kind = {"txt": "text"}.get(name.split(".")[1], name.split(".")[1])
    with pytest.raises(UserError, match=r"holds a tar archive; expected text\. Unpack"):
        rows(make_source(tmp_path, kind, name))


def test_identity_has_only_encodings_that_change_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain")
    identity = make_source(tmp_path, "text", "a.txt").identity()
    expected = {"kind": "text", "rows": "text", "language": "en", "split": "file", "files": ["a.txt"]}
    assert identity == expected  # as before there were encodings, so that what is made is found again
    (tmp_path / "a.txt").write_bytes(CHINESE.encode("gb18030"))
    assert make_source(tmp_path, "text", "a.txt").identity() == expected | {"encodings": {"a.txt": "gb18030"}}
