"""Web archives: WARC files, of which the main text of each page is read, and WET files, which hold the text itself.

The address of a page goes to its meta data, its host is its group. A response that is no page, such as an image or a
server's error, counts as an empty document, so that a report has its number.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field

from pipelines.data.sources import encodings, streams
from pipelines.data.sources.files import FileProblem, FileSource
from pipelines.data.sources.html import main_text, page_encoding
from pipelines.data.sources.source import BadRow, Row

if TYPE_CHECKING:
    from warcio.recordloader import ArcWarcRecord

PAGES = ("text/html", "application/xhtml+xml", "text/plain")


class Warc(FileSource):
    """Documents from web archives, in the order of their records."""

    kind: str = Field(default="warc", description="Kind of the source: web archives, WARC and WET")
    suffixes: ClassVar = streams.with_compressed(".warc", ".wet")

    def read_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row | BadRow]:
        """Yields one row for each response and each text, numbered by the record's position among these."""
        from warcio.archiveiterator import ArchiveIterator

        with streams.open_bytes(file) as stream:
            number, problem = 0, ""
            records = ArchiveIterator(stream)
            while not problem:
                try:
                    with redirect_stderr(io.StringIO()):  # where the parser prints what it finds, bytes of the file
                        record = next(records, None)
                    if record is None:
                        break
                    is_page = record.rec_type in ("response", "conversion") or _is_saved_page(record)
                    body = record.content_stream().read(self.max_row_bytes + 1) if is_page else b""
                except Exception as error:  # the parser names no class of its errors
                    problem = f"not WARC ({error}); expected a complete WARC or WET file"
                    break
                left = getattr(record.raw_stream, "limit", 1)  # bytes of the record; it has none where its head is cut
                if is_page and len(body) <= self.max_row_bytes and left:
                    problem = "the file ends within a record; expected a complete WARC or WET file"
                elif is_page:
                    number += 1
                    yield self._row(number, record, body)
            problem = stream.damage or problem
            if not number:
                raise FileProblem(problem or "no response and no text; expected a WARC or WET file")
            if problem:
                yield BadRow(row=number + 1, problem=f"{problem}; what follows record {number} is lost")

    def _row(self, number: int, record: ArcWarcRecord, body: bytes) -> Row | BadRow:
        address = _address(record)
        try:
            if len(body) > self.max_row_bytes:
                raise FileProblem(self.too_long(len(body)))
            text = _text(record, body)
        except FileProblem as problem:
            return BadRow(row=number, problem=f"{address}: {problem}", raw=address)
        return Row(row=number, text=text, group=_host(address), meta={"url": address})


def _address(record: ArcWarcRecord) -> str:
    return (record.rec_headers.get_header("WARC-Target-URI") or "").strip("<> ")


def _is_saved_page(record: ArcWarcRecord) -> bool:
    """Whether a record is a resource of the web, and not a crawler's log (metadata:) or picture of a page (urn:)."""
    return record.rec_type == "resource" and _address(record).lower().startswith(("http:", "https:", "ftp:"))


def _text(record: ArcWarcRecord, body: bytes) -> str:
    """The text of a record; empty if it holds no page. Raises FileProblem."""
    if record.rec_type == "conversion":
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            raise FileProblem(encodings.not_in("utf-8", f"{error.reason} at byte {error.start} of the text")) from None
    # A resource is the page alone, as browsers' extensions write it; a response has a server's lines before it.
    head = record.rec_headers if record.rec_type == "resource" else record.http_headers
    kind, _, parameters = (head.get_header("Content-Type") or "text/html").partition(";") if head else ("", "", "")
    is_served = record.rec_type == "resource" or (head is not None and head.get_statuscode() == "200")
    if not is_served or kind.strip().lower() not in PAGES:
        return ""
    declared = parameters.lower().partition("charset=")[2].strip("\"' ")
    encoding = page_encoding(body, declared)
    if encoding is None:
        return ""
    text_alone = kind.strip().lower() == "text/plain"
    return body.decode(encodings.codec(encoding), "replace") if text_alone else main_text(body, encoding)


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:  # such as http://[
        return None
