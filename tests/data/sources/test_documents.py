"""Documents (web pages, archives, PDF, Word) are read as what they are, or it is said what they are and what to do."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from pipelines.data.sources.source import Row
from pipelines.errors import UserError
from tests.data.sources.reading import bad, make_source, rows, texts

# ---- web pages -------------------------------------------------------------------------------------------------------

PAGE = """<!DOCTYPE html><html><head><meta charset="{encoding}"><title>T</title><style>p {{}}</style></head><body>
<nav><ul><li><a href="/">{menu}</a></li><li><a href="/x">{menu}</a></li></ul></nav>
<article><h1>{title}</h1><p>{first}</p><p>{second}</p></article><script>var hidden = 1;</script>
<footer>{menu} 2024</footer></body></html>"""
ENGLISH_PAGE = {"menu": "Sign in", "title": "The bridge", "first": "The old bridge was built by the town’s masons.",
                "second": "It has stood in every flood since, and nobody remembers another."}  # fmt: skip
CHINESE_PAGE = {"menu": "登录", "title": "石桥", "first": "这座老石桥是朱镕的爷爷修的，已经有三百年了。",
                "second": "每年发大水的时候它都站得稳稳的，没有人记得别的桥。"}  # fmt: skip


@pytest.mark.parametrize("words", [ENGLISH_PAGE, CHINESE_PAGE], ids=["en", "zh"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb2312", "gb18030", "utf-16"])
def test_the_main_text_of_a_page(tmp_path: Path, words: dict[str, str], encoding: str) -> None:
    page = PAGE.format(encoding=encoding, **words)
    (tmp_path / "a.html").write_bytes(page.encode("gb18030" if encoding == "gb2312" else encoding))
    [text] = texts(make_source(tmp_path, "html", "a.html"))
    assert [line for line in text.split("\n") if line] == [words["title"], words["first"], words["second"]]


@pytest.mark.parametrize("head", ["", '<meta charset="utf-8">'])  # which is wrong here
def test_a_single_letter_of_latin_1_in_a_page_is_read(tmp_path: Path, head: str) -> None:
    page = f"<html><head>{head}</head><body><p>The café at the bridge opens in May.</p></body></html>"
    (tmp_path / "a.html").write_bytes(page.encode("latin-1"))
    assert texts(make_source(tmp_path, "html", "a.html")) == ["The café at the bridge opens in May."]


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
        record("resource", "https://c.example/6", chinese, "text/html; charset=gbk"),
        record("resource", "metadata://gnu.org/software/wget/warc/wget.log", b"a crawler's log", "text/plain"),
    ]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    for name in ("a.warc", "a.warc.gz"):
        read = [row for row in rows(make_source(tmp_path, "warc", name)) if isinstance(row, Row)]
        assert [(row.row, row.group, row.meta["url"]) for row in read][:2] == [
            (1, "a.example", "http://a.example/1"), (2, "b.example", "http://b.example/2")]  # fmt: skip
        assert [row.text.split("\n")[0] for row in read] == ["The bridge", "石桥", "", "", "plain words", "石桥"]


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
    (tmp_path / "a.wet").write_bytes(
        records[0] + record("conversion", "http://x/", "é".encode("latin-1"), "text/plain")
    )
    assert [problem[:22] for _, problem in bad(make_source(tmp_path, "warc", "a.wet"))] == ["http://x/: not UTF-8 ("]
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


def test_a_paragraph_that_was_moved_stands_where_it_is_now(tmp_path: Path) -> None:
    run = "<w:r><w:t>moved</w:t></w:r>"
    moved_from = f'<w:p><w:moveFromRangeStart w:id="1"/><w:moveFrom>{run}</w:moveFrom></w:p>'
    body = f"{moved_from}{paragraph('between')}<w:p><w:moveTo>{run}</w:moveTo></w:p>"
    write_docx(tmp_path / "a.docx", body)
    assert texts(make_source(tmp_path, "docx", "a.docx")) == ["between\nmoved"]


def test_notes_of_a_word_file_follow_its_text(tmp_path: Path) -> None:
    notes = f'<w:footnotes xmlns:w="{WORD}"><w:footnote>{paragraph("a note")}</w:footnote></w:footnotes>'
    write_docx(tmp_path / "a.docx", paragraph("the text"), **{"word/footnotes.xml": notes.encode()})
    assert texts(make_source(tmp_path, "docx", "a.docx")) == ["the text\na note"]


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


# ---- EPUB, as its specification (EPUB 3.3) says ----------------------------------------------------------------------

CONTAINER = """<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="OEBPS/package.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>"""
PACKAGE = """<?xml version="1.0" encoding="UTF-8"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">
<manifest><item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>
<item id="last" href="text/two.xhtml" media-type="application/xhtml+xml"/>
<item id="style" href="a.css" media-type="text/css"/>
<item id="first" href="text/chapter%20one.xhtml" media-type="application/xhtml+xml"/></manifest>
<spine><itemref idref="nav"/><itemref idref="first"/><itemref idref="last"/></spine></package>"""
XHTML = """<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>T</title></head>
<body><h1>{}</h1><p>{}</p></body></html>"""
BOOK = {
    "META-INF/container.xml": CONTAINER, "OEBPS/package.opf": PACKAGE, "OEBPS/a.css": "p {}",
    "OEBPS/nav.xhtml": XHTML.format("Contents", "Chapter one"),
    "OEBPS/text/chapter one.xhtml": XHTML.format("One", "The lamp was lit &amp; the boats went out."),
    "OEBPS/text/two.xhtml": XHTML.format("第二章", "灯灭了。"),
}  # fmt: skip
DRM = """<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><e:EncryptedData
xmlns:e="http://www.w3.org/2001/04/xmlenc#"><e:CipherData><e:CipherReference URI="{}"/></e:CipherData></e:EncryptedData>
</encryption>"""


