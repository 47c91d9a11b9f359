"""Each kind of file is read as what it is, and says of what it is not what was found and what to do."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.sources import json_documents
from pipelines.data.sources.dataset import is_dataset, splits
from pipelines.data.sources.source import BadRow, Row
from pipelines.errors import UserError
from tests.data.sources.reading import bad, make_source, rows, texts

ROWS = [{"text": "one", "n": 1}, {"text": "二", "n": None}, {"text": 'a "quoted" {brace}', "n": [1, {"x": 2}]}]

# ---- JSON documents --------------------------------------------------------------------------------------------------

LAYOUTS: list[Callable[[list[dict[str, Any]]], str]] = [
    json.dumps,
    lambda records: json.dumps(records, indent=2, ensure_ascii=False),
    lambda records: "[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n",
    lambda records: json.dumps({"data": records}),
    lambda records: json.dumps({"version": "1", "data": records, "total": 3}, indent=1),
    lambda records: "\n".join(map(json.dumps, records)),
    lambda records: "\n".join(json.dumps(record, indent=2) for record in records),
]


@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
@pytest.mark.parametrize("chunk_bytes", [7, 1 << 20])
def test_json_of_any_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: int, chunk_bytes: int) -> None:
    (tmp_path / "a.json").write_text(LAYOUTS[layout](ROWS), encoding="utf-8")
    source = make_source(tmp_path, "json", "a.json", rows="conversations")
    expected = [Row(row=number, record=record) for number, record in enumerate(ROWS, 1)]
    if chunk_bytes < 100 and layout in (3, 4):
        return  # what wraps the rows has to be in the first chunk
    parts = source.parts()
    monkeypatch.setattr(json_documents, "CHUNK_BYTES", chunk_bytes if layout < 5 else 1 << 20)
    assert [row for part in parts for row in source.read(part)] == expected


def test_a_json_array_may_be_named_as_json_lines(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps(ROWS, indent=2))
        assert texts(make_source(tmp_path, "jsonl", name)) == [row["text"] for row in ROWS]


def test_a_broken_object_of_an_array_is_one_bad_row(tmp_path: Path) -> None:
    good = [{"text": f"row {number}", "meta": {"text": "inner"}} for number in range(5)]
    lines = [json.dumps(record) for record in good]
    lines[2] = '{"text": "row 2" "meta": {"text": "inner"}}'
    for separator in (",\n", ","):
        (tmp_path / "a.json").write_text(f"[{separator.join(lines)}]")
        source = make_source(tmp_path, "json", "a.json")
        assert texts(source) == ["row 0", "row 1", "row 3", "row 4"]
        assert [row for row, _ in bad(source)] == [3]
        assert "not JSON" in bad(source)[0][1]


@pytest.mark.parametrize("keep", [0.5, 0.7, 0.95])
def test_of_a_json_array_that_is_cut_the_rows_before_the_cut_are_read(tmp_path: Path, keep: float) -> None:
    text = json.dumps([{"text": f"row {number}"} for number in range(100)])
    (tmp_path / "a.json").write_text(text[: int(keep * len(text))])
    source = make_source(tmp_path, "json", "a.json")
    assert len(texts(source)) == pytest.approx(100 * keep, abs=2)
    assert [problem.split(" (")[0] for _, problem in bad(source)] == ["not JSON"]


def test_what_an_array_holds_besides_objects_is_bad(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "one"}, "two", 3, {"text": "\\ud83d"}, {"text": "five"}]')
    source = make_source(tmp_path, "json", "a.json")
    assert texts(source) == ["one", "five"]
    problems = [(2, "the array holds text"), (3, "the array holds a number"), (4, "column 'text' holds half of a")]
    assert [
        (row, problem[: len(words)]) for (row, problem), (_, words) in zip(bad(source), problems, strict=True)
    ] == problems


def test_columns_within_columns_are_named_with_dots(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"meta": {"text": "in", "lang": "zh"}}\n{"meta.text": "flat", "meta": {"lang": "en"}}\n{"meta": 1}\n'
    )
    source = make_source(tmp_path, "jsonl", "a.jsonl", text="meta.text", language_column="meta.lang")
    assert [(row.text, row.language) for row in rows(source) if isinstance(row, Row)] == [("in", "zh"), ("flat", "en")]
    assert bad(source) == [(3, "no column 'meta.text'; expected it in every row (columns here: meta)")]


# ---- compression -----------------------------------------------------------------------------------------------------


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


COMPRESS = {".gz": gzip.compress, ".zst": zstd, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_of_several_members_read_like_plain_ones(tmp_path: Path, suffix: str) -> None:
    halves = [b"\xef\xbb\xbftext,n\n" + b"a row,1\n" * 1000, b"the last,2\n"]
    (tmp_path / f"a.csv{suffix}").write_bytes(b"".join(map(COMPRESS[suffix], halves)))
    assert texts(make_source(tmp_path, "csv", ".")) == ["a row"] * 1000 + ["the last"]


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kind", ["jsonl", "text", "csv"])
def test_of_damaged_compression_the_rows_before_the_damage_are_read(tmp_path: Path, suffix: str, kind: str) -> None:
    numbers = [f"row {number} {random.Random(number).randbytes(300).hex()}" for number in range(3000)]
    line = {"jsonl": '{{"text": "{}"}}\n', "text": "{}\n", "csv": "{},1\n"}[kind]
    data = ("text,n\n" if kind == "csv" else "") + "".join(map(line.format, numbers))
    compressed = COMPRESS[suffix](data.encode())
    (tmp_path / f"a.{kind}{suffix}").write_bytes(compressed[: len(compressed) * 4 // 5])
    source = make_source(tmp_path, kind, f"a.{kind}{suffix}", **({"split": "lines"} if kind == "text" else {}))
    read = texts(source)
    assert read == numbers[: len(read)]
    assert len(read) > 1000
    [(row, problem)] = bad(source)
    assert row >= len(read)
    assert "damaged or not" in problem


def test_a_file_that_is_not_compressed_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_text('{"text": "x"}\n')
    assert "damaged or not gzip" in bad(make_source(tmp_path, "jsonl", "a.jsonl.gz"))[0][1]


# ---- Parquet and data sets -------------------------------------------------------------------------------------------


TEXT_ARRAYS = {
    "binary": pa.array([b"one", "二".encode()]),
    "large binary": pa.array([b"one", "二".encode()], pa.large_binary()),
    "dictionary": pa.array([b"one", "二".encode()]).dictionary_encode(),
    "text": pa.array(["one", "二"]),
    "large text": pa.array(["one", "二"], pa.large_string()),
}


@pytest.mark.parametrize("kind", TEXT_ARRAYS)
def test_text_of_any_type_is_text(tmp_path: Path, kind: str) -> None:
    pq.write_table(pa.table({"text": TEXT_ARRAYS[kind]}), tmp_path / "a.parquet")
    assert texts(make_source(tmp_path, "parquet", "a.parquet")) == ["one", "二"]


def test_bytes_that_are_not_utf8_are_bad_rows_and_no_others(tmp_path: Path) -> None:
    data = pa.array([b"one", "二".encode("gbk"), b"three"])
    pq.write_table(pa.table({"text": data}), tmp_path / "bytes.parquet")
    text = pa.StringArray.from_buffers(3, data.buffers()[1], data.buffers()[2])  # claims to be UTF-8
    pq.write_table(pa.table({"text": text}), tmp_path / "text.parquet")
    for name in ("bytes.parquet", "text.parquet"):
        source = make_source(tmp_path, "parquet", name)
        assert texts(source) == ["one", "three"]
        assert [(row, "not UTF-8" in problem) for row, problem in bad(source)] == [(2, True)]


def test_columns_of_records_keep_bytes_that_are_no_text(tmp_path: Path) -> None:
    record = {"prompt": b"draw", "image": {"bytes": b"\x89PNG", "path": None}}
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    [row] = rows(make_source(tmp_path, "parquet", "a.parquet", rows="conversations"))
    assert isinstance(row, Row)
    assert row.record == record | {"prompt": "draw"}


def test_nested_columns_of_parquet(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"meta": {"text": "in", "by": {"name": "x"}}, "n": 1}, {"meta": None, "n": 2}])
    pq.write_table(table, tmp_path / "a.parquet")
    source = make_source(tmp_path, "parquet", "a.parquet", text="meta.text")
    assert texts(source) == ["in"]
    assert [row for row, _ in bad(source)] == [2]
    with pytest.raises(UserError, match=r"no column 'meta\.body'.*meta\.by\.name"):
        make_source(tmp_path, "parquet", "a.parquet", text="meta.body").parts()


def write_arrow(file: Path, *values: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": list(values)})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def test_a_saved_data_set_is_read_by_split(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_arrow(folder / "train/data-00000-of-00002.arrow", "a", "b")
    write_arrow(folder / "train/data-00001-of-00002.arrow", "c")
    write_arrow(folder / "train/cache-1234.arrow", "stale")
    write_arrow(folder / "test/data-00000-of-00001.arrow", "d")
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert is_dataset(folder)
    assert list(splits(folder)) == ["test", "train"]
    assert texts(make_source(tmp_path, "dataset", "set", split="train")) == ["a", "b", "c"]
    assert texts(make_source(tmp_path, "dataset", "set")) == ["d", "a", "b", "c"]
    with pytest.raises(UserError, match="no split 'dev'; its splits: test, train"):
        make_source(tmp_path, "dataset", "set", split="dev").files()


def test_a_data_set_of_the_hub_is_read_by_split(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001-0a1b"):
        pq.write_table(pa.table({"text": [name]}), tmp_path / f"data/{name}.parquet")
    assert is_dataset(tmp_path)
    read = texts(make_source(tmp_path, "dataset", ".", split="train"))
    assert read == ["train-00000-of-00002", "train-00001-of-00002"]


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}')
    assert not is_dataset(tmp_path)
    with pytest.raises(UserError, match=r"no \.arrow or \.parquet file"):
        make_source(tmp_path, "dataset", ".").files()
    (tmp_path / "a.arrow").write_text("nonsense")
    with pytest.raises(UserError, match=r"a\.arrow: not an Arrow stream"):
        make_source(tmp_path, "dataset", ".").parts()


# ---- web pages -------------------------------------------------------------------------------------------------------

PAGE = """<!DOCTYPE html><html><head><meta charset="{encoding}"><title>T</title><style>p {{}}</style></head><body>
<nav><ul><li><a href="/">{menu}</a></li><li><a href="/x">{menu}</a></li></ul></nav>
<article><h1>{title}</h1><p>{first}</p><p>{second}</p></article><script>var hidden = 1;</script>
<footer>{menu} 2024</footer></body></html>"""
ENGLISH_PAGE = {"menu": "Sign in", "title": "The bridge", "first": "The old bridge was built by the town’s masons.",
                "second": "It has stood in every flood since, and nobody remembers another."}  # fmt: skip
CHINESE_PAGE = {"menu": "登录", "title": "石桥", "first": "这座老石桥是镇上的石匠修的，已经有三百年了。",
                "second": "每年发大水的时候它都站得稳稳的，没有人记得别的桥。"}  # fmt: skip


@pytest.mark.parametrize("words", [ENGLISH_PAGE, CHINESE_PAGE], ids=["en", "zh"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb2312", "gb18030", "utf-16"])
def test_the_main_text_of_a_page(tmp_path: Path, words: dict[str, str], encoding: str) -> None:
    page = PAGE.format(encoding=encoding, **words)
    (tmp_path / "a.html").write_bytes(page.encode("gb18030" if encoding == "gb2312" else encoding))
    [text] = texts(make_source(tmp_path, "html", "a.html"))
    assert [line for line in text.split("\n") if line] == [words["title"], words["first"], words["second"]]


def test_pages_without_text_and_pages_nested_too_deep_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<html><body><script>render()</script></body></html>")
    (tmp_path / "b.html").write_text("<div>" * 100_000 + "x")
    (tmp_path / "c.html").write_text("<p>good" * 10_000)
    source = make_source(tmp_path, "html", ".")
    assert len(texts(source)) == 1
    assert [problem.split(";")[0] for _, problem in bad(source)] == \
        ["a page without text", "its elements are nested 100,000 deep"]  # fmt: skip


def record(kind: str, address: str, body: bytes, content_type: str = "") -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {address}\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
    return f"{head}Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


def response(address: str, body: bytes, content_type: str = "text/html", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return record("response", address, head + body, "application/http; msgtype=response")


def test_pages_of_a_web_archive(tmp_path: Path) -> None:
    english = PAGE.format(encoding="", **ENGLISH_PAGE)
    chinese = PAGE.format(encoding="", **CHINESE_PAGE).encode("gbk")
    records = [
        record("warcinfo", "", b"software: x"),
        record("request", "http://a.example/1", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"),
        response("<http://a.example/1>", english.encode()),
        response("http://b.example/2", chinese, "text/html; charset=GBK"),
        response("http://b.example/3.png", b"\x89PNG", "image/png"),
        response("http://b.example/4", english.encode(), status="404 Not Found"),
        response("http://b.example/5.txt", b"plain words", "text/plain"),
    ]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    for name in ("a.warc", "a.warc.gz"):
        read = [row for row in rows(make_source(tmp_path, "warc", name)) if isinstance(row, Row)]
        assert [(row.row, row.group, row.meta["url"]) for row in read][:2] == [
            (1, "a.example", "http://a.example/1"), (2, "b.example", "http://b.example/2")]  # fmt: skip
        assert [row.text.split("\n")[0] for row in read] == ["The bridge", "石桥", "", "", "plain words"]


def test_texts_of_a_wet_file_and_its_damage(tmp_path: Path) -> None:
    records = [record("conversion", f"http://{n}.example/", f"正文 {n}".encode(), "text/plain") for n in range(9)]
    data = b"".join(map(gzip.compress, records))
    (tmp_path / "a.wet.gz").write_bytes(data)
    assert texts(make_source(tmp_path, "warc", "a.wet.gz")) == [f"正文 {n}" for n in range(9)]
    (tmp_path / "cut.wet.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "cut.wet").write_bytes(b"".join(records)[:-12])
    for name, number in (("cut.wet.gz", 4), ("cut.wet", 8)):
        source = make_source(tmp_path, "warc", name)
        assert texts(source) == [f"正文 {n}" for n in range(number)]
        assert f"what follows record {number} is lost" in bad(source)[0][1]
    (tmp_path / "not.warc").write_text("nothing of the kind\n" * 10)
    with pytest.raises(UserError, match=r"not\.warc: not WARC"):
        rows(make_source(tmp_path, "warc", "not.warc"))


# ---- PDF and Word ----------------------------------------------------------------------------------------------------


def write_pdf(file: Path, *pages: str, password: str = "") -> None:
    """A PDF with one line of text on each page; an empty one is a page with nothing on it."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    font = DictionaryObject({NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"),
                             NameObject("/BaseFont"): NameObject("/Helvetica")})  # fmt: skip
    for text in pages:
        page = writer.add_blank_page(width=300, height=300)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F"): font})}
        )
        content = DecodedStreamObject()
        content.set_data(f"BT /F 12 Tf 10 100 Td ({text}) Tj ET".encode() if text else b"")
        page[NameObject("/Contents")] = writer._add_object(content)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    writer.write(file)


