"""PDF files: the text of all pages, one document for each file. Pictures are not read: a scan has no text."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipelines.data.sources.files import FileProblem, FileSource
from pipelines.data.sources.source import Row

if TYPE_CHECKING:
    from pypdf import PdfReader


class Pdf(FileSource):
    """Documents from PDF files."""

    kind: str = Field(default="pdf", description="Kind of the source: PDF files with text")
    suffixes: ClassVar = (".pdf",)

    def read_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row]:
        """Yields one row: the text of the pages, with blank lines between them."""
        import pypdf
        from pypdf.errors import DependencyError

        logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # of faults that it can read past
        try:
            with pypdf.PdfReader(file) as reader:
                text = self._text(reader)
        except FileProblem:
            raise
        except DependencyError as error:
            raise FileProblem(f"encrypted in a way that cannot be read here ({error}); save it without it") from None
        except (Exception, RecursionError) as error:  # a damaged PDF may raise anything in its parser
            problem = f"damaged or not a PDF ({type(error).__name__}: {error}); expected a complete PDF"
            raise FileProblem(problem) from None
        yield Row(row=1, text=text)

    def _text(self, reader: PdfReader) -> str:
        if reader.is_encrypted and not reader.decrypt(""):
            raise FileProblem("encrypted with a password; save it without one")
        pages: list[str] = []
        size = 0
        for page in reader.pages:
            pages.append(page.extract_text().strip())
            size += len(pages[-1])
            if size > self.max_row_bytes:
                raise FileProblem(self.too_long(size))
        if not size:
            raise FileProblem(f"{len(pages)} pages without text, as a scan has; expected text: recognise it (OCR)")
        # Some fonts map half of a character: those are no characters that a corpus can have.
        return "\n\n".join(page for page in pages if page).encode(errors="replace").decode()
