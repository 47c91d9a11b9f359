"""The Chinese text that comes with Rayse: articles on everyday and learned matters, a file a topic.

In a file an article begins with a line `# title`; paragraphs are separated by blank lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.data.sources.source import BadRow, Language, Part, Row, Source

FOLDER = Path(__file__).parent.parent / "chinese"
TITLE = re.compile(r"^# +", re.MULTILINE)


class Chinese(Source):
    """Articles of the embedded Chinese set; a topic is a group."""

    kind: str = "chinese"
    language: Language = "zh"

    def files(self) -> list[Path]:
        """One file a topic."""
        return sorted(FOLDER.glob("*.txt"))

    def parts(self) -> list[Part]:
        """A part a topic."""
        return [
            Part(index=index, where=f"chinese/{file.name}", group=file.stem, bytes=file.stat().st_size)
            for index, file in enumerate(self.files())
        ]

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """One row an article, its title the first line."""
        text = (FOLDER / f"{part.group}.txt").read_text(encoding="utf-8")
        articles = [piece.strip() for piece in TITLE.split(text)]
        for number, article in enumerate((a for a in articles if a), start=1):
            yield Row(row=number, text=article)