def write_epub(file: Path, **changes: str | bytes) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        for name, content in (BOOK | changes).items():
            if content:
                archive.writestr(name, content)


def test_the_chapters_of_a_book_in_their_order(tmp_path: Path) -> None:
    write_epub(tmp_path / "a.epub", **{"META-INF/encryption.xml": DRM.format("OEBPS/font.otf")})
    [text] = texts(make_source(tmp_path, "epub", "a.epub"))
    words = ["One", "The lamp was lit & the boats went out.", "第二章", "灯灭了。"]
    assert [line for line in text.split("\n") if line] == words


@pytest.mark.parametrize(
    "head",
    ["<title/>", '<title lang="en" />', '<title>T</title><script src="x.js"/>', '<style type="text/css"/>',
     '<meta name="a"/><link href="a.css"/><noscript/><script/>'],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_element_that_ends_where_it_begins_swallows_no_chapter(tmp_path: Path, head: str, encoding: str) -> None:
    page = XHTML.replace("utf-8", encoding).replace("<title>T</title>", head)
    page = page.replace("<h1>", '<a id="page-1"/><textarea/><iframe src="x"/><h1>')
    chapter = page.format("One", "The lamp<br/>was lit, and <i/>the boats went out.").encode(encoding)
    write_epub(tmp_path / "a.epub", **{"OEBPS/text/chapter one.xhtml": chapter})
    [text] = texts(make_source(tmp_path, "epub", "a.epub"))
    assert " ".join(text.split()) == "One The lamp was lit, and the boats went out. 第二章 灯灭了。"


def test_a_chapter_that_loses_its_text_is_a_bad_row_and_a_picture_is_not(tmp_path: Path) -> None:
    lost = XHTML.replace("<title>T</title>", "<title>").format("One", "The lamp was lit. " * 200)
    picture = XHTML.format("", '<img src="a.png" alt=""/>')
    write_epub(tmp_path / "a.epub", **{"OEBPS/text/chapter one.xhtml": lost})
    write_epub(tmp_path / "b.epub", **{"OEBPS/text/chapter one.xhtml": picture})
    source = make_source(tmp_path, "epub", ".")
    assert len(texts(source)) == 2
    [(_, problem)] = bad(source)
    assert "its chapter OEBPS/text/chapter one.xhtml gives no text" in problem


def test_books_that_cannot_be_read_are_set_aside(tmp_path: Path) -> None:
    write_epub(tmp_path / "a.epub")
    write_epub(tmp_path / "b.epub", **{"META-INF/encryption.xml": DRM.format("OEBPS/text/chapter%20one.xhtml")})
    write_epub(tmp_path / "c.epub", **{"OEBPS/text/two.xhtml": ""})
    write_epub(tmp_path / "d.epub", **{"OEBPS/text/two.xhtml": XHTML.format("x", "x" * 5_000_000)})
    (tmp_path / "e.epub").write_bytes((tmp_path / "a.epub").read_bytes()[:500])
    write_epub(tmp_path / "f.epub", **{"META-INF/container.xml": "<container/>"})
    write_epub(tmp_path / "g.epub", **{"OEBPS/package.opf": "<package>"})
    source = make_source(tmp_path, "epub", ".", max_row_bytes=1_000_000)
    assert len(texts(source)) == 1
    words = ["encrypted (DRM)", "no item named 'OEBPS/text/two.xhtml'", "max_row_bytes", "damaged", "names no package",
             "damaged"]  # fmt: skip
    problems = [problem for _, problem in bad(source)]
    assert [word in problem for word, problem in zip(words, problems, strict=True)] == [True] * 6, problems


@pytest.mark.parametrize("kind", ["html", "warc", "pdf", "docx", "epub"])
def test_documents_have_no_columns(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match="text"):
        make_source(tmp_path, kind, "x", text="body")
