"""Books in EPUB: the text of all chapters in their order, one document for each file.

    META-INF/container.xml ──► package: manifest and spine ──in order──► chapters (XHTML) ──► text

Only these members of the archive are read, and nothing is unpacked to disk. The table of contents, pictures and styles
are left out.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote
from xml.etree import ElementTree

from pydantic import Field

from pipelines.data.sources import encodings
from pipelines.data.sources.docx import DAMAGE
from pipelines.data.sources.files import FileProblem, FileSource
from pipelines.data.sources.html import page_encoding, whole_text
from pipelines.data.sources.source import BadRow, Row

CONTAINER, ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
MAX_PACKAGE_BYTES = 16 << 20  # of a list of chapters
CHAPTERS = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")  # media types with text

EMPTY = re.compile(r"<([a-zA-Z][\w:.-]*)((?:\s[^<>]*)?)/>")  # an element of XML that ends where it begins
# Those that HTML knows as empty: it takes any other <title/> for a beginning, and the rest of the page for the title.
VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source",
                  "track", "wbr"})  # fmt: skip
TAG = re.compile("<[^<>]*>")
MANY_CHARACTERS = 2_000  # outside of tags: a page that has as many and no text is more than a picture


class Epub(FileSource):
    """Documents from books."""

    kind: str = Field(default="epub", description="Kind of the source: books in EPUB")
    suffixes: ClassVar = (".epub",)

    def read_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row | BadRow]:
        """Yields one row, the text of the chapters, with blank lines between them; then a bad row for each chapter
        that gives no text although it is no picture."""
        lost: list[str] = []
        try:
            with zipfile.ZipFile(file) as archive:
                text = "\n\n".join(filter(None, self._chapters(archive, lost)))
        except KeyError as error:
            raise FileProblem(f"{error.args[0]}; expected a complete EPUB") from None
        except (*DAMAGE, ElementTree.ParseError) as error:
            raise FileProblem(f"damaged or no EPUB ({error}); expected a complete .epub") from None
        if not text:
            raise FileProblem("no text, only pictures perhaps; expected chapters of text")
        yield Row(row=1, text=text)
        for number, path in enumerate(lost, 2):
            problem = f"its chapter {path} gives no text; expected some, or a page with only pictures"
            yield BadRow(row=number, problem=problem)

    def _chapters(self, archive: zipfile.ZipFile, lost: list[str]) -> Iterator[str]:
        """Yields the text of each chapter. Raises KeyError for a member that is missing.

        lost: receives the paths of chapters that give no text although they are large."""
        paths = _chapter_paths(archive)
        protected = set(paths) & _protected(archive)
        if protected:
            raise FileProblem(f"{len(protected):,} chapters are encrypted (DRM); bring a copy without protection")
        size = 0
        for path in paths:
            size += archive.getinfo(path).file_size
            if size > self.max_row_bytes:
                raise FileProblem(self.too_long(size))
            with archive.open(path) as stream:
                page = stream.read(archive.getinfo(path).file_size)
            markup = _as_html(page.decode(encodings.codec(page_encoding(page) or "utf-8"), "replace"))
            text = whole_text(markup.encode(), "utf-8")
            if not text and len(TAG.sub("", markup).strip()) > MANY_CHARACTERS:
                lost.append(path)
            yield text


def _as_html(markup: str) -> str:
    """XHTML as a reader of HTML understands it: each empty element, such as <title/>, gets an end of its own."""
    return EMPTY.sub(lambda tag: tag[0] if tag[1].lower() in VOID else f"<{tag[1]}{tag[2]}></{tag[1]}>", markup)


def _chapter_paths(archive: zipfile.ZipFile) -> list[str]:
    """The paths of the chapters in their order: those of the spine that hold text, without the table of contents."""
    root = next((element for element in _elements(archive, CONTAINER, "rootfile")), None)
    if root is None:
        raise FileProblem(f"{CONTAINER} names no package; expected a complete EPUB")
    package = root.get("full-path", "")
    items = {item.get("id"): item for item in _elements(archive, package, "item")}
    order = [items.get(reference.get("idref")) for reference in _elements(archive, package, "itemref")]
    chapters = [item for item in order if item is not None and item.get("media-type") in CHAPTERS]
    folder = posixpath.dirname(package)
    return [
        posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))
        for item in chapters
        if "nav" not in item.get("properties", "").split()
    ]


def _protected(archive: zipfile.ZipFile) -> set[str]:
    """The paths of encrypted members; fonts may be among them."""
    if ENCRYPTION not in archive.namelist():
        return set()
    return {unquote(element.get("URI", "")) for element in _elements(archive, ENCRYPTION, "CipherReference")}


def _elements(archive: zipfile.ZipFile, path: str, name: str) -> list[ElementTree.Element]:
    """The elements of a name, without its namespace, in an XML member."""
    size = archive.getinfo(path).file_size  # no more than that is decompressed
    if size > MAX_PACKAGE_BYTES:
        raise FileProblem(f"its {path} has {size:,} bytes; expected at most {MAX_PACKAGE_BYTES:,}")
    root = ElementTree.fromstring(archive.read(path))
    return [element for element in root.iter() if element.tag.rpartition("}")[2] == name]
