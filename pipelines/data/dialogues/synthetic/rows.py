"""Rows that a model wrote, one JSON object a line, which also any source of JSON lines reads.

rows.jsonl      {messages | prompt, chosen, rejected; language,
                 meta {method, template, writer, seeds, derived_from}}
dropped.jsonl   {reason, problem, text, language, meta}
templates.json  {name: text} of the prompts that were used
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from pipelines.data.sources.source import Part, Row, Source
from pipelines.errors import UserError

ROWS, DROPPED, TEMPLATES_FILE = "rows.jsonl", "dropped.jsonl", "templates.json"


class SyntheticRows(Source):
    """The rows of an artifact as a source of a later stage; its folder is that of the artifact."""

    kind: str = Field("synthetic", description="Kind of the source: rows that an earlier stage wrote")
    kinds_of_rows = ("conversations", "preferences")

    def each_part(self) -> Iterator[Part]:
        yield Part(index=0, where=ROWS, group=ROWS, bytes=(self._folder / ROWS).stat().st_size)

    def read(self, part: Part) -> Iterator[Row]:
        """Yields the rows, numbered by their lines, without `meta`."""
        for number, row in enumerate(read(self._folder), 1):
            record = {key: value for key, value in row.items() if key not in ("language", "meta")}
            yield Row(row=number, record=record, language=row["language"])


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of an artifact, in the file's order."""
    with (folder / ROWS).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def reference(row_id: str, *, is_synthetic: bool) -> str:
    """How `meta` names a row of a source; one that an earlier stage wrote by its line, which it has here as well.

    >>> reference("stage:augment/0/5", is_synthetic=True), reference("mine/0/5", is_synthetic=False)
    ('rows.jsonl/5', 'mine/0/5')
    """
    return f"{ROWS}/{row_id.rpartition('/')[2]}" if is_synthetic else row_id


def made_from(rows: Sequence[Mapping[str, Any]], row_ids: Collection[str]) -> set[int]:
    """The numbers, from 1, of the rows that were made from one of these, or from a row that was."""
    origins, numbers = set(row_ids), set[int]()
    for number, row in enumerate(rows, 1):  # a row comes after the one that it was made from
        if row["meta"]["derived_from"] in origins:
            origins.add(f"{ROWS}/{number}")
            numbers.add(number)
    return numbers


@dataclass
class Written:
    """The rows that are kept, and what is dropped, with its reason."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def keep(self, content: Mapping[str, Any], language: str, meta: Mapping[str, Any]) -> None:
        """Adds a row. content: messages, or prompt, chosen and rejected."""
        self.rows.append({**content, "language": language, "meta": dict(meta)})

    def drop(self, reason: str, problem: str, text: str, language: str, meta: Mapping[str, Any]) -> None:
        """Adds a text that makes no row. problem: what is wrong with it and what was expected."""
        values = {"reason": reason, "problem": problem, "text": text, "language": language, "meta": dict(meta)}
        self.dropped.append(values)

    @property
    def reasons(self) -> Counter[str]:
        """Numbers of dropped texts by reason."""
        return Counter(str(each["reason"]) for each in self.dropped)

    def write_dropped(self, folder: Path) -> None:
        """Writes dropped.jsonl."""
        _write(folder / DROPPED, self.dropped)

    def write(self, folder: Path, templates: Mapping[str, str], earlier: list[dict[str, Any]]) -> None:
        """Writes the files. templates: that were used, by name; earlier: rows of the artifact before, which come
        first."""
        _write(folder / ROWS, [*earlier, *self.rows])
        self.write_dropped(folder)
        text = json.dumps(dict(sorted(templates.items())), ensure_ascii=False, indent=2)
        (folder / TEMPLATES_FILE).write_text(text + "\n", encoding="utf-8")

    def check(self, stage: str, num_rows: int, requests: str, folder: Path) -> str:
        """A sentence on why there are fewer rows than num_rows; empty if there are as many.

        stage: its name; requests: how many were sent. Raises UserError where there is no row; what was dropped is
        then in the folder."""
        if len(self.rows) >= num_rows:
            return ""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
        why = f"after {requests}" + (f"; dropped: {reasons}" if reasons else "")
        if not self.rows:
            self.write_dropped(folder)
            raise UserError(f"{stage}: no row {why}. See {folder / DROPPED}; expected answers that the rules let "
                            f"through: try another model or template")  # fmt: skip
        return f"{len(self.rows):,} of {num_rows:,} rows {why}"

    def facts(self, area: str) -> dict[str, float | int | str]:
        """<area>/kept, by language too; <area>/dropped, and by reason."""
        languages = Counter(str(row["language"]) for row in self.rows)
        return {
            f"{area}/kept": len(self.rows),
            **{f"{area}/kept_{language}": number for language, number in sorted(languages.items())},
            f"{area}/dropped": len(self.dropped),
            **{f"{area}/dropped_{reason}": number for reason, number in sorted(self.reasons.items())},
        }


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    file.write_text(text, encoding="utf-8", errors="replace")
