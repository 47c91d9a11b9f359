"""Rows of users' files that are not used: counted by reason, written to a file, checked against the recipe's limit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from pipelines.data.sources.files import RAW_CHARACTERS
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.data.text.languages import LANGUAGES, language_name, language_of, other_language
from pipelines.errors import UserError

Parsed = TypeVar("Parsed")

REJECTED = "rejected.jsonl"
PROGRESS_ROWS = 20_000
# The default of max_bad_rows: all sources together, and the share of each; of few rows five, but at most half.
DEFAULT_MAX_ROWS = 100
DEFAULT_MAX_SHARE = 0.05
DEFAULT_FEW_ROWS = 5
EARLY_ROWS, EARLY_FACTOR = 500, 2  # a share that is exceeded by this factor after so many rows stops the stage at once
UNREADABLE = "unreadable"  # reason of rows that the source itself could not read


@dataclass(frozen=True)
class Problem:
    """Why a record is not used."""

    reason: str  # one of a few names, to count by
    text: str  # what is wrong and what was expected
    by_rule: bool = False  # understood, and left out by a rule or an option: set aside, but no bad row


def default_limit(num_rows: int) -> int:
    """Number of bad rows that a source of so many may have by default.

    >>> [default_limit(rows) for rows in (1, 9, 1000, 1_000_000)]
    [0, 4, 50, 100]
    """
    return min(DEFAULT_MAX_ROWS, int(max(DEFAULT_MAX_SHARE * num_rows, min(DEFAULT_FEW_ROWS, num_rows / 2))))


@dataclass
class BadRowLimit:
    """Rows read and bad rows so far, by source, checked against the recipe's limit."""

    limit: int | str | None  # rows of all sources; "1%" of the rows of each source; None: the default
    stage: str = "corpus"  # name of the stage with this max_bad_rows
    num_rows: Counter[str] = field(default_factory=Counter)
    num_bad: Counter[str] = field(default_factory=Counter)
    firsts: dict[str, str] = field(default_factory=dict)  # file:line: problem, of each source

    @property
    def max_rows(self) -> int | None:
        """Number of bad rows that all sources together may have; None where only the share counts."""
        return DEFAULT_MAX_ROWS if self.limit is None else self.limit if isinstance(self.limit, int) else None

    def max_rows_of(self, source: str) -> float:
        """Number of bad rows that a source may have, for as many rows as were read of it."""
        num_rows = self.num_rows[source]
        if self.limit is None:
            return default_limit(num_rows)
        return inf if isinstance(self.limit, int) else float(self.limit.rstrip("%")) / 100 * num_rows

    def add(self, source: str, *, rows: int = 0, bad: int = 0, first: str = "") -> None:
        """Counts rows read and bad rows among them; first: file:line: problem of the first bad one.

        Raises UserError, naming the first bad row, if there are too many already. A share is compared at the end, and
        before only where it is exceeded by far: bad rows may stand at the beginning of a file."""
        self.num_rows[source] += rows
        if not bad:
            return
        self.num_bad[source] += bad
        self.firsts.setdefault(source, first)
        if self.max_rows is not None and self.num_bad.total() > self.max_rows:
            first, number = next(iter(self.firsts.values())), self.num_bad.total()
            raise self._error(f"{first}. It is the first of {number:,} bad rows so far", f"{self.max_rows:,}")
        if self.num_rows[source] >= EARLY_ROWS and self.num_bad[source] > EARLY_FACTOR * self.max_rows_of(source):
            raise self._share_error(source)

    def check(self) -> None:
        """At the end of all rows: raises UserError, naming the first bad row, if too many of a source are bad."""
        for source in self.firsts:
            if self.num_bad[source] > self.max_rows_of(source):
                raise self._share_error(source)

    def _share_error(self, source: str) -> UserError:
        number, num_rows = self.num_bad[source], self.num_rows[source]
        share = self.limit if self.limit is not None else f"{DEFAULT_MAX_SHARE:.0%}"
        of_few = self.limit is None and num_rows * DEFAULT_MAX_SHARE < DEFAULT_FEW_ROWS
        allowed = f"{int(self.max_rows_of(source)):,} of them" + ("" if of_few else f" ({share})")
        first = f"{self.firsts[source]}. It is the first of {number:,} bad rows among {num_rows:,} rows of {source}"
        return self._error(first, allowed)

    def _error(self, first: str, allowed: str) -> UserError:
        raise_it = f"fix the rows, or raise max_bad_rows of the {self.stage}"
        return UserError(f"{first}, and max_bad_rows allows {allowed}: {raise_it}")


