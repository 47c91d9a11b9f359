"""Bad rows of users' files: counted by reason, set aside, and held against the limit that the recipe allows."""

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

Understood = TypeVar("Understood")

REJECTED = "rejected.jsonl"
TELL_ROWS = 20_000
UNREADABLE = "unreadable"  # the reason of rows that the source itself could not read


@dataclass(frozen=True)
class Problem:
    """Why a record cannot be used. reason: one of a few words to count by; text: what was found and expected."""

    reason: str
    text: str


@dataclass
class BadRows:
    """Bad rows, held against the recipe's limit."""

    limit: int
    stage: str = "corpus"  # whose max_bad_rows it is
    number: int = 0
    first: str = ""  # file:line: problem

    def add(self, number: int, first: str) -> None:
        """Raises UserError, naming the first bad row, if there are now more than the limit."""
        self.number += number
        self.first = self.first or first
        if self.number > self.limit:
            raise UserError(
                f"{self.first}. It is the first of {self.number:,} bad rows found so far, and max_bad_rows allows "
                f"{self.limit:,}: mend the rows, or raise max_bad_rows of the {self.stage}"
            )


@dataclass
class SetAside:
    """Bad rows of the sources of one stage, one JSON object a line: {source, where, row, reason, problem, raw}."""

    file: Path
    bad: BadRows
    reasons: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def add(self, source: str, part: Part, row: int, reason: str, problem: str, raw: str) -> None:
        """Raises UserError if there are now more than the recipe's limit."""
        self.reasons[reason] += 1
        told = {"source": source, "where": part.where, "row": row, "reason": reason, "problem": problem}
        self.lines.append(json.dumps({**told, "raw": raw[:RAW_CHARACTERS]}, ensure_ascii=False))
        self.bad.add(1, f"{part.where}:{row}: {problem}")

    def write(self) -> None:
        """Writes the file; it is empty where every row was good."""
        text = "".join(f"{line}\n" for line in self.lines)
        self.file.write_text(text, encoding="utf-8", errors="replace")

    def facts(self, area: str) -> dict[str, float | int | str]:
        """Counts: <area>/rejected, and by reason."""
        return {
            f"{area}/rejected": self.reasons.total(),
            **{f"{area}/rejected_{reason}": number for reason, number in sorted(self.reasons.items())},
        }


def records(sources: Mapping[str, Source], aside: SetAside) -> Iterator[tuple[str, Part, Row]]:
    """(source's name, part, row) of every row with a record, by the sources' names; those unreadable are set aside.

    Raises UserError if a file cannot be read at all."""
    for name in sorted(sources):  # the order in the recipe is no part of a fingerprint
        for part in sources[name].parts():
            for row in sources[name].read(part):
                if isinstance(row, BadRow):
                    aside.add(name, part, row.row, UNREADABLE, row.problem, row.raw)
                elif row.value is None:
                    problem = "holds text; expected a record with named columns (a jsonl, csv or parquet source)"
                    aside.add(name, part, row.row, "not_a_record", problem, row.text)
                else:
                    yield name, part, row


def understood(
    sources: Mapping[str, Source],
    aside: SetAside,
    understand: Callable[[Mapping[str, Any]], Understood | Problem],
    text: Callable[[Understood], str],
    tell: Callable[[int], None],
) -> Iterator[tuple[str, str, str, Understood]]:
    """(id, source's name, language, what is understood) of every record; those with a problem are set aside.

    text: what of it tells the language, where neither the row nor the source names one. tell: called now and then with
    the number of records so far. Raises UserError as `records` does."""
    for number, (source, part, row) in enumerate(records(sources, aside), 1):
        if number % TELL_ROWS == 0:
            tell(number)
        assert row.value is not None
        found = understand(row.value)
        if isinstance(found, Problem):
            aside.add(source, part, row.row, found.reason, found.text, raw(row.value))
            continue
        language = row.language or sources[source].language
        if language == "auto":
            language = language_of(text(found))
        yield f"{source}/{part.index}/{row.row}", source, language, found


def raw(record: Mapping[str, Any]) -> str:
    """A record as a bad row shows it."""
    return str(dict(record))[:RAW_CHARACTERS]
