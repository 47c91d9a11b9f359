"""The Chinese text that comes with Rayse: articles on everyday and scholarly topics, one file for each topic.

In a file an article begins with a line `# title`; paragraphs are separated by blank lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from pipelines.data.sources.source import BadRow, Language, Part, Row, Source

FOLDER = Path(__file__).parent.parent / "chinese"
TITLE = re.compile(r"^# +", re.MULTILINE)


class Chinese(Source):
    """Articles of the embedded Chinese text; a topic is a group."""

    kind: str = Field(default="chinese", description="Kind of the source: the Chinese articles that come with Rayse")
    language: Language = Field(default="zh", description="Language of its text")

    def each_file(self) -> Iterator[Path]:
        """Yields the files, one for each topic."""
        return iter(sorted(FOLDER.glob("*.txt")))

    def each_part(self) -> Iterator[Part]:
        """Divides the source into one part for each topic."""
        return (
            Part(index=index, where=f"chinese/{file.name}", group=file.stem, bytes=file.stat().st_size)
            for index, file in enumerate(self.each_file())
        )

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Yields one row for each article, its title the first line."""
        text = (FOLDER / f"{part.group}.txt").read_text(encoding="utf-8")
        articles = [piece.strip() for piece in TITLE.split(text)]
        for number, article in enumerate((article for article in articles if article), start=1):
            yield Row(row=number, text=article)