@dataclass
class RejectedRows:
    """Rows of the sources of one stage that are not used, one JSON object a line: {source, where, row, reason, problem,
    raw}."""

    file: Path
    limit: BadRowLimit
    reasons: Counter[str] = field(default_factory=Counter)
    by_rule: Counter[str] = field(default_factory=Counter)  # those of the reasons that are no bad rows
    lines: list[str] = field(default_factory=list)
    firsts: dict[str, str] = field(default_factory=dict)  # by reason: file:line: problem of the first row
    other_languages: Counter[str] = field(default_factory=Counter)  # rows by the code of a language that is not used
    files: dict[str, str] = field(default_factory=dict)  # by source/part: the file, for rows set aside after reading

    def add(
        self, source: str, part: Part, row: int, reason: str, problem: str, raw: str, *, by_rule: bool = False
    ) -> None:
        """Sets a row aside. by_rule: the row is not bad, but left out by a rule or an option.

        Raises UserError, with the rows so far in the file, if there are now more bad ones than the recipe's limit."""
        self.reasons[reason] += 1
        self.by_rule[reason] += by_rule
        self.firsts.setdefault(reason, f"{part.where}:{row}: {problem}")
        entry = {"source": source, "where": part.where, "row": row, "reason": reason, "problem": problem}
        self.lines.append(json.dumps({**entry, "raw": raw[:RAW_CHARACTERS]}, ensure_ascii=False))
        if not by_rule:
            with self._kept():
                self.limit.add(source, bad=1, first=f"{part.where}:{row}: {problem}")

    def add_by_rule(self, row_id: str, reason: str, problem: str, raw: str) -> None:
        """Sets a row aside after it was read; row_id: source/part/row, as `parse_records` yields it."""
        part, row = row_id.rsplit("/", 1)
        source, where = part.rsplit("/", 1)[0], self.files.get(part, part)
        self.reasons[reason] += 1
        self.by_rule[reason] += 1
        self.firsts.setdefault(reason, f"{where}:{row}: {problem}")
        entry = {"source": source, "where": where, "row": int(row), "reason": reason, "problem": problem}
        self.lines.append(json.dumps({**entry, "raw": raw[:RAW_CHARACTERS]}, ensure_ascii=False))

    def check(self) -> None:
        """At the end of all rows: raises UserError, with the rows in the file, if too many of a source are bad."""
        with self._kept():
            self.limit.check()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Writes the rows so far where the limit stops the stage, so that all of them can be looked at."""
        try:
            yield
        except UserError as error:
            self.write()
            raise UserError(f"{error}; they are in {self.file}") from None

    def write(self) -> None:
        """Writes the file; it is empty if no row was set aside."""
        text = "".join(f"{line}\n" for line in self.lines)
        self.file.write_text(text, encoding="utf-8", errors="replace")

    def facts(self, area: str) -> dict[str, float | int | str]:
        """Counts: rows/read, rows/used and rows/not_used_<reason>; <area>/rejected, and by reason."""
        return {
            **row_facts(self.limit.num_rows.total(), self.reasons),
            f"{area}/rejected": self.reasons.total(),
            **{f"{area}/rejected_{reason}": number for reason, number in sorted(self.reasons.items())},
            **{f"{area}/other_language_{code}": number for code, number in sorted(self.other_languages.items())},
        }


def row_facts(num_rows: int, not_used: Mapping[str, int]) -> dict[str, float | int | str]:
    """The facts rows/read, rows/used and rows/not_used_<reason> of a stage; not_used: numbers of rows by reason."""
    used = num_rows - sum(not_used.values())
    reasons = {f"rows/not_used_{reason}": number for reason, number in sorted(not_used.items()) if number}
    return {"rows/read": num_rows, "rows/used": used, **reasons}


def read_records(
    sources: Mapping[str, Source], rejected: RejectedRows
) -> Iterator[tuple[str, Part, Row, dict[str, Any]]]:
    """Yields (source's name, part, row, its record) of every row with a record; sets the other rows aside.

    In the order of the sources' names. Raises UserError if a file cannot be read at all, or for too many bad rows."""
    for name in sorted(sources):  # the order in the recipe is not part of a fingerprint
        for part in sources[name].parts():
            rejected.files[f"{name}/{part.index}"] = part.where
            for row in sources[name].read(part):
                rejected.limit.add(name, rows=1)
                if isinstance(row, BadRow):
                    reason = row.reason or UNREADABLE
                    rejected.add(name, part, row.row, reason, row.problem, row.raw, by_rule=row.reason != "")
                elif row.record is None:
                    problem = "holds text; expected a record with named columns (a jsonl, csv or parquet source)"
                    rejected.add(name, part, row.row, "not_a_record", problem, row.text)
                else:
                    yield name, part, row, row.record
    rejected.check()


def parse_records(
    sources: Mapping[str, Source],
    rejected: RejectedRows,
    parse: Callable[[Mapping[str, Any]], Parsed | Problem],
    text_of: Callable[[Parsed], str],
    on_progress: Callable[[int], None],
) -> Iterator[tuple[str, str, str, Parsed]]:
    """Yields (id, source's name, language, parsed record) of every record; sets those with a problem, and those
    in other languages than English and Chinese, aside.

    text_of: the text from which to detect the language, or another one than the source names. on_progress: called
    now and then with the number of records so far. Raises UserError as `read_records` does."""
    for number, (source, part, row, record) in enumerate(read_records(sources, rejected), 1):
        if number % PROGRESS_ROWS == 0:
            on_progress(number)
        parsed = parse(record)
        if isinstance(parsed, Problem):
            raw = str(dict(record))[:RAW_CHARACTERS]
            rejected.add(source, part, row.row, parsed.reason, parsed.text, raw, by_rule=parsed.by_rule)
            continue
        language = row.language or row_language(text_of(parsed), sources[source].language)
        if language not in LANGUAGES:
            problem = f"is in {language_name(language)}; expected English or Chinese"
            rejected.other_languages[language] += 1
            rejected.add(source, part, row.row, "language", problem, str(dict(record))[:RAW_CHARACTERS], by_rule=True)
            continue
        yield f"{source}/{part.index}/{row.row}", source, language, parsed


def row_language(text: str, named: str) -> str:
    """The language of a row's text of a source whose language is named, or auto.

    English and Chinese are what the source says; another language is told where it is certain."""
    if named == "auto":
        return other_language(text, language := language_of(text)) or language
    other = other_language(text, named)
    return other if other and other not in LANGUAGES else named
