"""Bad rows of users' files: counted by reason, written to a file, and checked against the recipe's limit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipelines.data.sources.files import RAW_CHARACTERS
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.data.text.languages import language_of
from pipelines.errors import UserError

Parsed = TypeVar("Parsed")

REJECTED = "rejected.jsonl"
PROGRESS_ROWS = 20_000
UNREADABLE = "unreadable"  # reason of rows that the source itself could not read


@dataclass(frozen=True)
class Problem:
    """Why a record cannot be used."""

    reason: str  # one of a few names, to count by
    text: str  # what is wrong and what was expected


@dataclass
class BadRowLimit:
    """The number of bad rows so far, checked against the recipe's limit."""

    limit: int
    stage: str = "corpus"  # name of the stage with this max_bad_rows
    num_rows: int = 0
    first: str = ""  # file:line: problem

    def add(self, number: int, first: str) -> None:
        """Counts bad rows. Raises UserError, naming the first one, if there are now more than the limit."""
        self.num_rows += number
        self.first = self.first or first
        if self.num_rows > self.limit:
            raise UserError(
                f"{self.first}. It is the first of {self.num_rows:,} bad rows so far, and max_bad_rows allows "
                f"{self.limit:,}: fix the rows, or raise max_bad_rows of the {self.stage}"
            )


@dataclass
class RejectedRows:
    """Bad rows of the sources of one stage, one JSON object a line: {source, where, row, reason, problem, raw}."""

    file: Path
    limit: BadRowLimit
    reasons: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def add(self, source: str, part: Part, row: int, reason: str, problem: str, raw: str) -> None:
        """Rejects a row. Raises UserError if there are now more than the recipe's limit."""
        self.reasons[reason] += 1
        entry = {"source": source, "where": part.where, "row": row, "reason": reason, "problem": problem}
        self.lines.append(json.dumps({**entry, "raw": raw[:RAW_CHARACTERS]}, ensure_ascii=False))
        self.limit.add(1, f"{part.where}:{row}: {problem}")

    def write(self) -> None:
        """Writes the file; it is empty if no row was rejected."""
        text = "".join(f"{line}\n" for line in self.lines)
        self.file.write_text(text, encoding="utf-8", errors="replace")

    def facts(self, area: str) -> dict[str, float | int | str]:
        """Counts: <area>/rejected, and by reason."""
        return {
            f"{area}/rejected": self.reasons.total(),
            **{f"{area}/rejected_{reason}": number for reason, number in sorted(self.reasons.items())},
        }


def read_records(
    sources: Mapping[str, Source], rejected: RejectedRows
) -> Iterator[tuple[str, Part, Row, dict[str, Any]]]:
    """Yields (source's name, part, row, its record) of every row with a record; rejects the other rows.

    In the order of the sources' names. Raises UserError if a file cannot be read at all."""
    for name in sorted(sources):  # the order in the recipe is not part of a fingerprint
        for part in sources[name].parts():
            for row in sources[name].read(part):
                if isinstance(row, BadRow):
                    rejected.add(name, part, row.row, UNREADABLE, row.problem, row.raw)
                elif row.record is None:
                    problem = "holds text; expected a record with named columns (a jsonl, csv or parquet source)"
                    rejected.add(name, part, row.row, "not_a_record", problem, row.text)
                else:
                    yield name, part, row, row.record


def parse_records(
    sources: Mapping[str, Source],
    rejected: RejectedRows,
    parse: Callable[[Mapping[str, Any]], Parsed | Problem],
    text_of: Callable[[Parsed], str],
    on_progress: Callable[[int], None],
) -> Iterator[tuple[str, str, str, Parsed]]:
    """Yields (id, source's name, language, parsed record) of every record; rejects those with a problem.

    text_of: the text from which to detect the language, where neither the row nor the source names one. on_progress:
    called now and then with the number of records so far. Raises UserError as `read_records` does."""
    for number, (source, part, row, record) in enumerate(read_records(sources, rejected), 1):
        if number % PROGRESS_ROWS == 0:
            on_progress(number)
        parsed = parse(record)
        if isinstance(parsed, Problem):
            raw = str(dict(record))[:RAW_CHARACTERS]
            rejected.add(source, part, row.row, parsed.reason, parsed.text, raw)
            continue
        language = row.language or sources[source].language
        if language == "auto":
            language = language_of(text_of(parsed))
        yield f"{source}/{part.index}/{row.row}", source, language, parsed
