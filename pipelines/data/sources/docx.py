"""Word files: the paragraphs and tables of .docx and .docm, one document for each file.

A .docx is a zip archive of XML. The body is read, and the notes that it refers to: no macro, picture, link or embedded
file is touched, nothing is unpacked to disk, and no more than the limit is decompressed, whatever size the archive
declares.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

from pydantic import Field

from pipelines.data.sources.files import FileProblem, FileSource
from pipelines.data.sources.source import Row

BODY, NOTES = "word/document.xml", ("word/footnotes.xml", "word/endnotes.xml")
OLD_OR_LOCKED = b"\xd0\xcf\x11\xe0"  # how a .doc and an encrypted .docx begin
# Elements of a body by their names without the namespace, of which there are two (ECMA and ISO strict).
BREAKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)  # of a zip archive
SKIPPED = ("del", "moveFrom", "pPr", "rPr", "tblPr", "Fallback")  # deleted text, formats, a second form of a text box


class Docx(FileSource):
    """Documents from Word files."""

    kind: str = Field(default="docx", description="Kind of the source: Word files (.docx)")
    suffixes: ClassVar = (".docx", ".docm")

    def read_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row]:
        """Yields one row: the paragraphs, one a line, and tables with a tab between cells; notes follow them."""
        with file.open("rb") as stream:
            if stream.read(4) == OLD_OR_LOCKED:
                raise FileProblem("an old .doc or encrypted with a password; save it as .docx without one")
        try:
            with zipfile.ZipFile(file) as archive:
                parts = [BODY, *(name for name in NOTES if name in archive.namelist())]
                text = "\n".join(self._text(archive, name) for name in parts).strip()
        except KeyError:
            raise FileProblem(f"has no {BODY}; expected a Word file") from None
        except (*DAMAGE, ElementTree.ParseError) as error:
            raise FileProblem(f"damaged or not a Word file ({error}); expected a complete .docx") from None
        if not text:
            raise FileProblem("no text, only pictures perhaps; expected paragraphs")
        yield Row(row=1, text=text)

    def _text(self, archive: zipfile.ZipFile, name: str) -> str:
        """The text of a part of the archive. Raises FileProblem if it is too large, KeyError if there is none."""
        declared = archive.getinfo(name).file_size
        if declared > self.max_row_bytes:
            raise FileProblem(self.too_long(declared))
        with archive.open(name) as stream:
            part = stream.read(self.max_row_bytes + 1)
        if len(part) > self.max_row_bytes:
            raise FileProblem(self.too_long(len(part)))
        return "\n".join(_paragraphs(part)).strip()


def _paragraphs(body: bytes) -> Iterator[str]:
    """Yields the text of each paragraph, and of each row of a table with a tab between its cells."""
    skipped = tables = 0  # depth of elements that are skipped, of tables
    text: list[str] = []  # of the paragraph, or of the row of a table
    for event, element in ElementTree.iterparse(io.BytesIO(body), ("start", "end")):
        name = element.tag.rpartition("}")[2]
        if event == "start":
            skipped += name in SKIPPED
            tables += name == "tbl"
            continue
        if not skipped:
            text.append((element.text or "") if name == "t" else BREAKS.get(name, ""))
        skipped -= name in SKIPPED
        tables -= name == "tbl"
        if name in ("p", "tc") and tables:
            text.append("\t" if name == "tc" else "\n")
        elif name in ("p", "tr"):
            yield "".join(text).replace("\n\t", "\t").strip()  # a cell's last paragraph ends with the cell
            text = []
        element.clear()
