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


def _regularity(text: str, delimiter: str) -> float:
    """Fraction of the records that have as many cells as the header; 0 where the header has a single one."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header, *records = [cells for cells in itertools.islice(reader, SAMPLE_RECORDS) if cells] or [[]]
    if len(header) < 2 or not records:
        return 0
    return sum(len(cells) == len(header) for cells in records) / len(records)
