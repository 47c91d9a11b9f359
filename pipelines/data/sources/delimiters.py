"""The character between the cells of a table, found out from its first records.

first records ──cut at each of , ; tab |──► cells ──► that with which most records have as many as the header
"""

from __future__ import annotations

import csv
import io
import itertools
import re

DELIMITERS = (",", ";", "\t", "|")
NAMES = {"\t": "tab"}  # for messages
SAMPLE_BYTES = 64 << 10  # of a file
SAMPLE_RECORDS = 200
ENCLOSED = re.compile(r'"([^"]|"")*"')
ESCAPED = re.compile(r'\\(["\\])')  # \" and \\ as Spark, MySQL and pandas write a quote and a backslash within a cell
MARK = "\ud800"  # half of a surrogate pair, which no text has
ANNOUNCED = re.compile(r'"?sep=(.)"?(\r\n?|\n)', re.IGNORECASE)  # the first line that tells Excel, and is no record


def detect(text: str, usual: str) -> str:
    """The delimiter of a table, of which `text` is the beginning; `usual` where no other fits more records.

    >>> detect("name;price\\nlamp;1,50\\nchair;20,00\\n", ","), detect("text\\nOne; two.\\nThree; four.\\n", ",")
    (';', ',')
    """
    if announced := ANNOUNCED.match(text):
        return announced[1]
    candidates = (usual, *(delimiter for delimiter in DELIMITERS if delimiter != usual))
    return max(candidates, key=lambda delimiter: _regularity(text, delimiter))  # of equal ones the first


def is_announced(text: str) -> bool:
    """Whether the first line says which delimiter follows, as Excel writes and reads it."""
    return ANNOUNCED.match(text) is not None


def quotes_are_text(text: str, delimiter: str) -> bool:
    """Whether quotation marks are text like any other in a table with tabs, of which `text` is the beginning: they
    enclose no cell properly, or few, and every line has as many cells as the first without them.

    >>> [quotes_are_text(f"id\\ttext\\n1\\t{cell}\\n", "\\t") for cell in ('"Yes" is short.', '"Yes', '"A ""yes""."')]
    [True, True, False]
    """
    lines = re.split("\r\n?|\n", ANNOUNCED.sub("", text, count=1))[:SAMPLE_RECORDS]
    rows = [line.split(delimiter) for line in lines if line]
    quoted = [cell for row in rows for cell in row if cell.startswith('"')]
    if delimiter != "\t" or not quoted or any(len(row) != len(rows[0]) for row in rows):
        return False
    if len(rows[0]) < 2 or any(map(ENCLOSED.fullmatch, rows[0])):  # lines of one cell say nothing; quoted names do
        return False
    enclosed = sum(ENCLOSED.fullmatch(cell) is not None for cell in quoted)
    return 2 * enclosed <= len(quoted)


def quotes_are_escaped(text: str, delimiter: str) -> bool:
    r"""Whether a quote within a cell is written \" in a table of which `text` is the beginning: its first records are
    cells of a table so, and are none as they stand.

    >>> [quotes_are_escaped(f"id,text\n1,{cell}\n", ",") for cell in (r'"a \"b\" c"', r'"C:\"', r'"a \"b "c"')]
    [True, False, False]
    """
    return '\\"' in text and _is_broken(text, delimiter) and not _is_broken(marked(text), delimiter)


def marked(text: str) -> str:
    r"""Text with a mark for each quote that is escaped, which csv takes for a character like others.

    >>> marked(r'a \"b\", C:\\').replace(MARK, "'")
    "a 'b', C:\\"
    """
    return ESCAPED.sub(lambda match: MARK if match[1] == '"' else match[1], text)


def unmarked(cells: list[str]) -> list[str]:
    """The cells of a record of marked text, with quotes for the marks."""
    return [cell.replace(MARK, '"') for cell in cells]


def _is_broken(text: str, delimiter: str) -> bool:
    """Whether something stands between the end of a cell and the next one; the last cell of the text may be cut."""
    records = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for _ in itertools.islice(records, SAMPLE_RECORDS):
            pass
    except csv.Error as error:
        return "unexpected end" not in str(error)
    return False


def _regularity(text: str, delimiter: str) -> float:
    """Fraction of the records that have as many cells as the header; 0 where the header has a single one."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header, *records = [cells for cells in itertools.islice(reader, SAMPLE_RECORDS) if cells] or [[]]
    if len(header) < 2 or not records:
        return 0
    return sum(len(cells) == len(header) for cells in records) / len(records)
