"""Documents as tables: the schema of a corpus, and the language of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from pipelines.data.measures import Measured

DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),  # source/part/row: where the text stood
        ("source", pa.string()),  # the source's name in the recipe
        ("group", pa.string()),  # held-out data is split by whole groups
        ("language", pa.string()),  # en or zh
        ("text", pa.string()),
        ("meta", pa.map_(pa.string(), pa.string())),
    ]
)
REJECTED = pa.schema(
    [
        ("source", pa.string()),
        ("where", pa.string()),  # the file or package
        ("row", pa.int64()),  # the line, where lines are rows
        ("problem", pa.string()),
        ("raw", pa.string()),  # how it begins
    ]
)
LETTERS_A_CHARACTER = 3  # an English word has about five letters and says as much as 1.6 Chinese characters


@dataclass
class Columns:
    """Documents on their way into a table, one list a column."""

    ids: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    languages: list[str | None] = field(default_factory=list)  # None: by the text
    texts: list[str] = field(default_factory=list)
    metas: list[dict[str, str]] = field(default_factory=list)
    text_bytes: int = 0

    def add(self, *, id: str, group: str, language: str | None, text: str, meta: dict[str, str]) -> None:
        self.ids.append(id)
        self.groups.append(group)
        self.languages.append(language)
        self.texts.append(text)
        self.metas.append(meta)

    def table(self, source: str, languages: Sequence[str], rows: Sequence[int], texts: pa.Array) -> pa.Table:
        """The chosen rows as a table of DOCUMENTS. texts, languages: of all rows, as they came out of cleaning."""
        taken = pa.array(rows, pa.int64())
        columns = [
            pa.array([self.ids[row] for row in rows], pa.string()),
            pa.array([source] * len(rows), pa.string()),
            pa.array([self.groups[row] for row in rows], pa.string()),
            pa.array([languages[row] for row in rows], pa.string()),
            texts.take(taken),
            pa.array([list(self.metas[row].items()) for row in rows], DOCUMENTS.field("meta").type),
        ]
        return pa.Table.from_arrays(columns, schema=DOCUMENTS)


def language_of(document: Measured) -> str:
    """zh if the text says more in Chinese characters than in letters, else en."""
    return "zh" if document.chinese and LETTERS_A_CHARACTER * document.chinese >= document.letters else "en"
