"""Web pages: the main text of .html and .htm files, without menus, headers, footers and scripts. A file is a document.

Pages are data of strangers: a nesting that would take hours to lay out is refused, and no page loads anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipelines.data.sources import encodings, streams
from pipelines.data.sources.files import FileProblem, TextFileSource
from pipelines.data.sources.source import Row

if TYPE_CHECKING:
    from resiliparse.parse.html import HTMLTree

MAX_DEPTH = 2000  # of elements: time grows with its square, a second at 5,000; browsers stop at 512
SAMPLE_BYTES = 4096  # where a page names its encoding
CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
MULTIBYTE = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")  # how a character beyond ASCII begins in UTF-8
TAG = re.compile(rb"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
# Elements that have no end, or whose end may be left out: their number is no depth.
UNCLOSED = frozenset(
    b"area base br col embed hr img input link meta param source track wbr p li dt dd tr td th thead tbody tfoot "
    b"option optgroup rp rt html head body colgroup caption".split()
)


class Html(TextFileSource):
    """Documents from web pages."""

    kind: str = Field(default="html", description="Kind of the source: web pages, of which the main text is read")
    suffixes: ClassVar = streams.with_compressed(".html", ".htm", ".xhtml")

    def encoding_of(self, file: Path) -> str | None:
        """The encoding that the page names, or else the one found."""
        return self.encoding or page_encoding(streams.sample(file))

    def read_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row]:
        """Yields one row: the main text of the page."""
        with streams.open_bytes(file) as stream:
            page = stream.read(self.max_row_bytes + 1)
            if stream.damage:
                raise FileProblem(stream.damage)
        if len(page) > self.max_row_bytes:
            raise FileProblem(self.too_long(len(page)))
        text = main_text(page, self.text_encoding(file))
        if not text:
            raise FileProblem("a page without text; expected one whose text does not come from scripts")
        yield Row(row=1, text=text)


def page_encoding(page: bytes, declared: str | None = None) -> str | None:
    """The encoding of a page's bytes; None for data that is not text.

    UTF-8 if they are that, else the one that is declared (by a server, or in the page), or else the one found. Bytes
    beyond ASCII without any that UTF-8 could have are Latin-1."""
    encoding = encodings.detect(page)
    if encoding is None or encoding.startswith("utf-16"):
        return encoding
    if encodings.is_utf8(page, cut=True):
        return "utf-8"
    match = CHARSET.search(page[:SAMPLE_BYTES])
    for name in (declared, match[1].decode("ascii", "replace") if match else None):
        if name and encodings.known(name) and encodings.usual_name(name) != "utf-8":
            return encodings.usual_name(name)
    is_single_byte = encoding == "utf-8" and MULTIBYTE.search(page) is None
    return "latin-1" if is_single_byte else encoding  # as browsers do: of few bytes no encoding is found


def main_text(page: bytes, encoding: str) -> str:
    """The main text of a page, or all of its text if no part stands out. Raises FileProblem."""
    from resiliparse.extract.html2text import extract_plain_text

    tree = _tree(page, encoding)
    text = extract_plain_text(tree, main_content=True, alt_texts=False)
    return text or extract_plain_text(tree, alt_texts=False)


def whole_text(page: bytes, encoding: str) -> str:
    """All of a page's text. Raises FileProblem."""
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(_tree(page, encoding), alt_texts=False)


def _tree(page: bytes, encoding: str) -> HTMLTree:
    from resiliparse.parse.html import HTMLTree

    depth = _depth(page)
    if depth > MAX_DEPTH:
        raise FileProblem(f"its elements are nested {depth:,} deep; expected a page of at most {MAX_DEPTH:,}")
    return HTMLTree.parse(page.decode(encodings.codec(encoding), "replace").replace("\0", ""))


def _depth(page: bytes) -> int:
    """The depth of a page's elements, estimated from its tags."""
    depth = deepest = 0
    for end, name in TAG.findall(page):
        if name.lower() not in UNCLOSED:
            depth = max(0, depth - 1) if end else depth + 1
            deepest = max(deepest, depth)
    return deepest