def test_the_text_of_a_pdf(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", "The first page.", "", "The third page.")
    assert texts(make_source(tmp_path, "pdf", "a.pdf")) == ["The first page.\n\nThe third page."]


def test_pdfs_without_text_encrypted_and_damaged_are_set_aside(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", "Good.")
    write_pdf(tmp_path / "b.pdf", "", "")
    write_pdf(tmp_path / "c.pdf", "Secret.", password="key")
    (tmp_path / "d.pdf").write_bytes((tmp_path / "a.pdf").read_bytes()[:100])
    source = make_source(tmp_path, "pdf", ".")
    assert texts(source) == ["Good."]
    problems = [problem for _, problem in bad(source)]
    for problem, words in zip(problems, ("2 pages without text", "encrypted with a password", "damaged"), strict=True):
        assert words in problem
    with pytest.raises(UserError, match=r"b\.pdf: 2 pages without text"):
        rows(make_source(tmp_path, "pdf", "b.pdf"))


WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def write_docx(file: Path, body: str, **others: bytes) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>')
        for name, data in others.items():
            archive.writestr(name, data)


def paragraph(text: str) -> str:
    return f"<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def test_paragraphs_and_tables_of_a_word_file(tmp_path: Path) -> None:
    cells = "".join(f"<w:tc>{paragraph(text)}</w:tc>" for text in ("年", "人"))
    changed = f"<w:p><w:ins>{'<w:r><w:t>new</w:t><w:tab/><w:t>text</w:t></w:r>'}</w:ins>"
    changed += "<w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:p>"
    body = paragraph("第一段。") + changed + f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>" + paragraph("The end &amp; more.")
    write_docx(tmp_path / "a.docx", body, **{"word/vbaProject.bin": b"macro"})
    assert texts(make_source(tmp_path, "docx", "a.docx")) == ["第一段。\nnew\ttext\n年\t人\nThe end & more."]


def test_word_files_that_cannot_be_read_are_set_aside(tmp_path: Path) -> None:
    write_docx(tmp_path / "a.docx", paragraph("good"))
    write_docx(tmp_path / "b.docx", paragraph("x" * 5_000_000))  # 5 KB that become 5 MB
    write_docx(tmp_path / "c.docx", "<w:p/>")
    (tmp_path / "d.docx").write_bytes((tmp_path / "a.docx").read_bytes()[:80])
    (tmp_path / "e.docx").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(100))
    write_docx(tmp_path / "f.docx", "<unclosed>")
    with zipfile.ZipFile(tmp_path / "g.docx", "w") as archive:
        archive.writestr("../../escape.txt", "x")
    source = make_source(tmp_path, "docx", ".", max_row_bytes=1_000_000)
    assert texts(source) == ["good"]
    words = ["max_row_bytes", "no text", "damaged", "old .doc or encrypted", "damaged", "no word/document.xml"]
    assert [word in problem for word, (_, problem) in zip(words, bad(source), strict=True)] == [True] * 6
    assert not (tmp_path.parent / "escape.txt").exists()


def test_entities_of_a_word_file_do_not_grow(tmp_path: Path) -> None:
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        xml = (
            f'<!DOCTYPE d [{entities}]><w:document xmlns:w="{WORD}"><w:p><w:r><w:t>&a9;</w:t></w:r></w:p></w:document>'
        )
        archive.writestr("word/document.xml", xml)
    with pytest.raises(UserError, match=r"a\.docx: damaged"):
        rows(make_source(tmp_path, "docx", "a.docx"))


@pytest.mark.parametrize("kind", ["html", "warc", "pdf", "docx"])
def test_documents_have_no_columns(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match="text"):
        make_source(tmp_path, kind, "x", text="body")


def test_every_bad_row_can_be_written(tmp_path: Path) -> None:
    row = BadRow(row=1, problem="found \x1b[2J\ud800", raw="half \ud83d")
    assert row.problem == "found \\x1b[2J\\ud800"
    assert row.raw == "half ?"
